import { until } from "@virtio/testkit/until";
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { FileBlockBackend } from "../../src/block/file-block.ts";
import { hasQemu, needsQemu, startQemu } from "../qemu.ts";

/** One QEMU that writes: at least a lock for what it does, and one for what it forbids. */
const QEMU_LOCKS = 2;

let folder = "";
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "virtio-lock-"));
});
afterAll(() => rmSync(folder, { recursive: true }));

function qemuWithDisk(path: string, readOnly: boolean): ReturnType<typeof startQemu> {
  const drive = `file=${path},format=raw,if=none,id=d,readonly=${readOnly ? "on" : "off"}`;
  return startQemu(["-S", "-M", "pc", "-drive", drive, "-device", "virtio-blk-pci,drive=d"]);
}

/** Whether QEMU starts with the disk; it is stopped again. */
async function qemuTakes(path: string, readOnly: boolean): Promise<string | true> {
  const qemu = qemuWithDisk(path, readOnly);
  const first = await Promise.race([
    qemu.ended,
    new Promise<true>((resolve) => setTimeout(resolve, 1500, true)),
  ]);
  await qemu.stop();
  return first;
}

test.skipIf(!hasQemu)(
  needsQemu("a real QEMU and we keep each other off a disk that one writes to"),
  async () => {
    const path = join(folder, "shared.img");
    writeFileSync(path, new Uint8Array(1 << 20));
    const writer = new FileBlockBackend(path);
    expect(await qemuTakes(path, false)).toMatch(/Failed to get .*lock/);
    writer.close();

    const reader = new FileBlockBackend(path, { readOnly: true });
    expect(await qemuTakes(path, false)).toMatch(/Failed to get .*lock/);
    expect(await qemuTakes(path, true)).toBe(true);
    reader.close();

    // Looked at from outside: to try the lock would take it, and QEMU would be the one that is refused.
    const qemu = qemuWithDisk(path, false);
    const { ino } = statSync(path);
    const locks = (): number => readFileSync("/proc/locks", "latin1").split(`:${ino} `).length - 1;
    await until(() => locks() >= QEMU_LOCKS, "QEMU's locks");
    expect(() => new FileBlockBackend(path)).toThrow("in use by another machine");
    await qemu.stop();
    new FileBlockBackend(path).close();
  },
);
