import { clause } from "@virtio/testkit/clause";
import { describe, expect, test } from "vitest";
import { ConsoleDevice } from "../../src/devices/console/device.ts";
import { ConsoleDriver } from "../../src/drivers/console/driver.ts";
import { Loopback, RINGS, settle } from "../support/loopback.ts";
import { FakeHost, ascii, concat, firstDifference, pattern } from "../support/ends.ts";

const KB = 1024;

describe.each(RINGS)("console over $name", ({ ring }) => {
  test("bytes go both ways through the one port of a driver without multiport", async () => {
    const host = new FakeHost();
    const device = new ConsoleDevice({ ports: [{ backend: host, kind: "console" }] });
    const driver = await ConsoleDriver.open(new Loopback(device), { ring });
    const port = await driver.port(0);
    expect(port.isConsole).toBe(true);
    await port.write(ascii("hello host"));
    expect(host.text).toBe("hello host");
    expect(host.port?.receive(ascii("hello guest"))).toBe(11);
    expect(await port.read()).toEqual(ascii("hello guest"));
    expect(host.opens).toEqual([true]);
    await driver.close();
    expect(host.opens).toEqual([true, false]);
  });

  test("10 MiB each way arrive whole, with a host end that takes a little at a time", async () => {
    const host = new FakeHost();
    const device = new ConsoleDevice({ ports: [{ backend: host, kind: "console" }] });
    const driver = await ConsoleDriver.open(new Loopback(device), { ring });
    const port = await driver.port(0);
    const data = pattern(10 * KB * KB);

    host.room = 1000;
    let written = false;
    const writing = port.write(data).then(() => (written = true));
    for (let i = 0; !written; i++) {
      host.room = 1 + ((i * 7919) % 40_000);
      host.port?.ready();
      await settle(4);
    }
    await writing;
    expect(firstDifference(host.received, data)).toBe(-1);

    let sent = 0;
    const push = (): void => {
      for (;;) {
        const taken = host.port?.receive(data.subarray(sent, sent + 30_000)) ?? 0;
        sent += taken;
        if (taken < 30_000) return;
      }
    };
    host.onReady = push;
    push();
    const chunks: Uint8Array[] = [];
    let got = 0;
    while (got < data.length) {
      const chunk = await port.read();
      if (chunk === undefined) break;
      chunks.push(chunk);
      got += chunk.length;
    }
    expect(firstDifference(concat(chunks), data)).toBe(-1);
    await driver.close();
  });

  test(
    clause(
      ["dev.console.multiport", "drv.console.multiport"],
      "ports are added once, described, opened by the driver, and taken away",
    ),
    async () => {
      const hosts = [new FakeHost(), new FakeHost(false), new FakeHost()];
      const [console, serial, later] = hosts;
      if (!console || !serial || !later) throw new Error("unreachable");
      const device = new ConsoleDevice({
        maxPorts: 4,
        ports: [
          { backend: console, kind: "console" },
          { backend: serial, kind: "serial", name: "org.example.ü" },
        ],
      });
      expect(device.ports).toEqual([0, 1]);
      console.port?.resize(100, 40);
      const driver = await ConsoleDriver.open(new Loopback(device), { ring });
      const first = await driver.port(0);
      await settle();
      // A console port is opened by its driver, a serial one by whoever uses it.
      expect(first.isConsole).toBe(true);
      expect(first.size).toEqual({ columns: 100, rows: 40 });
      expect(console.opens).toEqual([true]);
      const second = await driver.port("org.example.ü");
      expect(second.isConsole).toBe(false);
      expect(serial.opens).toEqual([]);
      second.open();
      await settle();
      expect(serial.opens).toEqual([true]);

      expect(second.hostOpen).toBe(false);
      serial.port?.setOpen(true);
      await settle();
      expect(second.hostOpen).toBe(true);
      await second.write(ascii("ping"));
      expect(serial.text).toBe("ping");
      serial.port?.receive(ascii("pong"));
      serial.port?.setOpen(false);
      const read: Uint8Array[] = [];
      for await (const bytes of second) read.push(bytes);
      expect(concat(read)).toEqual(ascii("pong"));

      expect(device.addPort({ backend: later, kind: "serial", name: "late" })).toBe(2);
      const third = await driver.port("late");
      expect(third.id).toBe(2);
      await third.write(ascii("x"));
      expect(later.text).toBe("x");
      device.removePort(2);
      await settle();
      expect(third.removed).toBe(true);
      expect([...driver.ports.keys()]).toEqual([0, 1]);
      await expect(third.write(ascii("y"))).rejects.toThrow("removed");
      expect(device.addPort({ backend: later, kind: "serial", name: "again" })).toBe(2);
      const again = await driver.port("again");
      await again.write(ascii("z"));
      expect(later.text).toBe("xz");
      await driver.close();
    },
  );

  test("a size that changes is seen with and without multiport", async () => {
    for (const multiport of [false, true]) {
      const host = new FakeHost();
      const device = new ConsoleDevice({ ports: [{ backend: host, kind: "console" }], maxPorts: 2 });
      host.port?.resize(80, 25);
      const driver = await ConsoleDriver.open(new Loopback(device), { ring, multiport });
      const port = await driver.port(0);
      await settle();
      expect(port.size).toEqual({ columns: 80, rows: 25 });
      host.port?.resize(132, 50);
      await settle();
      expect(port.size).toEqual({ columns: 132, rows: 50 });
      await driver.close();
    }
  });
});
