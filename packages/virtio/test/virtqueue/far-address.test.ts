import { patientScheduler } from "@virtio/testkit/patient-scheduler";
/** Addresses of 2**53 and above, which only a memory that has `address` knows: Xen's grants have bit 63 set. */
import { clause } from "@virtio/testkit/clause";
import { describe, expect, test } from "vitest";
import { DeviceInstance } from "virtio/device/instance";
import type { VirtioFault } from "virtio/fault";
import type { GuestMemory } from "virtio/memory/guest-memory";
import { RegionMemory } from "virtio/memory/region-memory";
import {
  featureBits,
  VIRTIO_F_INDIRECT_DESC,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_VERSION_1,
} from "virtio/spec/core";
import { VIRTIO_MMIO as MMIO } from "virtio/spec/mmio";
import { virtioMmio } from "virtio/transport/mmio/registers";
import type { DescriptorChain } from "virtio/virtqueue/types";

const GRANT = 1n << 63n;
const PAGE = 4096;
const FIRST = 0x8000;
const GRANTS = 8;
const INDIRECT = 4;
const AVAILABLE = 0x80;

const bytes = new Uint8Array(0x1_0000);
const view = new DataView(bytes.buffer);
const plain = new RegionMemory([{ gpa: 0, bytes }]);

/** Grant n is the page at FIRST + n pages; the rest of the address is the offset in the page. */
class GrantMemory implements GuestMemory {
  readonly epoch = 1;
  readonly asked: bigint[] = [];
  view = (gpa: number, length: number): Uint8Array => plain.view(gpa, length);
  contiguous = (gpa: number, length: number): number => plain.contiguous(gpa, length);
  wrote = (): void => undefined;

  address(low: number, high: number): number {
    const address = (BigInt(high) << 32n) | BigInt(low);
    this.asked.push(address);
    const grant = Number((address & ~GRANT) >> 12n);
    if ((address & GRANT) === 0n || grant >= GRANTS) return Number.MAX_SAFE_INTEGER;
    return FIRST + grant * PAGE + (low % PAGE);
  }
}

const grant = (number: number, offset = 0): bigint => GRANT | BigInt(number * PAGE + offset);

function descriptor(at: number, address: bigint, length: number, tail: number): void {
  view.setBigUint64(at, address, true);
  view.setUint32(at + 8, length, true);
  view.setUint32(at + 12, tail, true);
}

/** A device of one queue whose areas are where the driver says, with one buffer in it; what became of it. */
function run(
  memory: GuestMemory,
  packed: boolean,
  areas: readonly [bigint, bigint, bigint],
): { chains: DescriptorChain[]; faults: VirtioFault[] } {
  const chains: DescriptorChain[] = [];
  const faults: VirtioFault[] = [];
  const ring = packed ? VIRTIO_F_RING_PACKED : VIRTIO_F_VERSION_1;
  const features = featureBits(VIRTIO_F_VERSION_1, VIRTIO_F_INDIRECT_DESC, ring);
  const serve = (chain: DescriptorChain): number => {
    chains.push({ ...chain, readable: chain.readable.map((segment) => ({ ...segment })) });
    return 0;
  };
  const device = { id: 4, name: "probe", features: 0n, queues: [{ name: "requestq", maxSize: 4, serve }] };
  const instance = new DeviceInstance(device, {
    label: "probe",
    memory,
    features,
    scheduler: patientScheduler,
  });
  instance.onFault = (fault) => void faults.push(fault);
  const mmio = virtioMmio(instance, { interrupt: { set: () => undefined } });
  const write = (offset: number, value: number): void => mmio.write(offset, 4, value);
  write(MMIO.Status, 3);
  for (const window of [0, 1]) {
    write(MMIO.DriverFeaturesSel, window);
    write(MMIO.DriverFeatures, Number(BigInt.asUintN(32, features >> BigInt(32 * window))));
  }
  write(MMIO.Status, 0xb);
  write(MMIO.QueueSize, 4);
  [MMIO.QueueDescLow, MMIO.QueueDriverLow, MMIO.QueueDeviceLow].forEach((low, i) => {
    write(low, Number(BigInt.asUintN(32, areas[i] ?? 0n)));
    write(low + 4, Number((areas[i] ?? 0n) >> 32n));
  });
  write(MMIO.QueueReady, 1);
  write(MMIO.Status, 0xf);
  return { chains, faults };
}

const LOW_AREAS = [0x1000n, 0x2000n, 0x3000n] as const;

describe.each([
  { name: "split", packed: false },
  { name: "packed", packed: true },
])("far addresses, $name", ({ name, packed }) => {
  const rule = packed ? "drv.packed.sg" : "drv.split.desc";

  /** One buffer whose descriptor is the first at `at`. */
  function offer(at: number, driverArea: number, address: bigint, length: number, flags: number): void {
    bytes.fill(0);
    const tail = packed ? ((flags | AVAILABLE) << 16) >>> 0 : flags;
    descriptor(at, address, length, tail);
    if (!packed) view.setUint16(driverArea + 2, 1, true);
  }

  test("a buffer in a grant is read where the grant is", () => {
    offer(0x1000, 0x2000, grant(5, 0x123), 64, 0);
    const { chains, faults } = run(new GrantMemory(), packed, LOW_AREAS);
    expect(faults).toEqual([]);
    expect(chains.map(({ readable }) => readable)).toEqual([[{ gpa: FIRST + 5 * PAGE + 0x123, length: 64 }]]);
  });

  test("an indirect table in a grant, of buffers in grants", () => {
    offer(0x1000, 0x2000, grant(2, 16), 16, INDIRECT);
    descriptor(FIRST + 2 * PAGE + 16, grant(3), 8, 0);
    const { chains, faults } = run(new GrantMemory(), packed, LOW_AREAS);
    expect(faults).toEqual([]);
    expect(chains.map(({ readable }) => readable)).toEqual([[{ gpa: FIRST + 3 * PAGE, length: 8 }]]);
  });

  test("the areas of the queue itself in grants", () => {
    offer(FIRST + PAGE, FIRST + 4 * PAGE, grant(7), 32, 0);
    const { chains, faults } = run(new GrantMemory(), packed, [grant(1), grant(4), grant(6)]);
    expect(faults).toEqual([]);
    expect(chains.map(({ readable }) => readable)).toEqual([[{ gpa: FIRST + 7 * PAGE, length: 32 }]]);
  });

  test("memory is asked about no address below 2**53", () => {
    const memory = new GrantMemory();
    offer(0x1000, 0x2000, 0x4000n, 8, 0);
    expect(run(memory, packed, LOW_AREAS).chains).toHaveLength(1);
    expect(memory.asked).toEqual([]);
  });

  test(
    clause([rule], `${name}: an address that memory does not know is a fault that shows the address`),
    () => {
      offer(0x1000, 0x2000, grant(5), 64, 0);
      const found = Number(grant(5));
      expect(run(plain, packed, LOW_AREAS).faults).toMatchObject([{ clause: rule, value: found }]);
      offer(0x1000, 0x2000, grant(GRANTS), 64, 0);
      expect(run(new GrantMemory(), packed, LOW_AREAS).faults).toMatchObject([{ clause: rule }]);
      expect(run(plain, packed, [grant(1), 0x2000n, 0x3000n]).faults).toMatchObject([
        { clause: packed ? "drv.packed.layout" : "drv.split.layout", value: Number(grant(1)) },
      ]);
    },
  );
});
