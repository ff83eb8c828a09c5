import { EmbeddedMachine, type MachineOptions, type StopReason } from "@virtio/v86";
import { readV86Wasm } from "@virtio/v86/node";
import { VirtioFault } from "virtio/fault";
import { entropyDevice } from "virtio/devices/entropy/device";
import type { VirtioDevice } from "virtio/device/device";
import { afterEach, describe, expect, test } from "vitest";
import { HALT, RETURN, callForever, copy, elf, increment, loop, out, store } from "./tiny-kernel.ts";

const MEMORY = 32 << 20;
const MMIO = 0xfd000000;
const CONFIG = MMIO + 0x100;
const machines: EmbeddedMachine[] = [];
afterEach(async () => {
  for (const machine of machines.splice(0)) await machine.destroy();
});

async function create(
  kernel: Uint8Array | undefined,
  options: Partial<MachineOptions> = {},
): Promise<EmbeddedMachine> {
  const wasm = await readV86Wasm();
  const machine = await EmbeddedMachine.create({
    wasm,
    memorySize: MEMORY,
    ...(kernel && { kernel }),
    ...options,
  });
  machines.push(machine);
  return machine;
}

/** Runs until the guest stops by itself. */
async function runToEnd(machine: EmbeddedMachine): Promise<StopReason> {
  const stopped = new Promise<StopReason>((resolve) => (machine.onStop = resolve));
  machine.run();
  return await stopped;
}

const rng = (): VirtioDevice => entropyDevice((target) => void target.fill(1));

/** A device whose configuration space is memory, and that remembers what was written. */
function memoryDevice(writes: (readonly [offset: number, size: number])[]): {
  device: VirtioDevice;
  bytes: Uint8Array;
} {
  const bytes = new Uint8Array(16);
  const config = {
    length: bytes.length,
    read: (offset: number, target: Uint8Array) => target.set(bytes.subarray(offset, offset + target.length)),
    write: (offset: number, source: Uint8Array) => {
      bytes.set(source, offset);
      writes.push([offset, source.length]);
    },
  };
  return { device: { id: 63, name: "memory", features: 0n, queues: [], config }, bytes };
}

function read32(machine: EmbeddedMachine, address: number): number {
  const bytes = machine.memory.view(address, 4);
  return new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true);
}

describe("the guest stops by itself", () => {
  test("with interrupts off for ever", async () => {
    expect(await runToEnd(await create(elf(HALT)))).toBe("halt");
  });

  test("by the keyboard controller's reset", async () => {
    expect(await runToEnd(await create(elf(out(0x64, 1, 0xfe), HALT)))).toBe("reset");
  });

  test("by ACPI's power-off", async () => {
    const machine = await create(elf(out(0xb004, 2, 0x2000), HALT));
    expect(await runToEnd(machine)).toBe("power-off");
    await machine.pause();
    expect(machine.running).toBe(false);
  });
});

describe("memory-mapped I/O", () => {
  test("keeps the width of writes, also when v86 has translated the code", async () => {
    const writes: (readonly [number, number])[] = [];
    const { device, bytes } = memoryDevice(writes);
    const code = loop(50_000, [
      ...store(CONFIG, 1, 0x11),
      ...store(CONFIG + 2, 2, 0x3322),
      ...store(CONFIG + 4, 4, 0x77665544),
    ]);
    const machine = await create(elf(code, HALT));
    machine.plugMmio(device, { label: "memory" });
    expect(await runToEnd(machine)).toBe("halt");
    expect(writes).toHaveLength(150_000);
    expect(new Set(writes.map(String))).toEqual(new Set(["0,1", "2,2", "4,4"]));
    expect([...bytes.subarray(0, 8)]).toEqual([0x11, 0, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77]);
  });

  test("reads of every width", async () => {
    const { device, bytes } = memoryDevice([]);
    bytes.set([1, 2, 3, 0x84]);
    const code = [
      copy(CONFIG, 1, 0x300000),
      copy(CONFIG + 2, 2, 0x300004),
      copy(CONFIG, 4, 0x300008),
      copy(MMIO, 4, 0x30000c),
    ];
    const machine = await create(elf(...code, copy(MMIO + 0x10000, 4, 0x300010), HALT));
    machine.plugMmio(device, { label: "memory" });
    await runToEnd(machine);
    // The last lies in the block of the device and beyond its registers.
    expect([0, 4, 8, 12, 16].map((offset) => read32(machine, 0x300000 + offset))).toEqual([
      1, 0x8403, 0x84030201, 0x74726976, 0xffffffff,
    ]);
  });
});

describe("guest memory", () => {
  test("has a hole where the VGA is, and an end", async () => {
    const { memory } = await create(undefined);
    expect(memory.contiguous(0x9fff0, 0x100)).toBe(0x10);
    expect(
      [0xa0000, 0xbffff, MEMORY, MEMORY + 5, -1, 2 ** 53, Number.NaN].map((gpa) => memory.contiguous(gpa, 1)),
    ).toEqual(Array.from({ length: 7 }, () => 0));
    expect(memory.contiguous(0xc0000, 2 ** 32)).toBe(MEMORY - 0xc0000);
    expect(memory.view(MEMORY - 8, 8)).toHaveLength(8);
    for (const [gpa, length] of [
      [0x9fff8, 16],
      [MEMORY - 8, 9],
      [0xa0000, 1],
      [2 ** 40, 4],
    ] as const) {
      expect(() => memory.view(gpa, length)).toThrow(VirtioFault);
    }
  });

  test("what a device writes is what the processor executes, also when it had translated the code before", async () => {
    const FUNCTION = 0x200000;
    const COUNTER = 0x300000;
    const machine = await create(elf(callForever(FUNCTION)));
    machine.memory.view(FUNCTION, 7).set([...increment(COUNTER), ...RETURN]);
    const stopped = runToEnd(machine);
    while (read32(machine, COUNTER) < 2_000_000) await new Promise((resolve) => setTimeout(resolve, 5));
    machine.memory.view(FUNCTION, 2).set(HALT);
    machine.memory.wrote(FUNCTION, 2);
    expect(await stopped).toBe("halt");
  });
});

describe("a machine that cannot be", () => {
  test("memory sizes", async () => {
    for (const memorySize of [0, 1 << 20, MEMORY + 1, 2 ** 31]) {
      await expect(create(undefined, { memorySize })).rejects.toThrow(
        "memorySize must be a multiple of 131072 from 33554432 to 2013265920",
      );
    }
  });

  test("kernels", async () => {
    const amd64 = elf(HALT);
    amd64[18] = 62;
    const run = async (
      kernel: Uint8Array | undefined,
      options: Partial<MachineOptions> = {},
    ): Promise<void> => (await create(kernel, options)).run();
    await expect(run(amd64)).rejects.toThrow("not for i386");
    await expect(run(undefined)).rejects.toThrow("neither a kernel nor a restored state");
    await expect(run(Buffer.alloc(8192))).rejects.toThrow("neither an ELF vmlinux nor a bzImage");
    await expect(run(elf(HALT), { commandLine: "x".repeat(3000) })).rejects.toThrow(
      "3000 bytes, more than 2047",
    );
    await expect(run(elf(HALT), { initrd: new Uint8Array(30 << 20) })).rejects.toThrow(
      "does not fit into 32 MiB",
    );
  });

  test("places that are taken or do not exist, and what needs ACPI", async () => {
    const machine = await create(elf(HALT), { acpi: false });
    machine.plugPci(rng(), { label: "a", slot: 9 });
    expect(() => machine.plugPci(rng(), { label: "a" })).toThrow("two devices are called a");
    expect(() => machine.plugPci(rng(), { label: "b", slot: 9 })).toThrow(RangeError);
    expect(() => machine.plugPci(rng(), { label: "b", slot: 1 })).toThrow(
      "PCI: slot must be a whole number from 8 to 29, not 1",
    );
    expect(() => machine.plugPci(rng(), { label: "b", msix: true })).toThrow("b: MSI-X needs ACPI");
    expect(() => machine.plugMmio(rng(), { label: "b" })).toThrow("b: MMIO devices need ACPI");
    expect(machine.plugPci(rng(), { label: "b" }).address).toBe("pci 00:08.0");
    expect(machine.devices.map(({ label }) => label)).toEqual(["a", "b"]);
    expect(await runToEnd(machine)).toBe("halt");
    expect(() => machine.plugPci(rng(), { label: "late" })).toThrow("before the machine runs");
  });

  test("a full board", async () => {
    const machine = await create(undefined);
    for (let i = 0; i < 21; i++) machine.plugPci(rng(), { label: `pci${i}` });
    expect(() => machine.plugPci(rng(), { label: "one more", slot: 18 })).toThrow(
      "has a device of v86 itself",
    );
    expect(() => machine.plugPci(rng(), { label: "one more" })).toThrow("all PCI slots are taken");
    for (let i = 0; i < 128; i++) machine.plugMmio(rng(), { label: `mmio${i}` });
    expect(() => machine.plugMmio(rng(), { label: "one more" })).toThrow("no room for another MMIO device");
  });
});
