import { hasFeature } from "virtio/spec/core";
import { Descriptor, closeAll } from "../native/descriptor.ts";
import type { Poller } from "@virtio/node/native/poller";
import { mainLoopPoller } from "../native/poller.ts";
import { UnixSocket } from "../native/unix-socket.ts";
import * as vu from "../protocol/numbers.ts";
import { decodeSessionId, encodeCryptoSession, type CryptoSession } from "../protocol/crypto-session.ts";
import { encodeMemoryTable, encodeRegion, encodeU64 } from "../protocol/payloads.ts";
import { BackendRequests, type BackendRequestHost } from "./backend-requests.ts";
import { Connection } from "./connection.ts";
import { KeptInflight } from "./inflight.ts";
import { featureWord, negotiate, readConfig, readWholeConfig, type BackendOffer } from "./offer.ts";
import type { FrontendOptions } from "./options.ts";
import type { FrontendRing } from "./ring.ts";
import type { SharedMemory } from "./shared-memory.ts";
import type { SharedObjectTable } from "./shared-objects.ts";

/** What becomes known without being asked for. */
export interface LinkListener {
  /** The back-end cannot be used any more. */
  failed(error: Error): void;
  configurationChanged(): void;
  /** Another back-end took over what the last one held. */
  resumed(): void;
  /** The device's own idea of its status, where it has one. */
  statusRead(status: number): void;
}

const TIMEOUT = 5000;
const RECONNECT_DELAY = 100;
const RECONNECT_GIVE_UP = 10_000;
const NO_OFFER: BackendOffer = { features: 0n, extended: false, protocol: 0n, queues: undefined };

/** What the driver has set up, and the back-end that is told of it: one, or with `reconnect` one after the other. */
export class BackendLink implements BackendRequestHost {
  readonly poller: Poller;
  /** The configuration space as it was read last. */
  config: Uint8Array = new Uint8Array();
  readonly #options: FrontendOptions;
  readonly #memory: SharedMemory;
  readonly #listener: LinkListener;
  #connection: Connection | undefined;
  #requests: BackendRequests | undefined;
  #offer: BackendOffer = NO_OFFER;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #settled = false;
  #closed = false;
  /** Changes with every start and reset: what waited for an answer in between is of no use any more. */
  #life = 0;
  #features: bigint | undefined;
  #memoryShared = false;
  #status = 0;
  /** Those that run. */
  #rings: FrontendRing[] = [];
  #inflight: KeptInflight | undefined;
  #starting: Promise<void> | undefined;

  constructor(options: FrontendOptions, memory: SharedMemory, listener: LinkListener) {
    this.poller = options.poller ?? mainLoopPoller;
    this.#options = options;
    this.#memory = memory;
    this.#listener = listener;
  }

  get offer(): BackendOffer {
    return this.#offer;
  }

  /** Connects and negotiates. Throws when that cannot be; `close` then, too. */
  async open(): Promise<void> {
    const { socket, timeout = TIMEOUT, deviceId, configLength, reconnect } = this.#options;
    const unix =
      typeof socket === "number" ? new UnixSocket(new Descriptor(socket)) : UnixSocket.connect(socket);
    const connection = new Connection(unix, this.poller, timeout, (error) => this.#lost(error));
    this.#connection = connection;
    this.#memoryShared = false;
    const extra = [
      ...(reconnect === undefined ? [] : [vu.PROTOCOL_F_INFLIGHT_SHMFD]),
      ...(this.#options.sharedObjects === undefined ? [] : [vu.PROTOCOL_F_SHARED_OBJECT]),
    ];
    this.#offer = await negotiate(connection, extra);
    if (this.#has(vu.PROTOCOL_F_CONFIG))
      this.config = await readWholeConfig(connection, deviceId, configLength);
    else this.config = this.#options.config ?? new Uint8Array();
    // Whoever closed meanwhile would not know of what is made from here on.
    if (this.#closed) throw new Error("the connection was closed");
    if (this.#has(vu.PROTOCOL_F_BACKEND_REQ)) {
      this.#requests = new BackendRequests(this.poller, this);
      connection.tell(vu.SET_BACKEND_REQ_FD, undefined, [this.#requests.theirs]);
      this.#requests.theirs.close();
    }
    this.#settled = true;
  }

  setFeatures(features: bigint): void {
    this.#features = features;
    const connection = this.#ready;
    if (connection === undefined) return;
    connection.tell(vu.SET_FEATURES, featureWord(this.#offer, features));
    if (this.#memoryShared) return;
    this.#memoryShared = true;
    const { region, descriptor } = this.#memory;
    if (this.#has(vu.PROTOCOL_F_CONFIGURE_MEM_SLOTS))
      connection.tell(vu.ADD_MEM_REG, encodeRegion(region), [descriptor]);
    else connection.tell(vu.SET_MEM_TABLE, encodeMemoryTable([region]), [descriptor]);
  }

  setStatus(status: number): void {
    this.#status = status;
    if (this.#has(vu.PROTOCOL_F_STATUS)) this.#ready?.tell(vu.SET_STATUS, encodeU64(status));
  }

  /** DRIVER_OK, with the virtqueues that there are. */
  start(status: number, rings: readonly FrontendRing[]): void {
    this.#status = status;
    this.#rings = [...rings];
    this.#starting = this.#begin(false);
  }

  /** Resolves when the back-end has done all that it was told. */
  async settled(): Promise<void> {
    await this.#starting;
    await this.#ready?.askU64(vu.GET_FEATURES);
  }

  /** A virtqueue more. */
  startOne(ring: FrontendRing): void {
    this.#rings.push(ring);
    const connection = this.#ready;
    if (connection === undefined) return;
    ring.start(connection, this.#memory, false);
    if (this.#offer.extended) ring.enable(connection, true);
  }

  /** Resolves when the back-end has let go of them. Rejects when it is gone. */
  async stop(rings: readonly FrontendRing[]): Promise<void> {
    this.#rings = this.#rings.filter((ring) => !rings.includes(ring));
    const connection = this.#ready;
    if (connection === undefined) return;
    const { extended } = this.#offer;
    await Promise.all(
      rings.map((ring) => {
        if (extended) ring.enable(connection, false);
        return ring.stop(connection);
      }),
    );
  }

  /** Resolves when the back-end has let go of these virtqueues and forgotten the driver, or is gone. */
  async reset(rings: readonly FrontendRing[]): Promise<void> {
    this.#life++;
    this.#features = undefined;
    this.#status = 0;
    try {
      await this.stop(rings);
      await this.#resetDevice(rings.length > 0);
    } catch {
      // It is gone, which is told elsewhere; then it holds nothing.
    }
    this.#inflight?.close();
    this.#inflight = undefined;
  }

  /** `body`: of SET_CONFIG. */
  writeConfig(body: Uint8Array): void {
    if (!this.#has(vu.PROTOCOL_F_CONFIG)) return;
    this.#ready?.tell(vu.SET_CONFIG, body);
    void this.#refresh(false);
  }

  /** The session's id; negative: the device does not create it. Rejects when the back-end keeps no sessions, or is gone. */
  async createCryptoSession(session: CryptoSession): Promise<number> {
    const { payload, descriptors } = await this.#cryptoConnection.ask(
      vu.CREATE_CRYPTO_SESSION,
      encodeCryptoSession(session),
    );
    closeAll(descriptors);
    return decodeSessionId(payload);
  }

  closeCryptoSession(id: number): void {
    this.#cryptoConnection.tell(vu.CLOSE_CRYPTO_SESSION, encodeU64(id));
  }

  close(): void {
    this.#closed = true;
    this.#life++;
    clearTimeout(this.#timer);
    this.#connection?.close();
    this.#connection = undefined;
    this.#dropRequests();
    this.#inflight?.close();
    this.#rings = [];
  }

  // ---- BackendRequestHost

  configurationChanged(): void {
    void this.#refresh(true);
  }

  get objects(): SharedObjectTable | undefined {
    return this.#has(vu.PROTOCOL_F_SHARED_OBJECT) ? this.#options.sharedObjects : undefined;
  }

  /** For back-ends that look for what this one exports. */
  async getSharedObject(uuid: Uint8Array): Promise<Descriptor | undefined> {
    const answer = await this.#ready?.ask(vu.GET_SHARED_OBJECT, uuid);
    const [first, ...others] = answer?.descriptors ?? [];
    if (others.length === 0) return first;
    closeAll(answer?.descriptors ?? []);
    return undefined;
  }

  get #cryptoConnection(): Connection {
    const connection = this.#ready;
    if (connection === undefined) throw new Error("the back-end is gone");
    if (!this.#has(vu.PROTOCOL_F_CRYPTO_SESSION)) throw new Error("the back-end keeps no crypto sessions");
    return connection;
  }

  /** The back-end that can be told things: not while it is still asked what it offers. */
  get #ready(): Connection | undefined {
    return this.#settled ? this.#connection : undefined;
  }

  #has(bit: number): boolean {
    return hasFeature(this.#offer.protocol, bit);
  }

  async #resetDevice(ran: boolean): Promise<void> {
    const connection = this.#ready;
    if (connection === undefined) return;
    if (this.#has(vu.PROTOCOL_F_STATUS)) {
      connection.tell(vu.SET_STATUS, encodeU64(0));
      const deadline = Date.now() + (this.#options.timeout ?? TIMEOUT);
      while ((await connection.askU64(vu.GET_STATUS)) !== 0n) {
        if (Date.now() > deadline) return connection.fail(new Error("the reset never completes"));
        await new Promise<void>((resolve) => void setTimeout(resolve, 1));
      }
    } else if (ran && this.#has(vu.PROTOCOL_F_RESET_DEVICE)) {
      connection.tell(vu.RESET_DEVICE);
      // Answered in order: when this is, that is done.
      await connection.askU64(vu.GET_FEATURES);
    }
  }

  /** Starts the rings. `again`: they ran with another back-end, whose record the next one goes on from. */
  async #begin(again: boolean): Promise<void> {
    const life = ++this.#life;
    const connection = this.#ready;
    if (connection === undefined) return;
    try {
      if (this.#has(vu.PROTOCOL_F_INFLIGHT_SHMFD) && this.#rings.length > 0) {
        if (!again || this.#inflight === undefined) {
          const queues = Math.max(...this.#rings.map(({ config }) => config.index)) + 1;
          const size = Math.max(...this.#rings.map(({ config }) => config.size));
          const kept = await KeptInflight.get(connection, queues, size);
          if (life !== this.#life) return kept.close();
          this.#inflight?.close();
          this.#inflight = kept;
        }
        this.#inflight.give(connection);
      }
      for (const ring of this.#rings) ring.start(connection, this.#memory, again);
      if (this.#offer.extended) for (const ring of this.#rings) ring.enable(connection, true);
      this.setStatus(this.#status);
      if (!this.#has(vu.PROTOCOL_F_STATUS)) return;
      const status = Number(await connection.askU64(vu.GET_STATUS));
      if (life === this.#life) this.#listener.statusRead(status);
    } catch (error) {
      connection.fail(error);
    }
  }

  /** Reads the configuration space again. `announced`: the back-end says that it has changed. */
  async #refresh(announced: boolean): Promise<void> {
    const connection = this.#ready;
    if (connection === undefined) return;
    try {
      const before = this.config;
      const bytes = before.length === 0 ? before : await readConfig(connection, before.length);
      if (this.#has(vu.PROTOCOL_F_STATUS) && announced)
        this.#listener.statusRead(Number(await connection.askU64(vu.GET_STATUS)));
      if (bytes === undefined) return;
      const same = bytes.every((byte, i) => byte === before[i]);
      this.config = bytes;
      if (!same || announced) this.#listener.configurationChanged();
    } catch (error) {
      connection.fail(error);
    }
  }

  /** What the back-end exported went with it. */
  #dropRequests(): void {
    this.#requests?.close();
    this.#requests = undefined;
    this.#options.sharedObjects?.forget(this);
  }

  #lost(error: Error): void {
    this.#connection = undefined;
    this.#dropRequests();
    const { reconnect, socket } = this.#options;
    // Before that `open` says so.
    if (this.#closed || !this.#settled) return;
    this.#settled = false;
    const kept = this.#rings.length === 0 || this.#inflight !== undefined;
    if (reconnect === undefined || typeof socket !== "string" || !kept) return this.#listener.failed(error);
    void this.#reconnect(error);
  }

  async #reconnect(error: Error): Promise<void> {
    const { delay = RECONNECT_DELAY, giveUp = RECONNECT_GIVE_UP } = this.#options.reconnect ?? {};
    const deadline = Date.now() + giveUp;
    while (!this.#settled) {
      await new Promise<void>((resolve) => (this.#timer = setTimeout(resolve, delay)));
      if (this.#closed) return;
      try {
        await this.open();
      } catch (failure) {
        this.#connection?.close();
        this.#connection = undefined;
        if (this.#closed) return;
        if (Date.now() < deadline) continue;
        const cause = failure instanceof Error ? failure.message : String(failure);
        return this.#listener.failed(new Error(`${error.message}, and no other came: ${cause}`));
      }
    }
    await this.#resume();
  }

  /** The next back-end is told what the last one knew. */
  async #resume(): Promise<void> {
    const features = this.#features;
    if (features !== undefined) {
      const missing = features & ~this.#offer.features;
      if (missing !== 0n) {
        const error = new Error(`the next back-end does not offer features 0x${missing.toString(16)}`);
        this.#connection?.close(error);
        return this.#listener.failed(error);
      }
      this.setFeatures(features);
    }
    if (this.#rings.length === 0) return this.setStatus(this.#status);
    this.#starting = this.#begin(true);
    // It cannot know which kicks the last one had seen.
    for (const ring of this.#rings) ring.kick();
    await this.#starting;
    this.#listener.resumed();
    this.#listener.configurationChanged();
  }
}
