import { messageOf, warn } from "../user-error.ts";
import type { ServeDescription } from "./describe.ts";
import { notifyManager } from "./notify.ts";
import { startProcesses } from "./processes.ts";
import { startServing } from "./serving.ts";
import { stopSignal } from "./stop-signal.ts";

/** Serves what is described until a signal ends it, or the last connection that was handed over does. Gives the exit status. */
export async function serve(description: ServeDescription): Promise<number> {
  const stopped = stopSignal();
  const start = description.processPerDevice ? startProcesses : startServing;
  const serving = await start(description, warn);
  tell("READY=1");
  try {
    await Promise.race([stopped, serving.closed]);
    return 0;
  } finally {
    tell("STOPPING=1");
    await serving.close();
  }
}

/** A service manager that cannot be told is no reason to stop. */
function tell(state: string): void {
  try {
    notifyManager(state);
  } catch (error) {
    warn(messageOf(error));
  }
}
