import { expect, test } from "vitest";
import type { VirtioDevice } from "../../src/device/device.ts";
import { entropyDevice } from "../../src/devices/entropy/device.ts";
import { DmaPool } from "../../src/driver/dma.ts";
import { DriverSession } from "../../src/driver/session.ts";
import { BalloonDriver } from "../../src/drivers/balloon/driver.ts";
import { EntropyDriver } from "../../src/drivers/entropy/driver.ts";
import { GpuDriver } from "../../src/drivers/gpu/driver.ts";
import { ScsiDriver } from "../../src/drivers/scsi/driver.ts";
import { VsockDriver } from "../../src/drivers/vsock/driver.ts";
import { VIRTIO_STATUS_DRIVER_OK } from "../../src/spec/core.ts";
import { ALL_BALLOON, TestBalloon } from "../balloon/device.ts";
import { TestCard } from "../gpu/card.ts";
import { TestHost } from "../scsi/host.ts";
import { Loopback } from "../support/loopback.ts";
import { TestVsock } from "../vsock/host.ts";

test("close that is aborted lets go of the transport though the reset never ends, and keeps the device's memory", async () => {
  let closed = 0;
  class Stuck extends Loopback {
    stuck = false;
    override readStatus(): number {
      return this.stuck ? VIRTIO_STATUS_DRIVER_OK : super.readStatus();
    }
    close(): void {
      closed++;
    }
    pool(): DmaPool {
      if (!(this.memory instanceof DmaPool)) throw new Error("no pool");
      return this.memory;
    }
  }
  const transport = new Stuck(
    { id: 4, name: "stuck", features: 0n, queues: [{ name: "q", maxSize: 8 }] },
    {},
  );
  const session = await DriverSession.open(transport, { wanted: 0n });
  const queue = session.addQueue(0);
  session.ready();
  const request = queue.request([{ gpa: 0x8000, length: 4 }], []);
  const ended = expect(request).rejects.toThrow("closed");
  const available = transport.pool().available;
  transport.stuck = true;
  const controller = new AbortController();
  const close = session.close(controller.signal);
  controller.abort(new Error("waited long enough"));
  await expect(close).rejects.toThrow("waited long enough");
  await ended;
  expect([closed, transport.pool().available]).toEqual([1, available]);
});

const DRIVERS: readonly {
  readonly name: string;
  readonly device: () => VirtioDevice;
  readonly open: (transport: Loopback) => Promise<{ close(): Promise<void> }>;
}[] = [
  {
    name: "entropy",
    device: () => entropyDevice((target) => void target.fill(1)),
    open: (transport) => EntropyDriver.open(transport),
  },
  {
    name: "balloon",
    device: () => new TestBalloon(ALL_BALLOON),
    open: (transport) => BalloonDriver.open(transport, { statistics: () => ({ free: 1 }) }),
  },
  { name: "gpu", device: () => new TestCard(), open: (transport) => GpuDriver.open(transport) },
  { name: "scsi", device: () => new TestHost([]), open: (transport) => ScsiDriver.open(transport) },
  { name: "vsock", device: () => new TestVsock(), open: (transport) => VsockDriver.open(transport) },
];

test.each(DRIVERS)(
  "a $name driver that is closed twice leaves the device and its memory to the next",
  async ({ device, open }) => {
    const transport = new Loopback(device());
    const first = await open(transport);
    await first.close();
    const second = await open(transport);
    const { memory } = transport;
    const available = memory instanceof DmaPool ? memory.available : 0;
    await first.close();
    expect(transport.readStatus() & VIRTIO_STATUS_DRIVER_OK).toBe(VIRTIO_STATUS_DRIVER_OK);
    expect(memory instanceof DmaPool && memory.available).toBe(available);
    await Promise.all([second.close(), second.close()]);
  },
);
