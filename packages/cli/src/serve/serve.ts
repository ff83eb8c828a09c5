import type { CharacterBackend } from "virtio/backends/character";
import { StreamCharacterBackend } from "@virtio/node";

import { DeviceBuilder } from "../boot/build.ts";
import { openLog } from "../boot/open-log.ts";
import { messageOf } from "../user-error.ts";
import type { ServeDescription } from "./describe.ts";
import { IoThread, threadsOf } from "./io-threads.ts";
import { notifyManager } from "./notify.ts";
import { openDevice } from "./open-device.ts";

/** Devices that are being served. */
export interface Serving {
  /** Resolves when no front-end will be served any more. */
  readonly closed: Promise<unknown>;
  /** Finishes what is in flight, and lets go of everything. */
  close(): Promise<void>;
}

/** Serves what is described until a signal ends it, or the last connection that was handed over does. Gives the exit status. */
export async function serve(description: ServeDescription): Promise<number> {
  const stopped = stopSignal();
  const serving = await startServing(description, warn);
  tell("READY=1");
  try {
    await Promise.race([stopped, serving.closed]);
    return 0;
  } finally {
    tell("STOPPING=1");
    await serving.close();
  }
}

/**
 * Serves what is described; resolves when every socket is there. Disks have threads of their own, so that none waits for another; all
 * else is on this one. A failure is a UserError that names the device.
 */
export async function startServing(
  { devices, session }: ServeDescription,
  say: (message: string) => void,
): Promise<Serving> {
  const log = await openLog(session);
  const logSince = performance.timeOrigin + performance.now();
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
      all.push(await openDevice(served, { builder, observer: log?.observer, warn, say }));
  } catch (error) {
    await close();
    throw error;
  }
  return { closed: Promise.all(all.map(({ closed }) => closed)), close };
}

/** Resolves at the first SIGTERM or SIGINT; a second one ends the process at once, as ever. */
function stopSignal(): Promise<void> {
  return new Promise((resolve) => {
    const stop = (): void => {
      process.off("SIGTERM", stop).off("SIGINT", stop);
      resolve();
    };
    process.on("SIGTERM", stop).on("SIGINT", stop);
  });
}

/** A service manager that cannot be told is no reason to stop. */
function tell(state: string): void {
  try {
    notifyManager(state);
  } catch (error) {
    warn(messageOf(error));
  }
}

function warn(message: string): void {
  process.stderr.write(`virtio: ${message}\n`);
}
