import { writeFileSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { afterAll, expect, test } from "vitest";

import { DeviceBuilder } from "@virtio/cli/boot/build";
import { parseArguments } from "@virtio/cli/options/arguments";
import { describe as describeMachine } from "@virtio/cli/options/describe";
import { bootOptions } from "@virtio/cli/options/table";
import { clause } from "@virtio/testkit/clause";
import { InProcessMachine } from "@virtio/testkit/machine";
import { BlkDriver } from "virtio/drivers/blk/driver";

const folder = mkdtempSync(join(tmpdir(), "virtio-serial-"));
afterAll(() => rmSync(folder, { recursive: true }));

test(
  clause("dev.blk.operation", "a serial= of more than 20 characters is cut, with a warning, as QEMU cuts it"),
  async () => {
    const disk = join(folder, "disk.img");
    writeFileSync(disk, new Uint8Array(1 << 20));
    const argv = ["-drive", `if=none,id=d,format=raw,file=${disk}`];
    argv.push("-device", "virtio-blk-pci,drive=d,serial=0123456789abcdefghijklmnopqrstuvwxyz");
    const { machine } = describeMachine(parseArguments(argv, bootOptions));
    const description = machine.devices.find(({ kind }) => kind === "blk");
    if (description === undefined) throw new Error("no device");
    const warnings: string[] = [];
    const builder = new DeviceBuilder({
      terminal: { attach: () => undefined, write: (bytes) => bytes.length },
      warn: (message) => warnings.push(message),
    });
    const { device } = await builder.build(description);
    const driver = await BlkDriver.open(new InProcessMachine().plugMmio(device).open());
    expect(await driver.getId()).toBe("0123456789abcdefghij");
    expect(warnings).toEqual([expect.stringContaining('"0123456789abcdefghij"')]);
    await driver.close();
    await builder.close();
  },
);
