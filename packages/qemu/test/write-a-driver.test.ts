import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { QemuMachine, splitCommandLine } from "@virtio/qemu";
import { findProgram, needs } from "@virtio/testkit/needs";
import { VIRTIO_ID_PMEM } from "virtio/spec/ids";
import { expect, test } from "vitest";
import { PmemDriver } from "../../../examples/write-a-driver.ts";
import { temporaryFolder } from "./temporary-folder.ts";

const folder = temporaryFolder();
const read = (path: string): string => readFileSync(new URL(`../../../${path}`, import.meta.url), "utf8");
const SIZE = 16 << 20;

test("the page shows the driver that is run here", () => {
  expect(read("docs/write-a-driver.md")).toContain(read("examples/write-a-driver.ts").trimEnd());
});

test.skipIf(findProgram("qemu-system-x86_64") === undefined)(
  needs(
    "qemu-system-x86_64",
    "qemu-system-x86",
    "the driver of the manual: what is written to QEMU's persistent memory is in its file",
  ),
  async () => {
    const image = join(folder, "pmem.img");
    writeFileSync(image, new Uint8Array(SIZE));
    const machine = await QemuMachine.start({
      argv: splitCommandLine(`qemu-system-x86_64 -M q35 -m 256M,slots=2,maxmem=1G
        -object memory-backend-file,id=nv,share=on,mem-path='${image}',size=${SIZE}
        -device virtio-pmem-pci,memdev=nv`),
    });
    try {
      const pmem = await PmemDriver.open(machine.device(VIRTIO_ID_PMEM).open());
      expect(pmem.size).toBe(SIZE);
      machine.qtest.write(pmem.start + 4096, new TextEncoder().encode("kept"));
      await Promise.all([pmem.flush(), pmem.flush()]);
      expect(readFileSync(image).toString("latin1", 4096, 4100)).toBe("kept");
      await pmem.close();
      // What was given back belongs to somebody else.
      const { memory } = machine.platform;
      const others = Array.from({ length: 1000 }, () => memory.view(memory.allocate(16, 16), 16).fill(0xa5));
      await expect(pmem.flush()).rejects.toThrow("closed");
      expect(others.every((bytes) => bytes.every((byte) => byte === 0xa5))).toBe(true);
    } finally {
      await machine.close();
    }
  },
);
