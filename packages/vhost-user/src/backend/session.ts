import type { DeviceInstance } from "virtio/device/instance";
import { VIRTIO_F_ACCESS_PLATFORM, VIRTIO_F_RING_PACKED, featureBits, hasFeature } from "virtio/spec/core";
import { featureList } from "virtio/spec/feature-names";
import { Channel, type Message } from "../channel/channel.ts";
import type { MemoryTable } from "../memory/memory-table.ts";
import type { PeerFiles } from "../memory/peer-file.ts";
import { closeAll } from "../native/descriptor.ts";
import type { Poller } from "@virtio/node/native/poller";
import { UnixSocket } from "../native/unix-socket.ts";
import type { Watch } from "@virtio/node/native/poller";
import { PeerError, asError, reject } from "../protocol/errors.ts";
import * as vu from "../protocol/numbers.ts";
import * as payload from "../protocol/payloads.ts";
import { requestRule, type RequestRule } from "../protocol/requests.ts";
import { CryptoSessions, keepsCryptoSessions } from "./crypto-sessions.ts";
import { Beginning } from "./beginning.ts";
import { SESSION_FEATURES, protocolFeatures } from "./features.ts";
import { Luggage, u64, type Handled, type Handler, type Register } from "./handlers.ts";
import type { InflightQueue } from "./inflight.ts";
import type { DeviceLife } from "./life.ts";
import { BackendRing, type RingHost } from "./ring.ts";
import { registerRings } from "./ring-messages.ts";
import { registerNet } from "./net-messages.ts";
import type { Refusals } from "./refusals.ts";
import { SessionInflight, type SessionInflightHost } from "./session-inflight.ts";
import { SessionMemory, type SessionMemoryHost } from "./session-memory.ts";
import { SharedObjects, sharesObjects } from "./shared-objects.ts";
import { StateTransfer } from "./state-transfer.ts";
import { Upcalls } from "./upcalls.ts";

/** Messages worked on in a row before other connections have their turn. */
const MESSAGES_A_TURN = 64;

/** What a session serves; it outlives the session. */
export interface ServedDevice {
  readonly instance: DeviceInstance;
  readonly life: DeviceLife;
  readonly memory: MemoryTable;
  /** Where descriptors that are to be mapped come in. */
  readonly files: PeerFiles;
  readonly poller: Poller;
  readonly refusals: Refusals;
  /** GET_QUEUE_NUM. */
  readonly queueCount: number;
}

/** One connection of a front-end, from its first message to its end. */
export class BackendSession implements RingHost, SessionMemoryHost, SessionInflightHost {
  readonly memory: MemoryTable;
  readonly files: PeerFiles;
  readonly poller: Poller;
  readonly #served: ServedDevice;
  readonly #instance: DeviceInstance;
  readonly #life: DeviceLife;
  readonly #channel: Channel;
  readonly rings: readonly BackendRing[];
  readonly #sessionMemory: SessionMemory;
  readonly #beginning: Beginning;
  readonly #ended: (error: Error | undefined) => void;
  readonly #handlers = new Map<number, Handler>();
  #watch: Watch | undefined;
  #busy: Promise<void> | undefined;
  #over = false;
  #protocol = 0n;
  readonly #inflight: SessionInflight;
  #upcalls: Upcalls | undefined;
  readonly #objects: SharedObjects | undefined;
  readonly #crypto: CryptoSessions | undefined;
  /** The configuration changed while no ring ran, and nothing may be sent then. */
  #configChanged = false;
  readonly #transfer = new StateTransfer();

  /** `ended` is called once, when the connection is over; `close` must be called then, too. */
  constructor(served: ServedDevice, socket: UnixSocket, ended: (error: Error | undefined) => void) {
    this.#served = served;
    this.#instance = served.instance;
    this.#life = served.life;
    this.memory = served.memory;
    this.files = served.files;
    this.poller = served.poller;
    this.#ended = ended;
    this.#channel = new Channel(socket);
    const isNet = served.instance.device.name === "net";
    this.rings = served.instance.device.queues.flatMap((spec, index) => {
      const registers = served.instance.queue(index);
      if (registers === undefined) return [];
      // "in the disabled state the back-end must … process and discard any TX packets"
      const disabled = isNet && spec.name.startsWith("transmit") ? "discard" : "hold";
      return [new BackendRing(registers, this, disabled)];
    });
    this.#beginning = new Beginning(this.#life, this.rings, () => this.#has(vu.PROTOCOL_F_STATUS));
    served.instance.notifier = {
      usedBuffer: (index) => this.rings[index]?.signalUsed(),
      configurationChange: () => {
        this.#configChanged = true;
        this.#tellConfig();
      },
    };
    served.instance.onFault = ({ queue }) => {
      for (const ring of this.rings) if (queue === undefined || queue === ring.index) ring.signalError();
    };
    this.#sessionMemory = new SessionMemory(this.memory, this);
    this.#inflight = new SessionInflight(this);
    const { device } = served.instance;
    if (sharesObjects(device)) this.#objects = new SharedObjects(device, () => this.suspended());
    if (keepsCryptoSessions(device)) this.#crypto = new CryptoSessions(device);
    this.#register();
  }

  /** Listens to the front-end. */
  begin(): void {
    this.#listen();
  }

  /**
   * Ends the connection: takes no more chains, waits for those that are being worked on, gives everything back and
   * resets the device.
   */
  async close(): Promise<void> {
    this.#finish(undefined);
    const cancelled = this.#transfer.cancel();
    try {
      await this.#busy;
      await cancelled;
      await this.#stopRings();
      await this.#crypto?.close();
    } finally {
      // A device that throws keeps nothing of this front-end's from being given back.
      try {
        await this.#life.reset();
      } finally {
        this.#release();
      }
    }
  }

  #release(): void {
    for (const ring of this.rings) ring.close();
    this.#upcalls?.close();
    this.#upcalls = undefined;
    this.#inflight.close();
    this.#sessionMemory.close();
    this.#life.features = 0n;
    this.#channel.close();
    this.#instance.notifier = undefined;
  }

  get instance(): DeviceInstance {
    return this.#instance;
  }

  get upcalls(): Upcalls | undefined {
    return this.#upcalls;
  }

  // ---- RingHost

  get packed(): boolean {
    return hasFeature(this.#life.features, VIRTIO_F_RING_PACKED);
  }

  ringAddress(address: number): number | undefined {
    return this.memory.iotlb === undefined ? this.memory.guestAddress(address) : address;
  }

  missing(address: number): void {
    if (this.memory.iotlb !== undefined) this.#upcalls?.translationMissing(address);
  }

  inflight(index: number, size: number): InflightQueue | undefined {
    return this.#inflight.queue(index, size);
  }

  starting(): boolean {
    if (!this.suspended()) return true;
    // A driver with other features is another one.
    if (!this.#life.stale) return !this.#life.resetting;
    const reset = this.#life.reset();
    if (!this.#life.resetting) return true;
    void reset.then(() => this.#guard(() => this.#startAll()));
    return false;
  }

  started(ring: BackendRing): void {
    // A back-end that was killed may have used buffers and not have said so: the driver looks.
    ring.signalUsed();
    this.#beginning.consider();
    this.#tellConfig();
    this.#objects?.started();
  }

  broken(error: unknown): void {
    this.#finish(asError(error));
  }

  #guard(task: () => void): void {
    try {
      if (!this.#over) task();
    } catch (error) {
      this.broken(error);
    }
  }

  #startAll(): void {
    for (const ring of this.rings) ring.tryStart();
  }

  /** "While all vrings are stopped … not send any messages to the front-end". */
  #tellConfig(): void {
    if (!this.#configChanged || this.suspended()) return;
    this.#configChanged = false;
    this.#upcalls?.configurationChanged();
  }

  notify(index: number): void {
    if (!this.#life.live) {
      this.#guard(() => this.#beginning.consider());
      // The ring remembers the kick.
      if (!this.#life.live) return;
    }
    this.#instance.notify(index);
  }

  suspended(): boolean {
    return !this.rings.some((ring) => ring.running);
  }

  // ---- messages

  #has(bit: number): boolean {
    return hasFeature(this.#protocol, bit);
  }

  #listen(): void {
    if (this.#over) return;
    try {
      this.#watch = this.poller.watch(this.#channel.socket.fd, () => this.#pump());
    } catch (error) {
      this.#finish(asError(error));
    }
  }

  #finish(error: Error | undefined): void {
    this.#watch?.stop();
    this.#watch = undefined;
    if (this.#over) return;
    this.#over = true;
    // Requests that wait for the front-end's word go on without it: who ends waits for them.
    this.#upcalls?.abandon();
    let reason = error;
    try {
      this.#objects?.detach();
    } catch (trouble) {
      reason ??= asError(trouble);
    }
    this.#ended(reason);
  }

  /** Works on messages in their order; while one takes its time, the next ones stay in the socket. */
  #pump(): void {
    try {
      for (let i = 0; i < MESSAGES_A_TURN && !this.#over && this.#busy === undefined; i++) {
        const message = this.#channel.receive();
        if (message === "later") return;
        if (message === "end") return this.#finish(undefined);
        this.#work(message);
      }
    } catch (error) {
      this.#finish(asError(error));
    }
  }

  #work(message: Message): void {
    const luggage = new Luggage(message.descriptors);
    const rule = requestRule(message.request);
    this.#instance.observer?.register?.(
      this.#instance,
      "write",
      `vhost-user ${rule?.name ?? message.request}`,
      message.payload[0] ?? 0,
    );
    let handled: Handled | Promise<Handled>;
    try {
      handled = this.#handle(message, rule, luggage);
    } catch (error) {
      return this.#failed(message, rule, luggage, error);
    }
    if (!(handled instanceof Promise)) return this.#answer(message, luggage, handled);
    this.#watch?.stop();
    this.#busy = handled
      .then(
        (reply) => this.#answer(message, luggage, reply),
        (error: unknown) => this.#failed(message, rule, luggage, error),
      )
      .then(
        () => {
          this.#busy = undefined;
          this.#listen();
        },
        (error: unknown) => {
          this.#busy = undefined;
          this.#finish(asError(error));
        },
      );
  }

  #handle(message: Message, rule: RequestRule | undefined, luggage: Luggage): Handled | Promise<Handled> {
    const handler = this.#handlers.get(message.request);
    if (rule === undefined || handler === undefined) reject(`request ${message.request} is not supported`);
    if (message.reply) reject(`${rule.name}: a reply that nobody asked for`);
    if (rule.needs !== undefined && !this.#has(rule.needs)) reject(`${rule.name} was not negotiated`);
    if (luggage.count > rule.descriptors) reject(`${rule.name} with ${luggage.count} descriptors`);
    return handler(message.payload, luggage);
  }

  #answer({ request, needReply }: Message, luggage: Luggage, reply: Handled): void {
    luggage.close();
    if (this.#over) return closeAll(reply?.descriptors ?? []);
    const acknowledged = needReply && this.#has(vu.PROTOCOL_F_REPLY_ACK) ? u64(0) : undefined;
    const answer = reply ?? acknowledged;
    if (answer === undefined) return;
    const { descriptors = [] } = answer;
    const sent = this.#channel.send(request, answer.payload, { reply: true, descriptors });
    closeAll(descriptors);
    if (!sent) this.#finish(undefined);
  }

  /** A request that was not done: said where the front-end listens, else the connection ends. */
  #failed(message: Message, rule: RequestRule | undefined, luggage: Luggage, error: unknown): void {
    luggage.close();
    const polite = message.needReply && this.#has(vu.PROTOCOL_F_REPLY_ACK) && rule?.replies !== true;
    if (!(error instanceof PeerError) || !polite) return this.#finish(asError(error));
    this.#served.refusals.add(error);
    if (!this.#over && !this.#channel.send(message.request, u64(1).payload, { reply: true }))
      this.#finish(undefined);
  }

  #register(): void {
    const on: Register = (request, handler) => void this.#handlers.set(request, handler);
    this.#onFeatures(on);
    this.#sessionMemory.register(on);
    this.#inflight.register(on);
    this.#objects?.register(on);
    this.#crypto?.register(on);
    registerNet(on, this.#instance.device);
    registerRings(on, this.rings, this.#beginning);
    this.#onDevice(on);
  }

  #onFeatures(on: Register): void {
    const { instance } = this.#served;
    const offered =
      instance.offered |
      featureBits(vu.VHOST_USER_F_PROTOCOL_FEATURES, vu.VHOST_F_LOG_ALL, VIRTIO_F_ACCESS_PLATFORM);
    const protocol = protocolFeatures(instance.device);
    on(vu.GET_FEATURES, () => u64(offered));
    on(vu.SET_FEATURES, (body) => this.#setFeatures(payload.decodeU64(body), offered));
    on(vu.GET_PROTOCOL_FEATURES, () => u64(protocol));
    on(vu.SET_PROTOCOL_FEATURES, (body) => {
      const chosen = payload.decodeU64(body);
      if ((chosen & ~protocol) !== 0n) reject("protocol features that were not offered");
      this.#protocol = chosen;
      return undefined;
    });
    on(vu.SET_OWNER, () => undefined);
    on(vu.GET_QUEUE_NUM, () => u64(this.#served.queueCount));
  }

  #setFeatures(features: bigint, offered: bigint): Handled {
    const strange = features & ~offered & ~SESSION_FEATURES;
    if (strange !== 0n) reject(`${featureList(this.#instance.id, strange)} was not offered`);
    const own = features & ~SESSION_FEATURES;
    const running = this.rings.some((ring) => ring.running);
    const translated = hasFeature(features, VIRTIO_F_ACCESS_PLATFORM);
    const changed = own !== this.#life.features || translated !== this.#sessionMemory.translated;
    if (running && changed) reject("other features while rings run");
    this.#life.features = own;
    this.#sessionMemory.translated = translated;
    this.#sessionMemory.logAll = hasFeature(features, vu.VHOST_F_LOG_ALL);
    if (!hasFeature(features, vu.VHOST_USER_F_PROTOCOL_FEATURES))
      for (const ring of this.rings) ring.enabled = true;
    return undefined;
  }

  #onDevice(on: Register): void {
    const instance = this.#instance;
    on(vu.GET_CONFIG, (body) => {
      const { offset, flags, bytes } = payload.decodeConfig(body);
      instance.readConfigBytes(offset, bytes);
      return { payload: payload.encodeConfig({ offset, flags, bytes }) };
    });
    on(vu.SET_CONFIG, (body) => {
      const { offset, bytes } = payload.decodeConfig(body);
      instance.writeConfigBytes(offset, bytes);
      return undefined;
    });
    on(vu.SET_BACKEND_REQ_FD, (_, luggage) => {
      const descriptor = luggage.one();
      let upcalls: Upcalls;
      try {
        upcalls = new Upcalls(new UnixSocket(descriptor), this.poller);
      } catch {
        descriptor.close();
        return reject("cannot wait for answers on the back-end's socket");
      }
      this.#upcalls?.close();
      this.#upcalls = upcalls;
      if (this.#has(vu.PROTOCOL_F_SHARED_OBJECT))
        this.#objects?.attach(upcalls, this.#has(vu.PROTOCOL_F_REPLY_ACK));
      return undefined;
    });
    on(vu.GET_STATUS, () => u64(this.#life.status));
    on(vu.SET_STATUS, (body) => {
      const status = Number(BigInt.asUintN(8, payload.decodeU64(body)));
      if (status === 0) return this.#reset();
      this.#beginning.status(status);
      return undefined;
    });
    on(vu.RESET_DEVICE, async () => {
      for (const ring of this.rings) ring.enabled = false;
      return this.#reset();
    });
    on(vu.RESET_OWNER, () => {
      for (const ring of this.rings) ring.enabled = false;
      return undefined;
    });
    this.#transfer.register(on, {
      device: instance.device,
      suspended: () => this.suspended(),
      reset: () => this.#life.reset(),
      refusals: this.#served.refusals,
    });
  }

  async #stopRings(): Promise<void> {
    for (const ring of this.rings) await ring.stop();
  }

  async #reset(): Promise<Handled> {
    this.#beginning.reset();
    await this.#stopRings();
    await this.#life.reset();
    return undefined;
  }
}
