import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync } from "node:zlib";

import fc from "fast-check";
import { afterEach, beforeEach, expect, test } from "vitest";

import { CpioWriter } from "@virtio/cli/guest/cpio";
import { readCpio as readInitrd } from "@virtio/cli/guest/cpio-reader";
import { aliasText, dependencyText, ModuleTree } from "@virtio/cli/guest/modules";
import { findProgram, needs } from "@virtio/testkit/needs";

interface Entry {
  readonly name: string;
  readonly mode: number;
  readonly data: Buffer;
}

/** As the kernel reads it (init/initramfs.c): hexadecimal header, name, data, each padded to four bytes. */
function readCpio(archive: Uint8Array): Entry[] {
  const bytes = Buffer.from(archive);
  const entries: Entry[] = [];
  for (let at = 0; ;) {
    expect(bytes.toString("latin1", at, at + 6)).toBe("070701");
    const field = (index: number): number =>
      Number.parseInt(bytes.toString("latin1", at + 6 + 8 * index, at + 14 + 8 * index), 16);
    const [mode, size, nameSize] = [field(1), field(6), field(11)];
    const name = bytes.toString("utf8", at + 110, at + 110 + nameSize - 1);
    if (name === "TRAILER!!!") return entries;
    const dataAt = (at + 110 + nameSize + 3) & ~3;
    entries.push({ name, mode, data: bytes.subarray(dataAt, dataAt + size) });
    at = (dataAt + size + 3) & ~3;
  }
}

test("every file comes back, after the folders it lies in", () => {
  const name = fc.stringMatching(/^[a-z]{1,6}$/);
  const path = fc.array(name, { minLength: 1, maxLength: 4 }).map((parts) => parts.join("/"));
  const file = fc.tuple(path, fc.uint8Array({ maxLength: 50 }));
  fc.assert(
    fc.property(fc.uniqueArray(file, { selector: ([p]) => p, maxLength: 8 }), (files) => {
      const writer = new CpioWriter();
      for (const [p, data] of files) writer.file(`f/${p}.x`, data, 0o755);
      const archive = writer.finish();
      expect(archive.length % 512).toBe(0);
      const entries = readCpio(archive);
      const found = entries.filter(({ mode }) => mode === 0o100755);
      expect(found.map((entry) => [entry.name, [...entry.data]])).toEqual(
        files.map(([p, data]) => [`f/${p}.x`, [...data]]),
      );
      entries.forEach((entry, index) => {
        const parent = entry.name.slice(0, Math.max(0, entry.name.lastIndexOf("/")));
        const before = entries.slice(0, index).filter((other) => other.mode === 0o040755);
        if (parent !== "") expect(before.map((other) => other.name)).toContain(parent);
      });
    }),
  );
});

test("what Linux would find in an initrd: archives one behind the other, the later entry, also compressed", () => {
  const first = new CpioWriter();
  first.file("init", "first");
  first.file("kept", "kept");
  const second = new CpioWriter();
  second.file("./init", "second");
  const zeros = Buffer.alloc(516);
  const later = gzipSync(Buffer.concat([second.finish(), zeros]));
  const entries = readInitrd(Buffer.concat([first.finish(), zeros, later]));
  const text = (name: string): string => Buffer.from(entries.get(name) ?? []).toString();
  expect(["init", "kept", "none"].map(text)).toEqual(["second", "kept", ""]);
});

test("an initrd that is cut off or changed anywhere ends in entries or in an error that says what is wrong", () => {
  const writer = new CpioWriter();
  writer.file("sbin/init", "program", 0o755);
  const archive = Buffer.from(writer.finish());
  const damage = fc.record({
    compressed: fc.boolean(),
    length: fc.nat(archive.length),
    changes: fc.array(fc.tuple(fc.nat(archive.length - 1), fc.nat(255)), { maxLength: 3 }),
  });
  fc.assert(
    fc.property(damage, ({ compressed, length, changes }) => {
      const damaged = Buffer.from(compressed ? gzipSync(archive) : archive);
      for (const [at, value] of changes) damaged[at % damaged.length] = value;
      try {
        readInitrd(damaged.subarray(0, length));
      } catch (error) {
        expect(String(error)).toMatch(/no cpio archive|is cut off|cannot be decompressed/);
      }
    }),
  );
});

/** The least of an ELF file: a header, a table of sections, and one section of fields. */
function moduleFile(fields: readonly string[], bits: 32 | 64 = 32): Buffer {
  const info = Buffer.from(fields.map((field) => `${field}\0`).join(""));
  const names = Buffer.from("\0.modinfo\0.shstrtab\0");
  const word = bits / 8;
  const header = Buffer.alloc(bits === 32 ? 52 : 64);
  const entry = bits === 32 ? 40 : 64;
  const table = Buffer.alloc(3 * entry);
  const put = (buffer: Buffer, value: number, at: number): unknown =>
    bits === 32 ? buffer.writeUInt32LE(value, at) : buffer.writeBigUInt64LE(BigInt(value), at);
  header.write(`\x7fELF${bits === 32 ? "\x01" : "\x02"}\x01\x01`, "latin1");
  put(header, header.length + info.length + names.length, 24 + 2 * word);
  header.writeUInt16LE(entry, header.length - 6);
  header.writeUInt16LE(3, header.length - 4);
  header.writeUInt16LE(2, header.length - 2);
  const section = (index: number, name: number, offset: number, size: number): void => {
    table.writeUInt32LE(name, index * entry);
    put(table, offset, index * entry + 8 + 2 * word);
    put(table, size, index * entry + 8 + 3 * word);
  };
  section(1, 1, header.length, info.length);
  section(2, 10, header.length + info.length, names.length);
  return Buffer.concat([header, info, names, table]);
}

let folder = "";
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "modules-"));
  mkdirSync(join(folder, "kernel/fs"), { recursive: true });
  const write = (path: string, ...fields: string[]): void =>
    // Of both kinds side by side, as no kernel has them.
    writeFileSync(join(folder, path), moduleFile(fields, path.includes("pci") ? 64 : 32));
  write("kernel/virtio.ko", "name=virtio", "depends=");
  write("kernel/virtio-ring.ko", "depends=virtio");
  write("kernel/virtio_pci.ko", "alias=pci:v00001AF4d*", "depends=virtio-ring,virtio");
  write("kernel/fs/ext4.ko", "alias=fs-ext4", "depends=");
  writeFileSync(join(folder, "modules.builtin"), "kernel/tty/hvc-console.ko\n");
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

test("the closure has what a module needs before it, and leaves out what is built in", () => {
  const modules = new ModuleTree(folder).closure(["virtio-pci", "hvc_console", "ext4"]);
  expect(modules.map((module) => module.name)).toEqual(["virtio", "virtio_ring", "virtio_pci", "ext4"]);
  expect(dependencyText(modules)).toContain("kernel/virtio_pci.ko: kernel/virtio-ring.ko kernel/virtio.ko\n");
  expect(aliasText(modules)).toBe("alias pci:v00001AF4d* virtio_pci\nalias fs-ext4 ext4\n");
});

test("what is built in is named for modprobe", () => {
  const names = ["virtio", "hvc-console", "hvc_console", "nothing"];
  expect(new ModuleTree(folder).builtinText(names)).toBe(
    "kernel/tty/hvc-console.ko\nkernel/tty/hvc-console.ko\n",
  );
});

test.skipIf(findProgram("xz") === undefined)(
  needs("xz", "xz-utils", "modules of Debian since trixie: compressed there, not in the initrd"),
  () => {
    const path = join(folder, "kernel/fs/ext4.ko");
    const data = readFileSync(path);
    expect(spawnSync("xz", ["--check=crc32", "--lzma2=dict=1MiB", path]).status).toBe(0);
    const [module] = new ModuleTree(folder).closure(["ext4"]);
    expect(module).toMatchObject({ name: "ext4", path: "kernel/fs/ext4.ko", aliases: ["fs-ext4"] });
    expect(Buffer.from(module?.data ?? []).equals(data)).toBe(true);
  },
);

test("a module that this kernel does not have is an error", () => {
  expect(() => new ModuleTree(folder).closure(["virtio_foo"])).toThrow('no module "virtio_foo"');
});
