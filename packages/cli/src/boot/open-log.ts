import type { VirtioObserver } from "virtio/device/observer";
import type { TextLog } from "virtio/device/text-log";

import { messageOf, UserError } from "../user-error.ts";
import type { SessionDescription } from "./description.ts";

/** Where `--log` goes. */
export interface OpenLog {
  readonly observer: VirtioObserver;
  close(): void;
}

/** Opens the log that was asked for; what writes it is loaded only then. `since` as in LogFile. */
export async function openLog(
  options: Pick<SessionDescription, "log" | "logFile">,
  since?: number,
): Promise<OpenLog | undefined> {
  const { log, logFile } = options;
  if (log === undefined) return undefined;
  const { LogFile } = await import("./log-file.ts");
  const textLog = await import("virtio/device/text-log");
  const { sectionOf } = await import("virtio/spec/sections");
  try {
    const file = new LogFile(logFile, since);
    const text = new textLog.TextLog((line) => file.write(line), { registers: log.registers, sectionOf });
    return { observer: log.onlyHints ? onlyHints(text) : text, close: () => file.close() };
  } catch (error) {
    throw new UserError(`--log-file: ${messageOf(error)}`);
  }
}

/** What is not there costs nothing: the devices do not even put it into words. */
function onlyHints(log: TextLog): VirtioObserver {
  return {
    hint: (device, hint) => log.hint(device, hint),
    fault: (device, fault) => log.fault(device, fault),
  };
}
