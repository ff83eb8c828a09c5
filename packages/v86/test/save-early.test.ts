/** Saving and restoring a machine of v86 at times when its guest has done little, or something odd. */
import { readV86Wasm } from "@virtio/v86/node";
import { EmbeddedMachine } from "@virtio/v86";
import type { PluggedDevice } from "@virtio/v86";
import { entropyDevice } from "virtio/devices/entropy/device";
import type { EntropySource } from "virtio/backends/entropy";
import { afterEach, describe, expect, test } from "vitest";
import { elf, store } from "./tiny-kernel.ts";

/** `jmp .` */
const FOREVER = [0xeb, 0xfe];
const MMIO_BASE = 0xfd00_0000;

interface Machine {
  readonly machine: EmbeddedMachine;
  readonly rng: PluggedDevice;
}

const machines: EmbeddedMachine[] = [];
afterEach(async () => {
  for (const machine of machines.splice(0)) await machine.destroy();
});

async function make(
  options: { readonly kernel?: Uint8Array; readonly acpi?: boolean; readonly source?: EntropySource } = {},
): Promise<Machine> {
  const { kernel, acpi = true, source = (bytes) => void bytes.fill(1) } = options;
  const machine = await EmbeddedMachine.create({
    memorySize: 32 << 20,
    wasm: await readV86Wasm(),
    acpi,
    ...(kernel === undefined ? {} : { kernel }),
    v86Options: { net_device: { type: "ne2k", relay_url: "" } },
  });
  machines.push(machine);
  const rng = acpi
    ? machine.plugMmio(entropyDevice(source), { label: "rng" })
    : machine.plugPci(entropyDevice(source), { label: "rng" });
  return { machine, rng };
}

interface V86Pci {
  readonly devices: ({ readonly name: string } | undefined)[];
  raise_irq(bdf: number): void;
  lower_irq(bdf: number): void;
}

interface V86Cpu {
  readonly devices: { readonly pci: V86Pci };
  readonly wasm_memory: { readonly buffer: ArrayBuffer };
  get_pic_addr_master(): number;
  get_pic_addr_slave(): number;
}

function cpuOf(machine: EmbeddedMachine): V86Cpu {
  return (machine.emulator as { readonly v86: { readonly cpu: V86Cpu } }).v86.cpu;
}

/** Both interrupt controllers, byte for byte. */
function controllers(machine: EmbeddedMachine): number[] {
  const cpu = cpuOf(machine);
  const bytes = new Uint8Array(cpu.wasm_memory.buffer);
  return [cpu.get_pic_addr_master(), cpu.get_pic_addr_slave()].flatMap((at) =>
    Array.from(bytes.subarray(at, at + 12)),
  );
}

async function runs(machine: EmbeddedMachine): Promise<void> {
  machine.run();
  await new Promise((resolve) => setTimeout(resolve, 50));
}

describe("a machine that is saved", () => {
  test.each([true, false])("before its guest has written any PCI BAR is restored, ACPI %s", async (acpi) => {
    const { machine } = await make({ kernel: elf(FOREVER), acpi });
    await runs(machine);
    const state = await machine.save();
    const other = await make({ acpi });
    await other.machine.restore(state);
    expect(other.rng.instance.status).toBe(0);
    expect(controllers(other.machine)).toEqual(controllers(machine));
  });

  test.each([8, 0x1_0000, 0xffff_ffff])(
    "after the guest wrote %i to QueueSize is restored with it",
    async (value) => {
      const write = [store(MMIO_BASE + 0x30, 4, 0), store(MMIO_BASE + 0x38, 4, value)];
      const { machine, rng } = await make({ kernel: elf(...write, FOREVER) });
      machine.run();
      await expect.poll(() => rng.instance.queue(0)?.size).toBe(value);
      const state = await machine.save();
      const other = await make();
      await other.machine.restore(state);
      expect(other.rng.instance.queue(0)?.size).toBe(value);
    },
  );

  test("with an interrupt of a PCI device of v86's own asserted has it asserted when it is restored, and lowered then", async () => {
    const { machine } = await make({ kernel: elf(FOREVER) });
    await runs(machine);
    const { pci } = cpuOf(machine).devices;
    const bdf = pci.devices.findIndex((device) => /ne2k/i.test(device?.name ?? ""));
    expect(bdf).toBeGreaterThanOrEqual(0);
    const idle = controllers(machine);
    pci.raise_irq(bdf);
    const asserted = controllers(machine);
    expect(asserted).not.toEqual(idle);
    const state = await machine.save();
    pci.lower_irq(bdf);
    const lowered = controllers(machine);
    const other = await make();
    // One that had another pin asserted itself.
    await other.machine.restore(state);
    expect(controllers(other.machine)).toEqual(asserted);
    cpuOf(other.machine).devices.pci.lower_irq(bdf);
    expect(controllers(other.machine)).toEqual(lowered);
    // And the other way round: what is asserted now and was not then.
    const quiet = await machine.save();
    cpuOf(other.machine).devices.pci.raise_irq(bdf);
    await other.machine.restore(quiet);
    expect(controllers(other.machine)).toEqual(lowered);
    cpuOf(other.machine).devices.pci.raise_irq(bdf);
    expect(controllers(other.machine)).toEqual(asserted);
  });
});

test("nothing of before lands in the memory of a machine that is restored while a request is in flight", async () => {
  let ticks = 0;
  const source = async (target: Uint8Array): Promise<void> => {
    for (let i = 0; i < ticks; i++) await Promise.resolve();
    target.fill(0xee);
  };
  const { machine, rng } = await make({ kernel: elf(FOREVER), source });
  await runs(machine);
  const state = await machine.save();
  for (ticks = 0; ticks < 40; ticks++) {
    machine.run();
    const { instance } = rng;
    for (const status of [0, 1, 3]) instance.writeStatus(status);
    instance.writeDriverFeatures(1, 1);
    instance.writeStatus(11);
    const ring = machine.memory.view(0x30_0000, 0x4000).fill(0);
    const view = new DataView(ring.buffer, ring.byteOffset, ring.length);
    view.setUint32(0, 0x40_0000, true);
    view.setUint32(8, 64, true);
    view.setUint16(12, 2, true);
    view.setUint16(0x1002, 1, true);
    const queue = instance.queue(0) ?? expect.unreachable();
    queue.setArea("descriptorArea", "low", 0x30_0000);
    queue.setArea("driverArea", "low", 0x30_1000);
    queue.setArea("deviceArea", "low", 0x30_2000);
    queue.enable();
    instance.writeStatus(15);
    await machine.restore(state);
    expect(machine.memory.view(0x40_0000, 1)[0], `${ticks} microtasks`).toBe(0);
    expect(machine.memory.view(0x30_2002, 1)[0], `${ticks} microtasks`).toBe(0);
  }
});
