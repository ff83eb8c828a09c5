import { expect, test } from "vitest";
import { DriverSession } from "../../src/driver/session.ts";
import type { VirtioDevice } from "../../src/device/device.ts";
import { Loopback } from "../support/loopback.ts";

const DEVICE: VirtioDevice = {
  id: 4,
  name: "probe",
  features: 0n,
  queues: [{ name: "requestq", maxSize: 8, serve: (chain) => chain.writableLength }],
};

class Counting extends Loopback {
  notifications = 0;

  override notify(index: number): void {
    this.notifications++;
    super.notify(index);
  }
}

test("requests made together are made available together, with one notification", async () => {
  const transport = new Counting(DEVICE);
  const session = await DriverSession.open(transport, { wanted: 0n });
  const queue = session.addQueue(0);
  session.ready();
  transport.notifications = 0;
  const request = (): Promise<number> =>
    queue.request([], [{ gpa: transport.memory.allocate(16, 4), length: 16 }]);
  expect(await Promise.all(Array.from({ length: 5 }, request))).toEqual([16, 16, 16, 16, 16]);
  expect(transport.notifications).toBe(1);
  await request();
  expect(transport.notifications).toBe(2);
});
