import fc from "fast-check";
import { expect, test } from "vitest";
import { readCommand } from "../src/command-line.ts";
import { QemuError, splitCommandLine } from "../src/index.ts";
import { readMemoryMap } from "../src/machine/memory-map.ts";

test("a command line is split as a shell splits it", () => {
  expect(splitCommandLine(`a  'b c' "d 'e'" f\\ g "h\\"i" j''k '' "\\x"`)).toEqual([
    "a",
    "b c",
    "d 'e'",
    "f g",
    'h"i',
    "jk",
    "",
    "\\x",
  ]);
  expect(splitCommandLine("  ")).toEqual([]);
  expect(() => splitCommandLine("a 'b")).toThrow(/the quote ' .* has no end/);
  fc.assert(
    fc.property(fc.array(fc.string()), (words) => {
      const quoted = words.map((word) => `'${word.replaceAll("'", `'\\''`)}'`).join(" ");
      expect(splitCommandLine(quoted)).toEqual(words);
    }),
  );
});

test("disable-legacy takes on and off; other words stay as they are", () => {
  const given = [
    "-device",
    "virtio-blk-pci,disable-legacy=true,disable-modern=true",
    "-device",
    "virtio-rng-pci,disable-legacy=n",
    "-device",
    "virtio-net-pci,disable-legacy=auto",
    "-append",
    "x.disable-legacyx=true",
  ];
  expect(readCommand(["qemu-system-arm", "-m", "1G", ...given]).argv.slice(2)).toEqual([
    "-device",
    "virtio-blk-pci,disable-legacy=on,disable-modern=true",
    "-device",
    "virtio-rng-pci,disable-legacy=off",
    "-device",
    "virtio-net-pci,disable-legacy=auto",
    "-append",
    "x.disable-legacyx=true",
  ]);
});

test.each([
  [[], 128],
  [["-m", "512"], 512],
  [["-m", "1G"], 1024],
  [["-m", "size=64M,slots=2,maxmem=1G"], 64],
  [["--m", "1.5g"], 1536],
])("%j is %d MiB of memory", (argv, megabytes) => {
  const command = readCommand(["/usr/bin/qemu-system-arm", "-M", "virt", ...argv]);
  expect(command.memory).toBe(megabytes * 2 ** 20);
  expect(command.argv).toEqual(["-M", "virt", ...(argv.length > 0 ? argv : ["-m", "128M"])]);
  expect(command.target).toBe("arm");
});

test.each<[string[], RegExp]>([
  [[], /'' is no qemu-system program/],
  [["ls"], /'ls' is no qemu-system program/],
  [["qemu-system-arm", "-enable-kvm"], /-enable-kvm cannot be given: no processor runs/],
  [["qemu-system-arm", "--accel", "tcg"], /-accel cannot be given/],
  [["qemu-system-arm", "-M", "virt,accel=tcg"], /-M accel=tcg cannot be given/],
  [["qemu-system-arm", "-S"], /-S cannot be given: a stopped machine's devices do no work/],
  [["qemu-system-arm", "-m", "much"], /-m much is no size of memory/],
  [["qemu-system-arm", "-m", "0"], /-m 0 is no size of memory/],
  [["qemu-system-arm", "-kernel", "x"], /no kernel/],
])("%j is refused", (words, message) => {
  expect(() => readCommand(words)).toThrow(QemuError);
  expect(() => readCommand(words)).toThrow(message);
});

const MTREE = `FlatView #0
 AS "I/O", root: io
 Root memory region: io
  0000000000000000-000000000000ffff (prio 0, ram): mem

FlatView #1
 AS "memory", root: system
 AS "cpu-memory-0", root: system
 Root memory region: system
  0000000000000000-00000000000bffff (prio 0, ram): mem
  00000000000c0000-00000000000dffff (prio 1, rom): pc.rom
  0000000000100000-0000000007ffffff (prio 0, ram): mem @0000000000100000
  00000000fec00000-00000000fec00fff (prio 0, i/o): ioapic
  0000000100000000-00000001ffffffff (prio 0, ram): mem @0000000080000000
  0000000200000000-00000002ffffffff (prio 0, ram): other
`;

test("the memory map is read from what the monitor prints", () => {
  expect(readMemoryMap(MTREE, "mem")).toEqual([
    { gpa: 0, length: 0xc0000, offset: 0 },
    { gpa: 0x100000, length: 0x7f00000, offset: 0x100000 },
    { gpa: 0x100000000, length: 0x100000000, offset: 0x80000000 },
  ]);
  expect(() => readMemoryMap(MTREE, "none")).toThrow(/no memory that can be shared/);
  expect(() => readMemoryMap("", "mem")).toThrow(/no view of the machine's memory/);
});
