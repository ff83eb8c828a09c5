import { clause } from "@virtio/testkit/clause";
import { InProcessMachine } from "@virtio/testkit/machine";
import { describe, expect, test } from "vitest";
import { openMmio } from "virtio/driver/mmio-transport";
import { DriverSession } from "virtio/driver/session";
import { mmioViolations, WatchedPlatform, type Access } from "./driver-rules.ts";
import { live, MMIO_FEATURES, rings } from "./driver-life.ts";
import { echoDevice } from "./support.ts";

describe("MMIO, every access of a driver's life", () => {
  const ids = ["drv.mmio.registers", "drv.mmio.init", "drv.mmio.interrupts"];
  const versions = ([2, 1] as const).map((version) => [clause(ids, `version ${version}`), version] as const);
  test.each(versions)("%s", async (_, version) => {
    for (const ring of version === 2 ? rings : [0n]) {
      const machine = new InProcessMachine();
      const plugged = machine.plugMmio(echoDevice(), { version, features: MMIO_FEATURES });
      const watched = new WatchedPlatform(machine.platform);
      const transport = openMmio(watched.platform, plugged.place);
      if (transport === undefined) throw new Error("not found");
      const log = (): Access[] => watched.within("memory", plugged.place.base, plugged.place.length);
      expect(
        log()
          .slice(0, 3)
          .map(({ kind, address }) => [kind, address]),
      ).toEqual([
        ["read", 0],
        ["read", 4],
        ["read", 8],
      ]);
      await live(transport, ring, () => plugged.instance.configChanged());
      expect(mmioViolations(log(), version === 1)).toEqual([]);
      const served = log().filter(({ kind, address }) => kind === "write" && address === 0x64);
      expect(served.length).toBeGreaterThan(0);
      expect(machine.interrupts.isAsserted(plugged.place.line)).toBe(false);
    }
  });

  test(
    clause(ids, "each interrupt: InterruptStatus is read first, and acknowledged after it was handled"),
    async () => {
      const machine = new InProcessMachine();
      const plugged = machine.plugMmio(echoDevice(), {});
      const watched = new WatchedPlatform(machine.platform);
      const transport = openMmio(watched.platform, plugged.place);
      if (transport === undefined) throw new Error("not found");
      const session = await DriverSession.open(transport, { wanted: 0n });
      session.ready();
      const order: string[] = [];
      session.onConfigChange = () => void order.push("handled");
      watched.lie = ({ kind, address }) => {
        if (address === plugged.place.base + 0x60) order.push("status");
        if (address === plugged.place.base + 0x64 && kind === "write") order.push("ack");
        // Undefined bits are ignored, and not acknowledged.
        return kind === "read" && address === plugged.place.base + 0x60 ? 0xfffffffe : undefined;
      };
      const before = watched.log.length;
      plugged.instance.configChanged();
      watched.lie = undefined;
      expect(order.slice(0, 3)).toEqual(["status", "handled", "ack"]);
      const ack = watched.log
        .slice(before)
        .find(({ kind, address }) => kind === "write" && address === plugged.place.base + 0x64);
      expect(ack?.value).toBe(2);
    },
  );

  test("the legacy interface: a virtqueue no larger than a driver needs, with the size it was given", async () => {
    for (const [maxSize, size] of [
      [1024, 256],
      [8, 8],
    ] as const) {
      const machine = new InProcessMachine();
      const plugged = machine.plugMmio(echoDevice({ maxSize }), { version: 1 });
      const session = await DriverSession.open(plugged.open(), { wanted: 0n });
      expect(session.addQueue(0).size).toBe(size);
      expect(plugged.instance.queue(0)?.size).toBe(size);
    }
  });

  test("shared memory regions are found by their id", () => {
    const regions = [{ id: 2, base: 0x12_3456_7000, length: 2 ** 33 + 4096 }];
    const transport = new InProcessMachine().plugMmio(echoDevice(), { sharedMemory: regions }).open();
    expect(transport.sharedMemory(2)).toEqual({ id: 2, address: 0x12_3456_7000, length: 2 ** 33 + 4096 });
    expect(transport.sharedMemory(1)).toBeUndefined();
  });

  test(clause(ids, "what is no device is left alone"), () => {
    for (const [address, value, reads] of [
      [0, 0x12345678, 1],
      [4, 3, 2],
      [4, 0, 2],
      [8, 0, 3],
    ] as const) {
      const machine = new InProcessMachine();
      const { place } = machine.plugMmio(echoDevice(), {});
      const watched = new WatchedPlatform(machine.platform);
      watched.lie = (access) => (access.address === place.base + address ? value : undefined);
      expect(openMmio(watched.platform, place)).toBeUndefined();
      expect(watched.log).toHaveLength(reads);
    }
    const machine = new InProcessMachine();
    const { place } = machine.plugMmio(echoDevice(), { version: 1 });
    expect(openMmio(machine.platform, place, { legacy: false })).toBeUndefined();
  });

  test.each(["configuration", "used"] as const)(
    "a late %s event is not lost with the acknowledgement",
    async (kind) => {
      const machine = new InProcessMachine();
      const plugged = machine.plugMmio(echoDevice(), {});
      const watched = new WatchedPlatform(machine.platform);
      const transport = openMmio(watched.platform, plugged.place);
      if (transport === undefined) throw new Error("not found");
      const session = await DriverSession.open(transport, { wanted: 0n });
      const queues = [session.addQueue(0), session.addQueue(1)];
      session.ready();
      const gpa = transport.memory.allocate(16, 4);
      let changes = 0;
      let answers = 0;
      session.onConfigChange = () => void changes++;
      const request = (index: 0 | 1): void => {
        const queue = queues[index];
        queue?.post([{ gpa, length: 4 }], [{ gpa: gpa + 8, length: 4 }], () => void answers++);
        queue?.kick();
      };
      let late = true;
      // The device works on just before the acknowledgement arrives.
      watched.lie = (access) => {
        if (!late || access.kind !== "write" || access.address !== plugged.place.base + 0x64)
          return undefined;
        late = false;
        if (kind === "configuration") plugged.instance.configChanged();
        else request(1);
        return undefined;
      };
      if (kind === "configuration") plugged.instance.configChanged();
      else request(0);
      expect(late).toBe(false);
      expect([changes, answers]).toEqual(kind === "configuration" ? [2, 0] : [0, 2]);
    },
  );
});
