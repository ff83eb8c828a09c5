import { Worker } from "node:worker_threads";

import { UserError } from "../user-error.ts";
import type { ServedDevice, ServeSession } from "./describe.ts";
import type { ServingReport } from "./report.ts";

/** What a thread is given to do. */
export interface IoThreadWork {
  readonly devices: readonly ServedDevice[];
  readonly pollMaxNs: number;
  readonly session: ServeSession;
  /** When the log was begun, in milliseconds since 1970. */
  readonly logSince: number;
}

/** A thread that serves devices. */
export class IoThread {
  /** All its devices are closed: it was stopped, or the last connection that was handed over has ended. */
  readonly closed: Promise<void>;
  readonly #worker: Worker;

  private constructor(worker: Worker, closed: Promise<void>) {
    this.#worker = worker;
    this.closed = closed;
  }

  /** Resolves when its devices are served. Rejects with a UserError when they cannot be. */
  static async start(work: IoThreadWork, say: (message: string) => void): Promise<IoThread> {
    const worker = new Worker(new URL("./io-thread.js", import.meta.url), {
      workerData: work,
      // Descriptors come from system calls of our own as well, and each has who closes it.
      trackUnmanagedFds: false,
    });
    const closed = new Promise<void>((resolve, reject) => {
      worker.once("error", reject);
      worker.once("exit", () => resolve());
    });
    closed.catch(() => undefined);
    let ready = false;
    await new Promise<void>((resolve, reject) => {
      worker.on("message", (report: ServingReport) => {
        if (report.kind === "says" || (report.kind === "failed" && ready)) say(report.message);
        else if (report.kind === "failed") reject(new UserError(report.message));
        else {
          ready = true;
          resolve();
        }
      });
      closed.then(() => reject(new Error("the thread ended")), reject);
    });
    return new IoThread(worker, closed);
  }

  /** What is in flight is done first. */
  async close(): Promise<void> {
    this.#worker.postMessage("stop");
    await this.closed;
  }
}

/** The devices that get a thread, by thread: those of one `iothread`, and each other disk for itself. */
export function threadsOf(
  devices: readonly ServedDevice[],
): { devices: ServedDevice[]; pollMaxNs: number }[] {
  const named = new Map<string, { devices: ServedDevice[]; pollMaxNs: number }>();
  const all = [];
  for (const device of devices) {
    const { description } = device;
    if (description.kind !== "blk") continue;
    const { id, pollMaxNs } = description.iothread ?? { id: undefined, pollMaxNs: 0 };
    const known = id === undefined ? undefined : named.get(id);
    if (known !== undefined) {
      known.devices.push(device);
      continue;
    }
    const thread = { devices: [device], pollMaxNs };
    if (id !== undefined) named.set(id, thread);
    all.push(thread);
  }
  return all;
}
