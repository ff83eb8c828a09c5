import { VhostUserTransport } from "@virtio/vhost-user";
import { RegionMemory } from "virtio/memory/region-memory";
import { UserError } from "../../user-error.ts";
import { deviceIdOf } from "../device-kinds.ts";
import type { Bank, Target, TargetDevice } from "./types.ts";

/** A back-end, and what it is. */
export interface VhostUserSocket {
  readonly socket: string;
  readonly deviceId: number;
}

/** The shell's memory: back-ends share none with each other, so it is a range of its own. */
const RAM: Bank = { start: 0x40000000, size: 64 << 20 };

/** `blk:PATH`. A back-end does not say what it is, so it must be said. */
export function parseVhostUser(text: string): VhostUserSocket {
  const at = text.indexOf(":");
  const kind = at < 0 ? "" : text.slice(0, at);
  const deviceId = deviceIdOf(kind === "rng" ? "entropy" : kind);
  if (deviceId === undefined || at + 1 === text.length)
    throw new UserError(
      `--vhost-user ${text}: say what the back-end is, such as blk:${at < 0 ? text : "SOCKET"}, net:SOCKET, entropy:SOCKET`,
    );
  return { deviceId, socket: text.slice(at + 1) };
}

/** Back-ends of vhost-user, without a machine. */
export class VhostUserTarget implements Target {
  readonly title = "vhost-user back-ends, without a machine";
  readonly banks: readonly Bank[] = [RAM];
  readonly memory: RegionMemory = new RegionMemory([{ gpa: RAM.start, bytes: new Uint8Array(RAM.size) }]);
  readonly ram: Bank = RAM;
  readonly failure = undefined;
  onFailure: ((error: Error) => void) | undefined;
  readonly #sockets: readonly VhostUserSocket[];

  constructor(sockets: readonly VhostUserSocket[]) {
    this.#sockets = sockets;
  }

  devices(): Promise<readonly TargetDevice[]> {
    return Promise.resolve(
      this.#sockets.map(({ socket, deviceId }) => ({
        name: `vhost-user ${socket}`,
        deviceId,
        place: { bus: "vhost-user", socket },
        open: () => VhostUserTransport.open({ socket, deviceId }),
      })),
    );
  }

  close(): Promise<void> {
    return Promise.resolve();
  }
}
