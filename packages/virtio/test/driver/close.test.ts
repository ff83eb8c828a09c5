import { expect, test } from "vitest";
import { DmaPool } from "../../src/driver/dma.ts";
import { DriverSession } from "../../src/driver/session.ts";
import { VIRTIO_STATUS_DRIVER_OK } from "../../src/spec/core.ts";
import { Loopback } from "../support/loopback.ts";

test("close lets go of the transport even when the reset never ends, and keeps the device's memory", async () => {
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
  await expect(session.close()).rejects.toThrow("never completes");
  await ended;
  expect([closed, transport.pool().available]).toEqual([1, available]);
}, 60_000);
