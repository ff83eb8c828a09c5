import { clause } from "@virtio/testkit/clause";
import { describe, expect, test } from "vitest";
import type { VirtioDevice } from "../../src/device/device.ts";
import { DmaPool } from "../../src/driver/dma.ts";
import { DriverSession } from "../../src/driver/session.ts";
import {
  VIRTIO_F_ACCESS_PLATFORM,
  VIRTIO_F_NOTIFICATION_DATA,
  VIRTIO_F_SUSPEND,
  VIRTIO_F_VERSION_1,
  featureBits,
} from "../../src/spec/core.ts";
import { Loopback, settle } from "../support/loopback.ts";

const MODERN = featureBits(VIRTIO_F_VERSION_1);
const ACKNOWLEDGE = 1;
const DRIVER = 2;
const DRIVER_OK = 4;
const FEATURES_OK = 8;
const NEEDS_RESET = 64;
const FAILED = 128;

/** A transport that writes down what the driver does, and can be made to lie. */
class Recorder extends Loopback {
  readonly log: string[] = [];
  /** Bits that the device is said to offer besides its own. */
  extra = 0n;
  refuse = false;
  generation: (() => number) | undefined;

  override writeStatus(value: number): void {
    this.log.push(`status ${value}`);
    super.writeStatus(this.refuse ? value & ~FEATURES_OK : value);
  }
  override readStatus(): number {
    const status = super.readStatus();
    this.log.push(`read status ${status}`);
    return status;
  }
  override readDeviceFeatures(): bigint {
    this.log.push("read features");
    return super.readDeviceFeatures() | this.extra;
  }
  override writeDriverFeatures(features: bigint): void {
    this.log.push(`features ${features.toString(16)}`);
    super.writeDriverFeatures(features);
  }
  override enableQueue(config: Parameters<Loopback["enableQueue"]>[0]): void {
    this.log.push(`enable ${config.index}`);
    super.enableQueue(config);
  }
  override notify(index: number): void {
    this.log.push(`notify ${index}`);
    super.notify(index);
  }
  override writeConfig(offset: number, source: Uint8Array): void {
    this.log.push("write config");
    super.writeConfig(offset, source);
  }
  override configGeneration(): number {
    return this.generation?.() ?? super.configGeneration();
  }
  /** What was written, without the reads. */
  get writes(): string[] {
    return this.log.filter((line) => !line.startsWith("read"));
  }
}

function device(changes: Partial<VirtioDevice> = {}): VirtioDevice {
  return {
    id: 4,
    name: "probe",
    features: 0b1111n,
    queues: [
      { name: "requestq", maxSize: 8, serve: (chain) => chain.writableLength },
      { name: "slowq", maxSize: 8, serve: () => new Promise<number>(() => undefined) },
    ],
    config: {
      length: 16,
      read: (offset, target) => target.forEach((_, i) => (target[i] = offset + i)),
      write: () => undefined,
    },
    ...changes,
  };
}

/** A writable buffer of so many bytes. */
function buffer(transport: Loopback, length = 16): { gpa: number; length: number } {
  return { gpa: transport.memory.allocate(length, 4), length };
}

describe("device initialisation", () => {
  test(
    clause(["drv.core.init", "drv.core.status"], "follows the sequence, and sends nothing before DRIVER_OK"),
    async () => {
      const transport = new Recorder(device());
      const session = await DriverSession.open(transport, { wanted: 0b11n });
      const queue = session.addQueue(0);
      const done: number[] = [];
      queue.post([], [buffer(transport)], (written) => done.push(written));
      queue.kick();
      expect(done).toEqual([]);
      session.ready();
      const accepted = session.features.toString(16);
      expect(transport.writes).toEqual([
        "status 0",
        `status ${ACKNOWLEDGE}`,
        `status ${ACKNOWLEDGE | DRIVER}`,
        `features ${accepted}`,
        `status ${ACKNOWLEDGE | DRIVER | FEATURES_OK}`,
        "enable 0",
        `status ${ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK}`,
        "notify 0",
      ]);
      // Read back after FEATURES_OK, and nothing in between.
      const at = transport.log.indexOf(`status ${ACKNOWLEDGE | DRIVER | FEATURES_OK}`);
      expect(transport.log[at + 1]).toBe(`read status ${ACKNOWLEDGE | DRIVER | FEATURES_OK}`);
      // What was posted before DRIVER_OK is told of once it is live, and comes back.
      await settle();
      expect(done).toEqual([16]);
      await session.close();
    },
  );

  test(
    clause(["drv.core.status", "drv.core.cleanup"], "bits are only ever added, until a reset"),
    async () => {
      const transport = new Recorder(device());
      const session = await DriverSession.open(transport, { wanted: 0n });
      session.addQueue(0);
      session.ready();
      session.fail(new Error("enough"));
      const before = transport.memory.allocate(16, 16);
      await session.close();
      let last = 0;
      for (const line of transport.writes) {
        const status = Number(/^status (\d+)$/.exec(line)?.[1] ?? last);
        if (status !== 0) expect(status & last).toBe(last);
        last = status;
      }
      expect(transport.writes.at(-1)).toBe("status 0");
      expect(transport.writes).toContain(`status ${15 | FAILED}`);
      expect(before).toBeGreaterThan(0);
    },
  );

  test(
    clause(
      ["drv.core.init", "drv.core.features"],
      "a device that refuses the features is given up with FAILED",
    ),
    async () => {
      const transport = new Recorder(device());
      transport.refuse = true;
      await expect(DriverSession.open(transport, { wanted: 0n })).rejects.toThrow(/refuses the features/);
      expect(transport.writes.at(-1)).toBe(`status ${ACKNOWLEDGE | DRIVER | FAILED}`);
      expect(transport.writes.filter((line) => line.startsWith("enable"))).toEqual([]);
    },
  );

  test(clause("drv.core.features", "what the driver cannot do without must be offered"), async () => {
    const transport = new Recorder(device());
    const opened = DriverSession.open(transport, { wanted: 0n, required: 1n << 20n });
    await expect(opened).rejects.toThrow(/does not offer features 0x100000/);
    expect(transport.writes.at(-1)).toBe(`status ${ACKNOWLEDGE | DRIVER | FAILED}`);
  });

  test("a device without VIRTIO_F_VERSION_1 cannot be driven through a modern transport", async () => {
    const transport = new Recorder(device(), { features: 0n });
    await expect(DriverSession.open(transport, { wanted: 0n })).rejects.toThrow(/VIRTIO_F_VERSION_1/);
  });

  test("a virtqueue that is not there is given up with FAILED", async () => {
    const transport = new Recorder(device());
    const session = await DriverSession.open(transport, { wanted: 0n });
    expect(() => session.addQueue(2)).toThrow(/no virtqueue 2/);
    expect(transport.writes.at(-1)).toBe(`status ${ACKNOWLEDGE | DRIVER | FEATURES_OK | FAILED}`);
  });
});

describe("features", () => {
  const accepted = async (wanted: bigint, extra = 0n, dependencies = {}): Promise<bigint> => {
    const transport = new Recorder(device());
    transport.extra = extra;
    const session = await DriverSession.open(transport, { wanted, ...dependencies });
    return session.features;
  };

  test(
    clause(
      ["drv.core.features", "drv.core.reserved-features"],
      "only what was offered, is wanted, and is carried",
    ),
    async () => {
      expect((await accepted(0b10_0011n)) & 0xffn).toBe(0b11n);
      expect((await accepted(0n)) & 0xff_ffffn).toBe(0n);
      // Offered by mistake or by a later version of the spec: neither accepted nor a reason to fail.
      const strange = featureBits(25, 30, VIRTIO_F_ACCESS_PLATFORM, 36, 37, 41, 44, 49, 63, 127);
      expect((await accepted(0b1n, strange)) & strange).toBe(0n);
      expect(await accepted(0b1n)).toBe((await accepted(0b1n, strange)) | 0n);
      expect((await accepted(0n)) & featureBits(VIRTIO_F_VERSION_1)).not.toBe(0n);
    },
  );

  test(
    clause("drv.core.features", "nothing that needs what was not accepted, however long the row"),
    async () => {
      const dependencies = [
        { feature: 2, needs: [[1]] },
        { feature: 1, needs: [[0, 20]] },
        { feature: 3, needs: [[2], [0]] },
      ];
      expect((await accepted(0b1111n, 0n, { dependencies })) & 0xfn).toBe(0b1111n);
      expect((await accepted(0b1110n, 0n, { dependencies })) & 0xfn).toBe(0n);
      expect((await accepted(0b1011n, 0n, { dependencies })) & 0xfn).toBe(0b0011n);
    },
  );

  test(
    clause(
      "drv.core.reserved-features",
      "VIRTIO_F_NOTIFICATION_DATA sends the ring position with each notification",
    ),
    async () => {
      const sent: (number | undefined)[] = [];
      class Sender extends Recorder {
        override notify(index: number, data?: number): void {
          sent.push(data);
          super.notify(index);
        }
      }
      const transport = new Sender(device(), {
        features: featureBits(VIRTIO_F_VERSION_1, VIRTIO_F_NOTIFICATION_DATA),
      });
      Object.defineProperty(transport, "allowedFeatures", {
        value: featureBits(VIRTIO_F_VERSION_1, VIRTIO_F_NOTIFICATION_DATA),
      });
      const session = await DriverSession.open(transport, { wanted: 0n });
      expect(session.has(VIRTIO_F_NOTIFICATION_DATA)).toBe(true);
      const queue = session.addQueue(0);
      session.ready();
      await queue.request([], [buffer(transport)]);
      await queue.request([], [buffer(transport)]);
      expect(sent).toEqual([1, 2]);
    },
  );
});

describe("configuration space", () => {
  test(clause("drv.core.config", "is read again until the generation stands still"), async () => {
    const transport = new Recorder(device());
    const session = await DriverSession.open(transport, { wanted: 0n });
    const generations = [1, 2, 2, 3, 3, 3];
    let reads = 0;
    transport.generation = () => generations.shift() ?? 3;
    const read = transport.readConfig.bind(transport);
    transport.readConfig = (offset, target) => {
      reads++;
      read(offset, target);
    };
    expect([...session.readConfig(4, 4)]).toEqual([4, 5, 6, 7]);
    expect(reads).toBe(3);
  });

  test(
    clause("drv.core.config", "one that never stands still is an error, not an endless loop"),
    async () => {
      const transport = new Recorder(device());
      const session = await DriverSession.open(transport, { wanted: 0n });
      transport.generation = Math.random;
      expect(() => session.readConfig(0, 4)).toThrow(/never stood still/);
      session.onConfigChange = () => void session.readConfig(0, 4);
      transport.onNotification?.({ queue: undefined, used: false, configuration: true });
      expect(session.failure?.message).toMatch(/never stood still/);
    },
  );

  test(clause("drv.core.config", "may be larger than needed, not smaller"), async () => {
    const transport = new Recorder(device());
    const session = await DriverSession.open(transport, { wanted: 0n });
    expect(session.readConfig(0, 1)).toHaveLength(1);
    expect(() => session.readConfig(14, 4)).toThrow(/ends at 16/);
  });
});

describe("a device that fails", () => {
  test(clause("drv.core.status", "DEVICE_NEEDS_RESET ends what is outstanding with an error"), async () => {
    const transport = new Recorder(device());
    const session = await DriverSession.open(transport, { wanted: 0n });
    const slow = session.addQueue(1);
    session.ready();
    const failures: Error[] = [];
    session.onFailure = (error) => void failures.push(error);
    const request = slow.request([], [buffer(transport)]);
    const second = slow.request([], [buffer(transport)]);
    transport.instance.writeStatus(ACKNOWLEDGE);
    expect(transport.readStatus() & NEEDS_RESET).toBe(NEEDS_RESET);
    await expect(request).rejects.toThrow(/needs a reset/);
    await expect(second).rejects.toThrow(/needs a reset/);
    await expect(slow.request([], [buffer(transport)])).rejects.toThrow(/needs a reset/);
    expect(slow.post([], [buffer(transport)], () => undefined)).toBe(false);
    expect(failures).toHaveLength(1);
    expect(session.failure?.message).toMatch(/needs a reset/);
    // A reset makes it usable again.
    await session.close();
    const next = await DriverSession.open(transport, { wanted: 0n });
    const queue = next.addQueue(0);
    next.ready();
    expect(await queue.request([], [buffer(transport)])).toBe(16);
  });

  test("close ends what is outstanding and gives all memory back", async () => {
    const transport = new Recorder(device());
    const free = available(transport);
    const session = await DriverSession.open(transport, { wanted: 0n });
    const slow = session.addQueue(1);
    session.ready();
    const own = buffer(transport);
    const request = slow.request([], [own]);
    const ended = expect(request).rejects.toThrow(/closed/);
    await session.close();
    await ended;
    transport.memory.free(own.gpa, own.length);
    expect(available(transport)).toBe(free);
    expect(transport.readStatus()).toBe(0);
  });

  test(clause("drv.core.reset", "a reset that takes its time is waited for"), async () => {
    const finish: (() => void)[] = [];
    const transport = new Recorder(
      device({ reset: () => new Promise<void>((resolve) => finish.push(resolve)) }),
    );
    const session = await DriverSession.open(transport, { wanted: 0n });
    session.ready();
    let closed = false;
    const closing = session.close().then(() => (closed = true));
    await new Promise((resolve) => setTimeout(resolve, 10));
    expect(closed).toBe(false);
    expect(transport.instance.status).not.toBe(0);
    for (const each of finish) each();
    await closing;
    expect(transport.instance.status).toBe(0);
  });

  test("an aborted request rejects at once, and its buffer stays the device's", async () => {
    const transport = new Recorder(device());
    const session = await DriverSession.open(transport, { wanted: 0n });
    const slow = session.addQueue(1);
    session.ready();
    const abort = new AbortController();
    const request = slow.request([], [buffer(transport)], abort.signal);
    abort.abort(new Error("changed my mind"));
    await expect(request).rejects.toThrow("changed my mind");
    expect(slow.outstanding).toBe(1);
    await expect(slow.request([], [buffer(transport)], abort.signal)).rejects.toThrow("changed my mind");
    expect(slow.outstanding).toBe(1);
    await session.close();
  });

  test("requests wait for room in the ring, in their order, and too long a chain is refused", async () => {
    const transport = new Recorder(
      device({
        queues: [{ name: "q", maxSize: 2, serve: (chain) => Promise.resolve(chain.writableLength) }],
      }),
    );
    const session = await DriverSession.open(transport, { wanted: 0n });
    const queue = session.addQueue(0);
    session.ready();
    const order: number[] = [];
    await Promise.all(
      Array.from({ length: 20 }, (_, i) =>
        queue.request([], [buffer(transport, i + 1)]).then((written) => order.push(written)),
      ),
    );
    expect(order).toEqual(Array.from({ length: 20 }, (_, i) => i + 1));
    const three = [buffer(transport), buffer(transport), buffer(transport)];
    await expect(queue.request([], three)).rejects.toThrow(/does not fit/);
    await expect(queue.request([], [])).rejects.toThrow(/does not fit/);
  });
});

describe("virtqueue reset", () => {
  test(
    clause(
      ["drv.core.vq-reset", "drv.core.vq-reenable"],
      "takes one virtqueue back, and makes it anew with another size",
    ),
    async () => {
      const transport = new Recorder(device());
      const session = await DriverSession.open(transport, { wanted: 0n });
      const free = available(transport);
      const slow = session.addQueue(1, 8);
      const quick = session.addQueue(0);
      session.ready();
      const used = free - available(transport);
      const request = expect(slow.request([], [buffer(transport)])).rejects.toThrow(/virtqueue 1 was reset/);
      let reset = false;
      const resetting = session.resetQueue(1).then(() => (reset = true));
      expect(slow.post([], [buffer(transport)], () => undefined)).toBe(false);
      expect(reset).toBe(false);
      await resetting;
      await request;
      await expect(slow.request([], [buffer(transport)])).rejects.toThrow(/virtqueue 1 was reset/);
      expect(free - available(transport)).toBeLessThan(used);
      // The other one never noticed.
      expect(await quick.request([], [buffer(transport)])).toBe(16);
      const again = session.addQueue(1, 2);
      expect(again.size).toBe(2);
      void again.request([], [buffer(transport)]).catch(() => undefined);
      expect(transport.instance.queue(1)?.size).toBe(2);
      expect(transport.log.filter((line) => line === "enable 1")).toHaveLength(2);
      await session.close();
    },
  );

  test("without VIRTIO_F_RING_RESET, or for a virtqueue that is not there, nothing is done", async () => {
    const transport = new Recorder(device());
    const session = await DriverSession.open(transport, { wanted: 0n, ring: MODERN });
    session.addQueue(0);
    await expect(session.resetQueue(0)).rejects.toThrow(/VIRTIO_F_RING_RESET was not negotiated/);
    await expect(session.suspend()).rejects.toThrow(/VIRTIO_F_SUSPEND was not negotiated/);
    const other = new Recorder(device());
    const whole = await DriverSession.open(other, { wanted: 0n });
    await whole.resetQueue(1);
    expect(other.instance.queue(1)?.enabled).toBe(false);
  });
});

describe("device suspend", () => {
  const SUSPEND = 16;

  test(
    clause("drv.core.suspend", "waits until the device is suspended, sends nothing meanwhile, and goes on"),
    async () => {
      const answers: ((written: number) => void)[] = [];
      const transport = new Recorder(
        device({
          queues: [
            { name: "q", maxSize: 8, serve: () => new Promise<number>((resolve) => answers.push(resolve)) },
          ],
        }),
      );
      const session = await DriverSession.open(transport, {
        wanted: 0n,
        ring: MODERN | featureBits(VIRTIO_F_SUSPEND),
      });
      const queue = session.addQueue(0);
      session.ready();
      const first = queue.request([], [buffer(transport)]);
      let suspended = false;
      const suspending = session.suspend().then(() => (suspended = true));
      await settle();
      expect(suspended).toBe(false);
      expect(transport.writes.at(-1)).toBe(`status ${15 | SUSPEND}`);
      answers[0]?.(5);
      await suspending;
      expect(await first).toBe(5);
      expect(transport.instance.status).toBe((15 | SUSPEND) & ~DRIVER_OK);
      // Nothing is made available, notified or configured while it is suspended.
      transport.log.length = 0;
      const before = transport.bytes.slice(0, 0x8000);
      const second = queue.request([], [{ gpa: 0x9000, length: 16 }]);
      expect(() => session.writeConfig(0, Uint8Array.of(1))).toThrow(/suspended/);
      await session.suspend();
      await settle();
      expect(transport.writes).toEqual([]);
      expect(availIdx(transport)).toBe(availIdx({ bytes: before, instance: transport.instance }));
      await session.resume();
      expect(transport.writes).toEqual([`status ${15 | SUSPEND}`, "notify 0"]);
      answers[1]?.(6);
      expect(await second).toBe(6);
      await session.resume();
      session.writeConfig(0, Uint8Array.of(1));
      await session.close();
    },
  );

  test(clause("drv.core.suspend", "a device that fails to suspend or to resume is an error"), async () => {
    const transport = new Recorder(device());
    const session = await DriverSession.open(transport, { wanted: 0n });
    const slow = session.addQueue(1);
    session.ready();
    const request = expect(slow.request([], [buffer(transport)])).rejects.toThrow();
    const suspending = session.suspend();
    transport.instance.writeStatus(ACKNOWLEDGE);
    await expect(suspending).rejects.toThrow(/needs a reset/);
    await request;
    expect(session.failure).toBeDefined();
  });
});

function available(transport: Loopback): number {
  return transport.memory instanceof DmaPool ? transport.memory.available : 0;
}

/** The split ring's available idx, from whatever bytes. */
function availIdx({ bytes, instance }: Pick<Loopback, "bytes" | "instance">): number {
  const at = (instance.queue(0)?.driverArea ?? 0) + 2;
  return (bytes[at] ?? 0) | ((bytes[at + 1] ?? 0) << 8);
}
