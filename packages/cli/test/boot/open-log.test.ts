/** What `--log` writes of what happens in a device. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { ObservedDevice, VirtioObserver } from "virtio/device/observer";
import { VirtioFault } from "virtio/fault";
import { openLog } from "@virtio/cli/boot/open-log";
import { expect, test } from "vitest";
import { temporaryFolder } from "../guest/folder.ts";

const device: ObservedDevice = { label: "disk0", id: 2, queueNames: ["requestq1"] };
const folder = temporaryFolder();

async function logged(log: {
  registers: boolean;
  onlyHints: boolean;
}): Promise<{ observer: VirtioObserver; text: string }> {
  const logFile = join(folder, JSON.stringify(log));
  const open = await openLog({ log, logFile });
  if (open === undefined) throw new Error("no log");
  const { observer } = open;
  observer.status?.(device, 0, 1);
  observer.notification?.(device, "available", 0);
  observer.failed?.(device, 0, "IOERR: sector 8192 is beyond the end");
  observer.hint?.(device, { clause: "drv.core.init", rule: "notification before DRIVER_OK", queue: 0 });
  observer.fault?.(device, new VirtioFault("drv.core.status", "status bits cleared", { value: 2 }));
  open.close();
  return { observer, text: readFileSync(logFile, "utf8").replaceAll(/^ *\d+\.\d+ /gm, "") };
}

const RULES = [
  /^disk0: HINT drv\.core\.init: notification before DRIVER_OK .*\(3\.1\.1 /,
  /^disk0: FAULT drv\.core\.status: status bits cleared .*\(2\.1\.1 /,
];

test("--log hints: what the driver does that it must not, and nothing else is listened to", async () => {
  const { observer, text } = await logged({ registers: false, onlyHints: true });
  const lines = text.trimEnd().split("\n");
  expect(lines).toHaveLength(RULES.length);
  RULES.forEach((rule, i) => expect(lines[i]).toMatch(rule));
  expect(Object.keys(observer).sort()).toEqual(["fault", "hint"]);
});

test("--log virtio: that too", async () => {
  const { text } = await logged({ registers: false, onlyHints: false });
  const lines = text.trimEnd().split("\n");
  expect(lines.slice(0, 3)).toEqual([
    "disk0: status reset -> ACKNOWLEDGE",
    "disk0: virtqueue 0 (requestq1): available notification",
    "disk0: virtqueue 0 (requestq1): IOERR: sector 8192 is beyond the end",
  ]);
  RULES.forEach((rule, i) => expect(lines[3 + i]).toMatch(rule));
});
