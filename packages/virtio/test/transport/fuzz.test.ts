import { patientScheduler } from "@virtio/testkit/patient-scheduler";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { AccessSize, IoHandler } from "virtio/bus/types";
import { SUPPORTED_CORE_FEATURES } from "virtio/device/features";
import { DeviceInstance } from "virtio/device/instance";
import { RegionMemory } from "virtio/memory/region-memory";
import { VIRTIO_F_NOTIF_CONFIG_DATA, featureBits } from "virtio/spec/core";
import { virtioMmio } from "virtio/transport/mmio/registers";
import type { VirtioPciOptions } from "virtio/transport/pci/options";
import { echoDevice, PciRig } from "./support.ts";

/** An access somewhere; which register file it means is decided by the test. */
interface Step {
  readonly target: number;
  readonly offset: number;
  readonly size: AccessSize;
  /** Null: a read. */
  readonly value: number | null;
}

/** Offsets of real registers often, anything sometimes. */
const offset = fc.oneof(
  { weight: 6, arbitrary: fc.nat({ max: 0x40 }) },
  { weight: 4, arbitrary: fc.nat({ max: 0x40 }).map((dword) => dword * 4) },
  { weight: 2, arbitrary: fc.constantFrom(0x1000, 0x2000, 0x3000, 0x3004, 0x100, 0x1fc, 0x1ff) },
  { weight: 1, arbitrary: fc.nat({ max: 0x5000 }) },
);
const value = fc.oneof(
  fc.nat({ max: 16 }),
  fc.constantFrom(0, 1, 3, 7, 11, 15, 0xffff, 0x1000, 0x4000, 0xffffffff, 0x80000000),
  fc.nat({ max: 0xffffffff }),
);
const step: fc.Arbitrary<Step> = fc.record({
  target: fc.nat({ max: 5 }),
  offset,
  size: fc.constantFrom<AccessSize>(1, 2, 4),
  value: fc.option(value, { freq: 3 }),
});
const steps = fc.array(step, { maxLength: 200 });

/** Bytes of rings: descriptors and indexes that mean something, and some that do not. */
const ram = fc.array(fc.tuple(fc.nat({ max: 0x7fff }), fc.nat({ max: 255 })), { maxLength: 60 });

function play(handlers: readonly IoHandler[], todo: readonly Step[]): void {
  for (const { target, offset: at, size, value: written } of todo) {
    const handler = handlers[target % handlers.length];
    if (written !== null) handler?.write(at, size, size === 4 ? written : written % 256 ** size);
    else {
      const read = handler?.read(at, size) ?? 0;
      expect(Number.isInteger(read) && read >= 0 && read < 256 ** size, `${read}`).toBe(true);
    }
  }
}

const pciOptions: readonly VirtioPciOptions[] = [
  { mode: "modern" },
  { mode: "modern", modernBar: "io", msixVectors: 1 },
  {
    mode: "transitional",
    sharedMemory: [{ id: 1, length: 4096, handler: { read: () => 0, write: () => {} } }],
  },
  { mode: "legacy", msixVectors: 0 },
];

describe("random accesses of any width at any offset have an answer", () => {
  test.each(pciOptions)("PCI %o", (options) => {
    fc.assert(
      fc.property(steps, ram, fc.nat({ max: 2 }), (todo, bytes, delay) => {
        const rig = new PciRig(echoDevice({ maxSize: 8, delay }), options, {
          features: SUPPORTED_CORE_FEATURES,
        });
        for (const [at, byte] of bytes) rig.ram[at] = byte;
        const config: IoHandler = {
          read: (at, size) => rig.fn.readConfig(at, size),
          write: (at, size, written) => rig.fn.writeConfig(at, size, written),
        };
        play([...rig.fn.bars.map(({ handler }) => handler), config], todo);
        // It can always be reset and used again.
        rig.fn.reset();
        expect(rig.instance.status).toBe(0);
        expect(rig.pin).toBe(false);
      }),
      { numRuns: 200 },
    );
  });

  test.each([1, 2] as const)("MMIO version %s", (version) => {
    const features = SUPPORTED_CORE_FEATURES & ~featureBits(VIRTIO_F_NOTIF_CONFIG_DATA);
    fc.assert(
      fc.property(steps, ram, fc.nat({ max: 2 }), (todo, bytes, delay) => {
        const memory = new Uint8Array(0x8000);
        for (const [at, byte] of bytes) memory[at] = byte;
        const instance = new DeviceInstance(echoDevice({ maxSize: 8, delay }), {
          label: "fuzz",
          scheduler: patientScheduler,
          memory: new RegionMemory([{ gpa: 0, bytes: memory }]),
          features,
        });
        let level = false;
        const registers = virtioMmio(instance, {
          version,
          interrupt: { set: (asserted) => void (level = asserted) },
        });
        play([registers], todo);
        expect(level).toBe(registers.read(0x60, 4) !== 0);
        registers.reset();
        expect(instance.status).toBe(0);
        expect(level).toBe(false);
      }),
      { numRuns: 300 },
    );
  });
});
