import { NbdConnection, type ConnectionEvents } from "./connection.ts";
import { asNbdError, NbdError, NbdProtocolError } from "./errors.ts";
import type { NbdExport } from "./handshake.ts";
import { NBD_FLAG_CAN_MULTI_CONN } from "./protocol.ts";
import type { NbdRequest } from "./request.ts";
import { RequestQueue } from "./request-queue.ts";
import type { NbdTarget } from "./uri.ts";

export interface PoolOptions {
  /** Connections where the server allows several. */
  readonly connections: number;
  /** Milliseconds that requests wait for a lost server. */
  readonly reconnectDelayMs: number;
  /** Milliseconds of silence after which a server that owes answers counts as lost; 0: never. */
  readonly silenceMs: number;
  /** Throws when the export is no longer what the disk was made from. */
  accept(found: NbdExport): void;
  onError(error: Error): void;
  onReconnect(): void;
}

/**
 * A request that was under way at so many losses is what kills the server, or cannot be had from it: it is sent again for as long
 * as requests wait at all, and then fails.
 */
const MAX_LOSSES = 6;
/** Different complaints about one server; the rest is more of the same. */
const MAX_REPORTS = 8;
const FIRST_PAUSE_MS = 100;
const LONGEST_PAUSE_MS = 5000;
const CLOSE_TIMEOUT_MS = 5000;
const HANDSHAKE_MS = 30_000;

/**
 * The connections to one export, and the requests that wait for one. A lost connection is made again for as long as the pool
 * lives; what happens to requests meanwhile is QEMU's `reconnect-delay`.
 */
export class NbdPool {
  readonly #target: NbdTarget;
  readonly #options: PoolOptions;
  readonly #live: NbdConnection[] = [];
  readonly #waiting = new RequestQueue();
  /** How many connections there should be. */
  #wanted = 1;
  /** When requests no longer wait, while no connection answers. */
  #deadline: number | undefined;
  #deadlineTimer: NodeJS.Timeout | undefined;
  #pause = 0;
  #connecting = false;
  #pauseTimer: NodeJS.Timeout | undefined;
  /** What was told since there was a connection. */
  readonly #reported = new Set<string>();
  #closed = false;
  readonly #closing = new AbortController();

  constructor(target: NbdTarget, options: PoolOptions) {
    this.#target = target;
    this.#options = options;
  }

  /** The first connection; at most so many milliseconds. */
  async open(limitMs: number): Promise<NbdExport> {
    const first = await this.#connect(Math.min(limitMs, HANDSHAKE_MS));
    this.#maintain();
    return first.export;
  }

  /** Sends it, now or later; `request.done` tells. */
  submit(request: NbdRequest): void {
    if (this.#closed) request.fail(new NbdError("EIO", "the NBD disk is closed"));
    else if (this.#live.length === 0 && !this.#patient) request.fail(notConnected());
    else {
      this.#waiting.push(request);
      this.#pump();
    }
  }

  /** What is under way may end; what waits fails. */
  async close(): Promise<void> {
    this.#closed = true;
    this.#closing.abort();
    clearTimeout(this.#pauseTimer);
    clearTimeout(this.#deadlineTimer);
    this.#failWaiting(() => new NbdError("EIO", "the NBD disk is closed"));
    await Promise.all(this.#live.map((connection) => connection.close(CLOSE_TIMEOUT_MS)));
  }

  /** Without a connection: whether requests still wait for one. */
  get #patient(): boolean {
    return this.#deadline !== undefined && Date.now() < this.#deadline;
  }

  #pump(): void {
    for (;;) {
      const connection = this.#leastBusy();
      if (connection === undefined) return;
      let underWay = 0;
      for (const { inFlight } of this.#live) underWay += inFlight;
      const request = this.#waiting.next(underWay);
      if (request === undefined) return;
      connection.send(request);
    }
  }

  #leastBusy(): NbdConnection | undefined {
    let best: NbdConnection | undefined;
    for (const connection of this.#live) {
      if (!connection.hasRoom) continue;
      if (best === undefined || connection.inFlight < best.inFlight) best = connection;
    }
    return best;
  }

  async #connect(handshakeMs: number): Promise<NbdConnection> {
    const events: ConnectionEvents = {
      ready: () => this.#pump(),
      shed: (request) => this.#again([request], new NbdError("EIO", "the NBD server shuts down")),
      silent: (ms) =>
        this.#options.onError(
          new NbdError("EIO", `the NBD server has not answered for ${ms / 1000} s; requests wait`),
        ),
      lost: (connection, error, pending) => this.#lost(connection, error, pending),
    };
    const times = { handshakeMs, silenceMs: this.#options.silenceMs };
    const connection = await NbdConnection.open(this.#target, events, times, this.#closing.signal);
    try {
      if (this.#closed) throw new NbdError("EIO", "the NBD disk is closed");
      this.#options.accept(connection.export);
    } catch (error) {
      await connection.close(0);
      throw error;
    }
    this.#live.push(connection);
    if (this.#live.length === 1) {
      const several = (connection.export.flags & NBD_FLAG_CAN_MULTI_CONN) !== 0;
      this.#wanted = several ? this.#options.connections : 1;
    }
    return connection;
  }

  #lost(connection: NbdConnection, error: NbdError, pending: readonly NbdRequest[]): void {
    const index = this.#live.indexOf(connection);
    // One that was never used, or was sent away.
    if (index < 0) return;
    this.#live.splice(index, 1);
    if (this.#closed) {
      for (const request of pending) request.fail(error);
      return;
    }
    const { productive } = connection;
    // What is lost with each connection is not asked at once again.
    if (productive && pending.every(({ losses }) => losses === 0)) this.#pause = 0;
    this.#report(error, !(error instanceof NbdProtocolError));
    if (this.#live.length === 0 && (productive || this.#deadline === undefined)) this.#lastLost();
    this.#again(pending, error);
    if (this.#live.length === 0 && !this.#patient) this.#failWaiting(notConnected);
    this.#maintain();
    this.#pump();
  }

  /** "During the first reconnect-delay seconds, all requests are paused and will be rerun on a successful reconnect." */
  #lastLost(): void {
    const delay = this.#options.reconnectDelayMs;
    this.#deadline = Date.now() + delay;
    clearTimeout(this.#deadlineTimer);
    if (delay === 0) return;
    this.#deadlineTimer = setTimeout(() => {
      if (this.#live.length === 0) this.#failWaiting(notConnected);
    }, delay);
  }

  /** Requests that were under way go to the front, or fail. Repeating one changes nothing: each says where and what. */
  #again(requests: readonly NbdRequest[], error: NbdError): void {
    const kept: NbdRequest[] = [];
    const now = performance.now();
    for (const request of requests) {
      if (request.losses++ === 0) request.lostSince = now;
      const often = request.losses >= MAX_LOSSES && now - request.lostSince >= this.#options.reconnectDelayMs;
      const hopeless = often || error instanceof NbdProtocolError;
      if (hopeless || (this.#live.length === 0 && !this.#patient)) request.fail(error);
      else kept.push(request);
    }
    this.#waiting.putBack(kept);
  }

  #failWaiting(error: () => NbdError): void {
    for (const request of this.#waiting.takeAll()) request.fail(error());
  }

  /** Makes connections until there are as many as should be. */
  #maintain(): void {
    if (this.#closed || this.#connecting || this.#live.length >= this.#wanted) return;
    this.#connecting = true;
    this.#pauseTimer = setTimeout(() => {
      this.#connect(HANDSHAKE_MS).then(
        () => this.#connected(),
        (error: unknown) => this.#failed(asNbdError(error)),
      );
    }, this.#pause);
    // A server that is back while requests still wait is to be noticed in time.
    const longest = this.#patient ? this.#options.reconnectDelayMs / 4 : LONGEST_PAUSE_MS;
    this.#pause = Math.max(FIRST_PAUSE_MS, Math.min(2 * this.#pause, longest, LONGEST_PAUSE_MS));
  }

  #connected(): void {
    this.#connecting = false;
    if (this.#deadline !== undefined && this.#live.length === 1) this.#options.onReconnect();
    this.#reported.clear();
    // Further connections of a server that takes them need no pause.
    if (this.#live.length > 1) this.#pause = 0;
    this.#pump();
    this.#maintain();
  }

  #failed(error: NbdError): void {
    this.#connecting = false;
    if (this.#closed) return;
    // A server that takes no further connection serves well on those it has.
    if (this.#live.length > 0) this.#wanted = this.#live.length;
    else this.#report(error, error.cause !== undefined);
    this.#maintain();
  }

  /**
   * That the server is away is told once each time, not with each attempt; what it says against us, once for each thing it says.
   */
  #report(error: NbdError, away: boolean): void {
    const what = away ? "away" : error.message;
    if (this.#reported.has(what) || this.#reported.size >= MAX_REPORTS) return;
    this.#reported.add(what);
    this.#options.onError(error);
  }
}

function notConnected(): NbdError {
  return new NbdError("EIO", "there is no connection to the NBD server");
}
