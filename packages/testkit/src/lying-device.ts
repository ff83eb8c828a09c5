import assert from "node:assert/strict";
import { VirtioFault } from "virtio/fault";
import type { DriverQueue } from "virtio/virtqueue/types";
import type { CreateDriverQueue } from "./conformance/driver-queue.ts";
import { createWorld, DATA } from "./ring/history.ts";
import type { RingShape } from "./ring/place.ts";
import { RawPackedDevice } from "./ring/raw-packed.ts";
import { RawSplitDevice } from "./ring/raw-split.ts";

/** Both naive devices, of which the one of the format is used. */
interface Lies {
  readonly split: RawSplitDevice;
  readonly packed: RawPackedDevice;
  /** Tokens of the chains offered so far, oldest first. */
  readonly tokens: readonly number[];
}

/**
 * What a device must not do to a virtqueue. Three chains of 16 readable and 32 writable bytes are offered and
 * published; `before` is honest, then comes the lie.
 */
export interface LyingDevice {
  readonly name: string;
  readonly shape: RingShape;
  /** Used buffers that the driver takes before the lie. */
  readonly honest?: number;
  readonly lie: (lies: Lies) => void;
  /** The fault with its clause, or what the driver makes of it: nothing, or so many bytes written. */
  readonly outcome: { readonly clause: string } | "nothing" | { readonly written: number };
}

const CHAINS = 3;
const READABLE = 16;
const WRITABLE = 32;

const split = (name: string, lie: (device: RawSplitDevice, tokens: readonly number[]) => void) => ({
  name: `split: ${name}`,
  shape: { packed: false, size: 16, index: 5 },
  lie: ({ split: device, tokens }: Lies): void => lie(device, tokens),
  outcome: { clause: "dev.split.used" },
});
const packed = (name: string, lie: (device: RawPackedDevice, tokens: readonly number[]) => void) => ({
  name: `packed: ${name}`,
  shape: { packed: true, size: 15, index: 5 },
  lie: ({ packed: device, tokens }: Lies): void => lie(device, tokens),
  outcome: { clause: "dev.packed.desc" },
});
const splitElement =
  (id: number, idx: number, len = 0) =>
  (device: RawSplitDevice): void => {
    device.ring.setUsed(device.ring.usedIdx, id, len);
    device.ring.usedIdx += idx;
  };
/** Marks the slot at `offset` as used in the first lap. */
const packedElement =
  (id: number, offset: number, len = 0) =>
  (device: RawPackedDevice): void => {
    device.ring.setDescriptor(device.config.descriptorArea, offset, {
      addr: 0n,
      len,
      next: id,
      flags: 0x8082,
    });
  };

export const LYING_DEVICES: readonly LyingDevice[] = [
  split("used id beyond the ring", splitElement(16, 1)),
  split("used id of 2^32 - 1", splitElement(0xffff_ffff, 1)),
  split("used id of a chain that was never offered", splitElement(15, 1)),
  split("used id of a descriptor inside a chain", (device, tokens) => {
    const { next } = device.ring.getDescriptor(device.config.descriptorArea, tokens[0] ?? 0);
    splitElement(next, 1)(device);
  }),
  { ...split("a chain used twice", (device, tokens) => splitElement(tokens[0] ?? 0, 1)(device)), honest: 1 },
  split("used idx one ahead of what was made available", splitElement(0, CHAINS + 1)),
  split("used idx half way round", splitElement(0, 0x8000)),
  { ...split("used idx goes back", (device) => splitElement(0, 0xffff)(device)), honest: 1 },
  {
    ...split("more bytes written than there was room for", (device, tokens) =>
      splitElement(tokens[0] ?? 0, 1, 0xffff_ffff)(device),
    ),
    outcome: { written: WRITABLE },
  },
  {
    ...split("out of order under VIRTIO_F_IN_ORDER", (device, tokens) =>
      splitElement(tokens[1] ?? 0, 1)(device),
    ),
    shape: { packed: false, size: 16, index: 5, inOrder: true },
    outcome: { clause: "dev.core.reserved-features" },
  },
  packed("used id beyond the ring", packedElement(15, 0)),
  packed("used id of 65535", packedElement(0xffff, 0)),
  packed("used id of a chain that was never offered", (device, tokens) => {
    const id = Array.from({ length: 15 }, (_, i) => i).find((i) => !tokens.includes(i));
    packedElement(id ?? 0, 0)(device);
  }),
  {
    ...packed("a chain used twice", (device, tokens) => packedElement(tokens[0] ?? 0, 2)(device)),
    honest: 1,
  },
  {
    ...packed("more bytes written than there was room for", (device, tokens) =>
      packedElement(tokens[0] ?? 0, 0, 0xffff_ffff)(device),
    ),
    outcome: { written: WRITABLE },
  },
  {
    ...packed("slots marked that were never offered", (device) => {
      for (let offset = 2 * CHAINS; offset < 15; offset++) packedElement(0, offset)(device);
    }),
    honest: CHAINS,
    outcome: "nothing",
  },
];

/** Runs one lie against an implementation of `DriverQueue`; throws when it is not met as the catalogue says. */
export function checkLie(lying: LyingDevice, create: CreateDriverQueue): void {
  const world = createWorld(lying.shape);
  const driver = create(world.memory, world.config, lying.shape.packed);
  const lies: Lies = {
    split: new RawSplitDevice(world.memory, world.config),
    packed: new RawPackedDevice(world.memory, world.config),
    tokens: offer(driver),
  };
  const device = lying.shape.packed ? lies.packed : lies.split;
  device.take();
  for (const token of lies.tokens.slice(0, lying.honest ?? 0)) {
    device.use([{ token, written: 1 }]);
    assert.equal(driver.popUsed()?.token, token);
  }
  lying.lie(lies);
  const { outcome } = lying;
  if (outcome === "nothing") return assert.equal(driver.popUsed(), undefined);
  if ("written" in outcome) return assert.equal(driver.popUsed()?.written, outcome.written);
  assert.throws(
    () => driver.popUsed(),
    (error) => {
      assert.ok(error instanceof VirtioFault, `no VirtioFault but ${String(error)}`);
      assert.equal(error.clause, outcome.clause);
      assert.equal(error.queue, lying.shape.index);
      assert.notEqual(error.value, undefined);
      return true;
    },
  );
}

function offer(driver: DriverQueue): number[] {
  const tokens = Array.from({ length: CHAINS }, (_, i) =>
    driver.addAvailable(
      [{ gpa: DATA + 64 * i, length: READABLE }],
      [{ gpa: DATA + 64 * i + READABLE, length: WRITABLE }],
    ),
  );
  driver.takeNotification();
  return tokens.map((token) => {
    assert.notEqual(token, undefined);
    return token ?? -1;
  });
}
