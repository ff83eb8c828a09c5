import { clause } from "@virtio/testkit/clause";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { ConsoleDevice, MAX_CONSOLE_PORTS } from "../../src/devices/console/device.ts";
import { ConsoleDriver } from "../../src/drivers/console/driver.ts";
import { readLe16, readLe32, writeLe16, writeLe32 } from "../../src/memory/bytes.ts";
import {
  VIRTIO_CONSOLE_CONSOLE_PORT,
  VIRTIO_CONSOLE_DEVICE_ADD,
  VIRTIO_CONSOLE_DEVICE_READY,
  VIRTIO_CONSOLE_DEVICE_REMOVE,
  VIRTIO_CONSOLE_F_MULTIPORT,
  VIRTIO_CONSOLE_F_SIZE,
  VIRTIO_CONSOLE_PORT_NAME,
  VIRTIO_CONSOLE_PORT_OPEN,
  VIRTIO_CONSOLE_PORT_READY,
  VIRTIO_CONSOLE_RESIZE,
} from "../../src/spec/console.ts";
import { featureBits } from "../../src/spec/core.ts";
import { Loopback, RINGS, settle } from "../support/loopback.ts";
import { FakeHost, ascii, firstDifference, pattern } from "../support/ends.ts";
import { RawDriver, cutsArbitrary } from "../support/raw.ts";
import type { Used } from "../support/raw.ts";

const MULTIPORT = featureBits(VIRTIO_CONSOLE_F_MULTIPORT, VIRTIO_CONSOLE_F_SIZE);

interface Message {
  readonly id: number;
  readonly event: number;
  readonly value: number;
  readonly data: Uint8Array;
}

function control(id: number, event: number, value: number): Uint8Array {
  const bytes = new Uint8Array(8);
  writeLe32(bytes, 0, id);
  writeLe16(bytes, 4, event);
  writeLe16(bytes, 6, value);
  return bytes;
}

function decode({ data, written }: Used): Message {
  return {
    id: readLe32(data, 0),
    event: readLe16(data, 4),
    value: readLe16(data, 6),
    data: data.slice(8, written),
  };
}

/** Gives control buffers and decodes what comes, until nothing does. */
function collect(driver: RawDriver): Message[] {
  const messages: Message[] = [];
  for (;;) {
    const buffer = driver.offer(2, new Uint8Array(0), 64);
    if (buffer.used === undefined) return messages;
    messages.push(decode(buffer.used));
  }
}

test(
  clause("dev.console.init", "emerg_wr works on an unconfigured device, and takes the lower byte"),
  async () => {
    const host = new FakeHost();
    const device = new ConsoleDevice({ ports: [{ backend: host, kind: "console" }] });
    const loopback = new Loopback(device);
    expect(ConsoleDriver.emergencyWrite(loopback, ascii("panic!"))).toBe(true);
    loopback.instance.writeConfig(8, 1, 0x41);
    loopback.instance.writeConfig(8, 2, 0x1242);
    loopback.instance.writeConfig(8, 4, 0x12345643);
    loopback.instance.writeConfig(0, 4, 0x44444444);
    loopback.instance.writeConfig(9, 1, 0x44);
    expect(host.text).toBe("panic!ABC");
    // Never negotiated, while the device runs, and when the host end is slow.
    const driver = await ConsoleDriver.open(loopback);
    host.room = 0;
    ConsoleDriver.emergencyWrite(loopback, ascii("late"));
    const written = (await driver.port(0)).write(ascii(" then data"));
    expect(host.text).toBe("panic!ABC");
    host.room = Infinity;
    host.port?.ready();
    await written;
    expect(host.text).toBe("panic!ABClate then data");
    const field = driver.session.readConfig(0, 12);
    expect(readLe32(field, 8)).toBe(0);
    await driver.close();
  },
);

test(clause("drv.console.operation", "our driver puts each buffer in the queue it is for"), async () => {
  const host = new FakeHost();
  const device = new ConsoleDevice({ ports: [{ backend: host, kind: "console" }], maxPorts: 2 });
  const wrong: number[] = [];
  let chains = 0;
  const loopback = new Loopback(device, {
    observer: {
      available: (_device, queue, chain) => {
        chains++;
        const receive = queue % 2 === 0;
        if (receive ? chain.readable.length > 0 : chain.writable.length > 0) wrong.push(queue);
      },
    },
  });
  const driver = await ConsoleDriver.open(loopback);
  const port = await driver.port(0);
  await port.write(pattern(50_000));
  host.port?.receive(pattern(10_000));
  await port.read();
  await driver.close();
  expect(chains).toBeGreaterThan(5);
  expect(wrong).toEqual([]);
});

describe.each([
  { name: "a device-readable buffer in a receiveq", queue: 0, readable: 4, writable: 8 },
  { name: "only a device-readable buffer in a receiveq", queue: 0, readable: 4, writable: 0 },
  { name: "a device-writable buffer in a transmitq", queue: 1, readable: 4, writable: 8 },
  { name: "only a device-writable buffer in a transmitq", queue: 1, readable: 0, writable: 8 },
  { name: "a device-readable buffer in the control receiveq", queue: 2, readable: 4, writable: 16 },
  { name: "a device-writable buffer in the control transmitq", queue: 3, readable: 8, writable: 8 },
])("$name", ({ queue, readable, writable }) => {
  test(
    clause("drv.console.operation", "is a fault that names the queue, and the host lives on"),
    async () => {
      const host = new FakeHost();
      const device = new ConsoleDevice({ ports: [{ backend: host, kind: "console" }], maxPorts: 2 });
      const loopback = new Loopback(device);
      const driver = await RawDriver.open(loopback, MULTIPORT, [0, 1, 2, 3]);
      driver.offer(3, control(0, VIRTIO_CONSOLE_DEVICE_READY, 1), 0);
      driver.offer(3, control(0, VIRTIO_CONSOLE_PORT_OPEN, 1), 0);
      driver.offer(queue, new Uint8Array(readable), writable);
      host.port?.receive(ascii("x"));
      expect(loopback.faults.map((fault) => [fault.clause, fault.queue])).toEqual([
        ["drv.console.operation", queue],
      ]);
      expect(loopback.readStatus() & 64).toBe(64);
      const again = await ConsoleDriver.open(loopback);
      await (await again.port(0)).write(ascii("alive"));
      expect(host.text).toBe("alive");
      await again.close();
    },
  );
});

test(
  clause(
    "dev.console.multiport",
    "repeated DEVICE_READY adds no port twice, and replies wait, bounded, for buffers",
  ),
  async () => {
    const host = new FakeHost();
    const device = new ConsoleDevice({
      ports: [
        { backend: host, kind: "console", name: "c" },
        { backend: new FakeHost(), kind: "serial", name: "s" },
      ],
    });
    host.port?.resize(80, 25);
    const driver = await RawDriver.open(new Loopback(device), MULTIPORT, [0, 1, 2, 3, 4, 5]);
    for (let i = 0; i < 100; i++) {
      driver.offer(3, control(0, VIRTIO_CONSOLE_DEVICE_READY, 1), 0);
      for (const id of [0, 1, 2, 0xffff_ffff]) driver.offer(3, control(id, VIRTIO_CONSOLE_PORT_READY, 1), 0);
      host.port?.setOpen(i % 2 === 0);
      host.port?.resize(80 + i, 25);
    }
    expect(device.save().messages.length).toBeLessThanOrEqual(16);
    const messages = collect(driver).map(({ id, event }) => `${id}.${event}`);
    expect(messages.filter((message) => message.endsWith(`.${VIRTIO_CONSOLE_DEVICE_ADD}`))).toEqual([
      "0.1",
      "1.1",
    ]);
    for (const event of [VIRTIO_CONSOLE_CONSOLE_PORT, VIRTIO_CONSOLE_PORT_NAME, VIRTIO_CONSOLE_RESIZE])
      expect(messages.filter((message) => message === `0.${event}`).length).toBe(1);
    host.port?.resize(10, 20);
    expect(collect(driver)).toEqual([]);
  },
);

interface Action {
  readonly kind: "message" | "buffer" | "add" | "remove" | "open" | "close" | "send" | "resize";
  /** A port, or the columns of a terminal. */
  readonly id: number;
  readonly event: number;
  readonly value: number;
  /** Of a message or a buffer. */
  readonly length: number;
  readonly cuts: readonly number[];
}

const actions = (buffers: readonly number[]): fc.Arbitrary<Action[]> => {
  const other = { event: fc.constant(0), value: fc.constant(0), cuts: fc.constant([]) };
  const port = fc.integer({ min: 0, max: 3 });
  return fc.array(
    fc.oneof(
      fc.record({
        kind: fc.constant("message" as const),
        id: fc.oneof(fc.integer({ min: 0, max: 4 }), fc.integer({ min: 0, max: 0xffff_ffff })),
        event: fc.oneof(fc.constantFrom(0, 3, 6), fc.integer({ min: 0, max: 0xffff })),
        value: fc.integer({ min: 0, max: 2 }),
        length: fc.constantFrom(8, 8, 8, 1, 7, 9, 40),
        cuts: cutsArbitrary(40),
      }),
      fc.record({
        ...other,
        kind: fc.constant("buffer" as const),
        id: port,
        length: fc.constantFrom(...buffers),
      }),
      fc.record({
        ...other,
        kind: fc.constantFrom("add", "remove", "open", "close", "send", "resize"),
        id: port,
        length: fc.constant(0),
      }),
    ),
    { maxLength: 60 },
  );
};

/** Plays actions of a driver and a host on a device with room for four ports. */
class Play {
  readonly hosts: readonly FakeHost[] = [0, 1, 2, 3].map(() => new FakeHost());
  readonly device: ConsoleDevice = new ConsoleDevice({
    ports: [{ backend: this.host(0), kind: "console" }],
    maxPorts: 4,
  });
  readonly loopback: Loopback = new Loopback(this.device, { memorySize: 4 << 20 });
  readonly #buffers: { readonly used: Used | undefined }[] = [];
  #columns = 80;

  host(id: number): FakeHost {
    const host = this.hosts[id];
    if (host === undefined) throw new Error("unreachable");
    return host;
  }

  do(action: Action, driver: RawDriver): void {
    const { kind, id } = action;
    const exists = this.device.ports.includes(id);
    if (kind === "message") {
      const bytes = new Uint8Array(action.length);
      bytes.set(control(id, action.event, action.value).subarray(0, action.length));
      driver.offer(3, bytes, 0, { readable: action.cuts });
    } else if (kind === "buffer") this.#buffers.push(driver.offer(2, new Uint8Array(0), action.length));
    else if (kind === "add") {
      if (!exists && id > 0)
        this.device.addPort({ backend: this.host(id), kind: "serial", nr: id, name: `p${id}` });
    } else if (kind === "remove") {
      if (exists && id > 0) this.device.removePort(id);
    } else if (kind === "open" || kind === "close") this.host(id).port?.setOpen(kind === "open");
    else if (kind === "resize") this.host(0).port?.resize(this.#columns++, 10);
    else {
      // Whether a port is there or not, nobody waits for ever.
      const sent = driver.offer(id === 0 ? 1 : 2 * id + 3, ascii("data"), 0);
      expect(sent.used?.written).toBe(0);
    }
  }

  /** What the driver was told so far, in order. */
  messages(driver: RawDriver): Message[] {
    const early = this.#buffers.flatMap(({ used }) => (used === undefined ? [] : [decode(used)]));
    return [...early, ...collect(driver)];
  }
}

const QUEUES = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9];

test(
  clause(
    "dev.console.multiport",
    "whatever happens, the driver is told of ports in order and ends up knowing what is",
  ),
  async () => {
    await fc.assert(
      fc.asyncProperty(actions([8, 12, 64]), fc.constantFrom(...RINGS), async (list, { ring }) => {
        const play = new Play();
        const driver = await RawDriver.open(play.loopback, MULTIPORT, QUEUES, ring);
        for (const action of list) {
          play.do(action, driver);
          expect(play.device.save().messages.length).toBeLessThanOrEqual(8 * 4);
        }
        driver.offer(3, control(0, VIRTIO_CONSOLE_DEVICE_READY, 1), 0);
        for (const id of play.device.ports) driver.offer(3, control(id, VIRTIO_CONSOLE_PORT_READY, 1), 0);
        const known = new Map<number, boolean>();
        for (const { id, event, value } of play.messages(driver)) {
          // "MUST NOT specify a port which exists", nor one "which has not been created".
          expect(known.has(id)).toBe(event !== VIRTIO_CONSOLE_DEVICE_ADD);
          expect(id).toBeLessThan(play.device.maxPorts);
          if (event === VIRTIO_CONSOLE_DEVICE_ADD) known.set(id, false);
          else if (event === VIRTIO_CONSOLE_DEVICE_REMOVE) known.delete(id);
          else if (event === VIRTIO_CONSOLE_PORT_OPEN) known.set(id, value === 1);
        }
        const truth = play.device.save().ports.map(({ id, toldOpen }) => [id, toldOpen]);
        expect([...known].sort(([a], [b]) => a - b)).toEqual(truth.sort(([a], [b]) => Number(a) - Number(b)));
        expect(play.loopback.faults).toEqual([]);
      }),
      { numRuns: 150 },
    );
  },
);

test("control buffers that are too small get what fits, and cost nothing else", async () => {
  await fc.assert(
    fc.asyncProperty(actions([1, 7, 8, 11, 64]), async (list) => {
      const play = new Play();
      const driver = await RawDriver.open(play.loopback, MULTIPORT, QUEUES);
      for (const action of list) play.do(action, driver);
      for (const { data } of play.messages(driver)) expect(data.length).toBeLessThanOrEqual(56);
      expect(play.loopback.faults).toEqual([]);
      expect(play.device.save().messages).toEqual([]);
    }),
    { numRuns: 50 },
  );
});

test("a slow host end leaves buffers in the ring, and save and restore lose no byte", async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.constantFrom(...RINGS),
      fc.integer({ min: 0, max: 60_000 }),
      fc.integer({ min: 1, max: 20_000 }),
      async ({ ring }, room, later) => {
        const host = new FakeHost();
        const device = new ConsoleDevice({ ports: [{ backend: host, kind: "console" }] });
        const loopback = new Loopback(device);
        const driver = await ConsoleDriver.open(loopback, { ring, multiport: false });
        const port = await driver.port(0);
        const data = pattern(60_001, room);
        host.room = room;
        let done = false;
        const writing = port.write(data).then(() => (done = true));
        await settle();
        expect(done).toBe(false);
        expect(host.received.length).toBe(room);
        await loopback.instance.pause();
        const state = structuredClone(loopback.instance.save());
        loopback.instance.restore(state);
        host.room = later;
        loopback.instance.resume();
        for (let i = 0; i < 20; i++) {
          host.room = later;
          host.port?.ready();
          await settle();
        }
        host.room = Infinity;
        host.port?.ready();
        await writing;
        expect(firstDifference(host.received, data)).toBe(-1);
        await driver.close();
      },
    ),
    { numRuns: 40 },
  );
});

test("ports, open states and messages survive save and restore into another device", async () => {
  const make = (hosts: readonly FakeHost[]): ConsoleDevice =>
    new ConsoleDevice({
      maxPorts: 3,
      ports: hosts.map((backend, nr) => ({ backend, kind: nr === 0 ? "console" : "serial", name: `n${nr}` })),
    });
  const before = [new FakeHost(), new FakeHost()];
  const first = new Loopback(make(before));
  const driver = await RawDriver.open(first, MULTIPORT, [0, 1, 2, 3, 4, 5, 6, 7]);
  driver.offer(3, control(0, VIRTIO_CONSOLE_DEVICE_READY, 1), 0);
  driver.offer(3, control(1, VIRTIO_CONSOLE_PORT_READY, 1), 0);
  driver.offer(3, control(1, VIRTIO_CONSOLE_PORT_OPEN, 1), 0);
  await first.instance.pause();
  const state = structuredClone(first.instance.save());

  const after = [new FakeHost(), new FakeHost(false)];
  const device = make(after);
  const second = new Loopback(device);
  second.bytes.set(first.bytes);
  second.instance.restore(state);
  second.instance.resume();
  expect(after.map((host) => host.opens)).toEqual([[], [true]]);
  const events = device.save().messages.map(({ id, event, value }) => [id, event, value]);
  expect(events).toEqual([
    [0, VIRTIO_CONSOLE_DEVICE_ADD, 1],
    [1, VIRTIO_CONSOLE_DEVICE_ADD, 1],
    [1, VIRTIO_CONSOLE_PORT_NAME, 1],
    [1, VIRTIO_CONSOLE_PORT_OPEN, 1],
    [1, VIRTIO_CONSOLE_PORT_OPEN, 0],
  ]);
});

test("a mutated state is adopted whole or refused", () => {
  const device = new ConsoleDevice({ ports: [{ backend: new FakeHost(), kind: "console" }], maxPorts: 2 });
  const good = device.save();
  fc.assert(
    fc.property(
      fc.constantFrom("maxPorts", "driverReady", "ports", "messages"),
      fc.oneof(fc.anything(), fc.constant([{ ...good.ports[0], taken: -1 }]), fc.constant([{ id: 9 }])),
      (key, value) => {
        const bad: unknown = { ...good, [key]: value };
        try {
          device.restore(bad);
        } catch (error) {
          expect(error).toBeInstanceOf(Error);
          expect(error).not.toBeInstanceOf(TypeError);
          expect(device.save()).toEqual(good);
          return;
        }
        device.restore(good);
        expect(device.save()).toEqual(good);
      },
    ),
  );
});

test("options that cannot be are refused with what is wrong", () => {
  const backend = new FakeHost();
  const make =
    (...args: ConstructorParameters<typeof ConsoleDevice>): (() => ConsoleDevice) =>
    () =>
      new ConsoleDevice(...args);
  expect(make({ ports: [{ backend, kind: "serial", nr: 0 }] })).toThrow("port 0 must be a console");
  expect(make({ ports: [{ backend, kind: "console", nr: 3 }], maxPorts: 2 })).toThrow(
    "maxPorts must be a whole number from 4 to 511, not 2",
  );
  expect(make({ ports: [], maxPorts: MAX_CONSOLE_PORTS + 1 })).toThrow("maxPorts");
  expect(
    make({
      ports: [
        { backend, kind: "serial", nr: 1 },
        { backend, kind: "serial", nr: 1 },
      ],
    }),
  ).toThrow("port 1 is taken");
  expect(make({ ports: [{ backend, kind: "serial", name: "x".repeat(2000) }] })).toThrow("longer than");
  expect(new ConsoleDevice({ ports: [] }).features & featureBits(VIRTIO_CONSOLE_F_MULTIPORT)).toBe(0n);
});

test("rows go before columns where an old Linux wants them so", async () => {
  for (const [order, bytes] of [
    ["columns-rows", [80, 0, 25, 0]],
    ["rows-columns", [25, 0, 80, 0]],
  ] as const) {
    const host = new FakeHost();
    const device = new ConsoleDevice({
      ports: [{ backend: host, kind: "console" }],
      maxPorts: 2,
      resizeOrder: order,
    });
    host.port?.resize(80, 25);
    const driver = await RawDriver.open(new Loopback(device), MULTIPORT, [0, 1, 2, 3]);
    driver.offer(3, control(0, VIRTIO_CONSOLE_DEVICE_READY, 1), 0);
    driver.offer(3, control(0, VIRTIO_CONSOLE_PORT_READY, 1), 0);
    const resize = collect(driver).find(({ event }) => event === VIRTIO_CONSOLE_RESIZE);
    expect([...(resize?.data ?? [])]).toEqual(bytes);
  }
});
