import { partOption } from "../check-option.ts";
import type { NetBackend, NetPort } from "./net.ts";

/** Frames that wait for one slow receiver; more are dropped, as a switch drops them. */
export const HUB_QUEUE = 256;

interface Member {
  /** False: no room. */
  deliver(frame: Uint8Array): boolean;
  readonly queue: Uint8Array[];
  /** The queue is being emptied. */
  busy: boolean;
}

interface Arrived {
  readonly from: Member;
  readonly frame: Uint8Array;
}

/**
 * A hub: every frame goes to all others, as QEMU's `-netdev hubport`. Network devices of one or several machines in this process
 * stand on its ports; other backends (a socket) are plugged in.
 */
export class NetHub {
  readonly #members = new Set<Member>();
  /** Frames that were sent by a receiver while a frame was being handed out: they go out after it, in order. */
  readonly #arrived: Arrived[] = [];
  #busy = false;
  /** Frames that a receiver had no room for. */
  dropped = 0;

  /** A new socket of the hub, for one network device. */
  port(): NetBackend {
    let receiver: NetPort | undefined;
    const member: Member = { deliver: (frame) => receiver?.receive(frame) ?? true, queue: [], busy: false };
    this.#members.add(member);
    return {
      send: (frame) => this.#send(member, frame),
      attach: (port) => {
        receiver = port;
        if (port === undefined) member.queue.length = 0;
      },
      ready: () => this.#retry(member),
      close: () => {
        this.#members.delete(member);
        member.queue.length = 0;
        receiver = undefined;
      },
    };
  }

  /** Connects what is itself a backend, such as a socket, to the hub. Returns what takes it out; it stays open. */
  plug(backend: NetBackend): () => void {
    partOption("net hub: backend", backend, "a NetBackend", "send");
    // A backend that has no room drops: it has a queue of its own.
    const member: Member = { deliver: (frame) => (backend.send(frame), true), queue: [], busy: false };
    this.#members.add(member);
    backend.attach({ receive: (frame) => this.#send(member, frame), linkChanged: () => undefined });
    return () => {
      this.#members.delete(member);
      backend.attach(undefined);
    };
  }

  #send(from: Member, frame: Uint8Array): boolean {
    if (this.#busy) {
      if (this.#arrived.length >= HUB_QUEUE) {
        this.dropped++;
        return false;
      }
      this.#arrived.push({ from, frame: copy(frame) });
      return true;
    }
    this.#busy = true;
    try {
      this.#flood(from, frame);
      for (let next = this.#arrived.shift(); next !== undefined; next = this.#arrived.shift()) {
        this.#flood(next.from, next.frame);
      }
    } finally {
      this.#busy = false;
    }
    return true;
  }

  #flood(from: Member, frame: Uint8Array): void {
    for (const member of this.#members) {
      if (member === from) continue;
      // Order is kept: nobody overtakes what waits.
      if (member.queue.length === 0 && member.deliver(frame)) continue;
      if (member.queue.length < HUB_QUEUE) member.queue.push(copy(frame));
      else this.dropped++;
    }
  }

  #retry(member: Member): void {
    // A receiver may call `ready` while it receives: the loop below goes on anyway.
    if (member.busy) return;
    member.busy = true;
    try {
      for (let frame = member.queue[0]; frame !== undefined; frame = member.queue[0]) {
        if (!member.deliver(frame)) return;
        member.queue.shift();
      }
    } finally {
      member.busy = false;
    }
  }
}

/** Not `slice`: of a Node Buffer that is no copy. */
function copy(frame: Uint8Array): Uint8Array {
  return new Uint8Array(frame);
}
