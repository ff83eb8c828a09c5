import { messageOf } from "../user-error.ts";
import type { DeviceProcessWork } from "./device-process.ts";
import type { ServingReport } from "./report.ts";
import { startServing } from "./serving.ts";
import { stopSignal } from "./stop-signal.ts";

/** What a process of `virtio serve --process-per-device` runs: the devices that it is told of, until it is told to stop. */
process.once("message", (work: DeviceProcessWork) => void run(work));

/** Told to stop, or nobody is there any more who could. A signal may have gone to the whole group of processes. */
const stopped = Promise.race([
  stopSignal(),
  new Promise((resolve) => void process.on("message", (message) => message === "stop" && resolve(undefined))),
  new Promise((resolve) => void process.once("disconnect", resolve)),
]);

async function run({ devices, session, begun }: DeviceProcessWork): Promise<void> {
  try {
    const serving = await startServing(
      { devices, session },
      (message) => void report({ kind: "says", message }),
      begun,
    );
    try {
      void report({ kind: "ready" });
      await Promise.race([stopped, serving.closed]);
    } finally {
      await serving.close();
    }
  } catch (error) {
    process.exitCode = 1;
    await report({ kind: "failed", message: messageOf(error) });
  } finally {
    if (process.connected) process.disconnect();
  }
}

/** Resolves when it is sent, or cannot be. */
function report(message: ServingReport): Promise<void> {
  return new Promise((resolve) => {
    if (process.send === undefined || !process.connected) resolve();
    else process.send(message, undefined, undefined, () => resolve());
  });
}
