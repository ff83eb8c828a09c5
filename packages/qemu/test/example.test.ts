import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { findProgram, needs } from "@virtio/testkit/needs";
import { expect, test } from "vitest";
import { firstSector } from "../../../examples/qemu-machine.ts";
import { temporaryFolder } from "./temporary-folder.ts";

const folder = temporaryFolder();
const read = (path: string): string => readFileSync(new URL(`../../../${path}`, import.meta.url), "utf8");

test("the page shows the example that is run here", () => {
  expect(read("docs/qemu-machines.md")).toContain(read("examples/qemu-machine.ts").trimEnd());
});

test.skipIf(findProgram("qemu-system-arm") === undefined)(
  needs("qemu-system-arm", "qemu-system-arm", "the example reads the first sector of an image"),
  async () => {
    const image = join(folder, "disk.img");
    const sector = Uint8Array.from({ length: 512 }, (_, i) => i & 0xff);
    writeFileSync(image, Buffer.concat([sector, Buffer.alloc(1 << 20)]));
    expect(await firstSector(image)).toEqual(sector);
  },
);
