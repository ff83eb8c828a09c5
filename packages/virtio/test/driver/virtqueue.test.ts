import { expect, test } from "vitest";
import { DriverSession } from "../../src/driver/session.ts";
import type { VirtioDevice } from "../../src/device/device.ts";
import { VIRTIO_F_VERSION_1, featureBits } from "../../src/spec/core.ts";
import { Loopback, RINGS } from "../support/loopback.ts";

const VERSION_1 = featureBits(VIRTIO_F_VERSION_1);
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
  // Of many the device gets the first ones at once.
  transport.notifications = 0;
  const many = Array.from({ length: 20 }, request);
  expect(transport.notifications).toBe(2);
  await Promise.all(many);
  expect(transport.notifications).toBe(3);
});

/** Looks again without a notification as often as the test wants. */
class Looking extends Counting {
  looks = 0;
  calls = 0;
  readonly found: boolean[] = [];

  constructor(device: VirtioDevice, ring: bigint) {
    super(device, { features: ring });
    this.instance.notifier = {
      usedBuffer: (queue) => {
        this.calls++;
        this.onNotification?.({ queue, used: true, configuration: false });
      },
      configurationChange: () => undefined,
    };
  }

  looksAgain(_queue: number, found: boolean): boolean {
    this.found.push(found);
    return this.looks-- > 0;
  }
}

test.each(RINGS)(
  "while it is looked at anyway the device notifies nobody, then it does: $name",
  async ({ ring }) => {
    const transport = new Looking(DEVICE, ring);
    const session = await DriverSession.open(transport, { wanted: 0n });
    const queue = session.addQueue(0);
    session.ready();
    const gpa = transport.memory.allocate(16, 4);
    let ended = 0;
    const make = (count: number): void => {
      for (let i = 0; i < count; i++) queue.submit([], [{ gpa, length: 16 }], () => void ended++);
      queue.kick();
    };
    const look = (): void => transport.onNotification?.({ queue: 0, used: true, configuration: false });
    transport.looks = 2;
    make(1);
    expect([ended, transport.calls]).toEqual([1, 1]);
    make(3);
    expect([ended, transport.calls]).toEqual([1, 1]);
    look();
    expect(ended).toBe(4);
    make(3);
    expect([ended, transport.calls]).toEqual([4, 1]);
    look();
    expect(ended).toBe(7);
    make(1);
    expect([ended, transport.calls]).toEqual([8, 2]);
    expect(transport.found).toEqual([true, true, true, true]);
    look();
    expect(transport.found.at(-1)).toBe(false);
  },
);

test("what was used was found, though as much waited to take its place", async () => {
  const transport = new Looking(DEVICE, VERSION_1);
  const session = await DriverSession.open(transport, { wanted: 0n });
  const queue = session.addQueue(0);
  const gpa = transport.memory.allocate(16, 4);
  const done = Array.from({ length: 16 }, () => queue.request([], [{ gpa, length: 16 }]));
  session.ready();
  await Promise.all(done);
  expect(transport.found.slice(0, 2)).toEqual([true, true]);
});

test("a device that can no longer be notified has failed: every request ends, and nothing is thrown at nobody", async () => {
  class Unplugged extends Loopback {
    gone = false;

    override notify(index: number): void {
      this.#check();
      super.notify(index);
    }

    override readStatus(): number {
      this.#check();
      return super.readStatus();
    }

    #check(): void {
      if (this.gone) throw new Error("the machine is gone");
    }
  }
  for (const count of [1, 8, 20]) {
    const transport = new Unplugged(DEVICE);
    const session = await DriverSession.open(transport, { wanted: 0n });
    const failures: string[] = [];
    session.onFailure = ({ message }) => void failures.push(message);
    const queue = session.addQueue(0);
    session.ready();
    const gpa = transport.memory.allocate(16, 4);
    transport.gone = true;
    const requests = Array.from({ length: count }, () =>
      queue.request([], [{ gpa, length: 16 }]).catch(String),
    );
    for (const request of requests) expect(await request).toBe("Error: the machine is gone");
    expect(failures).toEqual(["the machine is gone"]);
    expect(session.failure?.message).toBe("the machine is gone");
  }
});
