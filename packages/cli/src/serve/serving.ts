import type { CharacterBackend } from "virtio/backends/character";
import { StreamCharacterBackend } from "@virtio/node";

import { DeviceBuilder } from "../boot/build.ts";
import { openLog } from "../boot/open-log.ts";
import { warn } from "../user-error.ts";
import type { ServeDescription } from "./describe.ts";
import { IoThread, threadsOf } from "./io-threads.ts";
import { openDevice } from "./open-device.ts";

/** Devices that are being served. */
export interface Serving {
  /** Resolves when no front-end will be served any more. */
  readonly closed: Promise<unknown>;
  /** Finishes what is in flight, and lets go of everything. */
  close(): Promise<void>;
}

/**
 * Serves what is described; resolves when every socket is there. Disks have threads of their own, so that none waits for another; all
 * else is on this one. A failure is a UserError that names the device.
 * @param begun when the log was begun by another process, in milliseconds since 1970
 */
export async function startServing(
  { devices, session }: Pick<ServeDescription, "devices" | "session">,
  say: (message: string) => void,
  begun?: number,
): Promise<Serving> {
  const log = await openLog(session, begun);
  const logSince = begun ?? timeNow();
  const builder = new DeviceBuilder({
    get terminal(): CharacterBackend {
      return new StreamCharacterBackend(process.stdin, process.stdout);
    },
    warn,
  });
  const all: Serving[] = [];
  const close = async (): Promise<void> => {
    // One that failed has said so by `closed`; the others are to end well.
    await Promise.allSettled(all.map((one) => one.close()));
    await builder.close();
    log?.close();
  };
  try {
    for (const thread of threadsOf(devices))
      all.push(await IoThread.start({ ...thread, session, logSince }, say));
    for (const served of devices.filter(({ description }) => description.kind !== "blk"))
      all.push(await openDevice(served, { builder, observer: log?.observer, session, warn, say }));
  } catch (error) {
    await close();
    throw error;
  }
  return { closed: Promise.all(all.map(({ closed }) => closed)), close };
}

/** Milliseconds since 1970. */
export function timeNow(): number {
  return performance.timeOrigin + performance.now();
}
