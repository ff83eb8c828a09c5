import { clause } from "@virtio/testkit/clause";
import type { DeviceContext } from "virtio/device/device";
import { DeviceInstance } from "virtio/device/instance";
import { RegionMemory } from "virtio/memory/region-memory";
import { VIRTIO_F_EVENT_IDX, VIRTIO_F_RING_PACKED, VIRTIO_F_VERSION_1, featureBits } from "virtio/spec/core";
import { createDriverQueue } from "virtio/virtqueue/create";
import { describe, expect, test } from "vitest";

const AREAS = { descriptorArea: 0x1000, driverArea: 0x2000, deviceArea: 0x3000 };
const FEATURES = featureBits(VIRTIO_F_VERSION_1, VIRTIO_F_EVENT_IDX, VIRTIO_F_RING_PACKED);

/** A device that uses every buffer at once and puts the notification off, with its driver's end of the ring. */
function plug(packed: boolean, idle: boolean) {
  const memory = new RegionMemory([{ gpa: 0, bytes: new Uint8Array(0x10000) }]);
  const put: (() => void)[] = [];
  let context: DeviceContext | undefined;
  const drain = (): void => {
    const queue = context?.queue(0);
    for (let chain = queue?.popAvailable(); chain; chain = queue?.popAvailable()) queue?.addUsed(chain, 0);
    queue?.flushLazily();
  };
  const instance = new DeviceInstance(
    {
      id: 3,
      name: "lazy",
      features: 0n,
      queues: [{ name: "transmitq", maxSize: 8, refilled: drain }],
      activate: (given) => (context = given),
    },
    {
      label: "lazy0",
      memory,
      features: FEATURES,
      scheduler: {
        soon: (task) => task(),
        later: (task) => task(),
        now: () => 0,
        ...(idle ? { idle: (task: () => void) => void put.push(task) } : {}),
      },
    },
  );
  let notifications = 0;
  instance.notifier = { usedBuffer: () => notifications++, configurationChange: () => undefined };
  const accepted = packed ? FEATURES : FEATURES & ~featureBits(VIRTIO_F_RING_PACKED);
  for (const half of [0, 1])
    instance.writeDriverFeatures(half, Number((accepted >> BigInt(32 * half)) & 0xffff_ffffn));
  instance.writeStatus(1 | 2);
  instance.writeStatus(1 | 2 | 8);
  const registers = instance.queue(0);
  if (registers === undefined) throw new Error("no queue");
  Object.assign(registers, { size: 8, ...AREAS });
  registers.enable();
  const driver = createDriverQueue(memory, { index: 0, size: 8, ...AREAS, eventIdx: true }, packed);
  driver.setNotifications(true);
  instance.writeStatus(1 | 2 | 8 | 4);
  const offer = (): void => {
    driver.addAvailable([{ gpa: 0x8000, length: 4 }], []);
    driver.takeNotification();
    instance.notify(0);
  };
  return { instance, driver, offer, put, count: () => notifications };
}

describe.each([
  ["split", false],
  ["packed", true],
] as const)("%s", (_, packed) => {
  test(
    clause(["dev.split.used-notify"], "a driver that polled meanwhile is not notified, one that waits is"),
    () => {
      const { driver, offer, put, count } = plug(packed, true);
      offer();
      expect(driver.popUsed()).toBeDefined();
      driver.setNotifications(true);
      put.splice(0).forEach((task) => task());
      expect(count()).toBe(0);
      offer();
      offer();
      expect([put.length, count()]).toEqual([1, 0]);
      put.splice(0).forEach((task) => task());
      expect(count()).toBe(1);
      expect(driver.popUsed()).toBeDefined();
      expect(driver.popUsed()).toBeDefined();
    },
  );

  test("without an idle scheduler nothing is put off", () => {
    const { offer, count } = plug(packed, false);
    offer();
    expect(count()).toBe(1);
  });

  test("a pause decides on what was put off", async () => {
    const { instance, offer, put, count } = plug(packed, true);
    offer();
    await instance.pause();
    expect(count()).toBe(1);
    put.splice(0).forEach((task) => task());
    expect(count()).toBe(1);
  });

  test("a reset forgets it", () => {
    const { instance, offer, put, count } = plug(packed, true);
    offer();
    instance.writeStatus(0);
    put.splice(0).forEach((task) => task());
    expect(count()).toBe(0);
  });
});
