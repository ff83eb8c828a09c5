import { expect, test } from "vitest";
import { ConsoleDevice } from "../../src/devices/console/device.ts";
import { ConsoleDriver } from "../../src/drivers/console/driver.ts";
import { FakeHost, ascii, firstDifference, pattern } from "../support/ends.ts";
import { settle } from "../support/loopback.ts";
import { WAYS } from "../support/ways.ts";

test.each(WAYS)("a console and a serial port over $name", async ({ connect }) => {
  const [console, serial] = [new FakeHost(), new FakeHost()];
  const device = new ConsoleDevice({
    ports: [
      { backend: console, kind: "console" },
      { backend: serial, kind: "serial", name: "data" },
    ],
  });
  const transport = connect(device);
  expect(ConsoleDriver.emergencyWrite(transport, ascii("early "))).toBe(true);
  const driver = await ConsoleDriver.open(transport);
  await (await driver.port(0)).write(ascii("boot"));
  expect(console.text).toBe("early boot");
  const port = await driver.port("data");
  port.open();
  const data = pattern(300_000);
  await port.write(data);
  expect(firstDifference(serial.received, data)).toBe(-1);
  serial.port?.receive(ascii("answer"));
  expect(await port.read()).toEqual(ascii("answer"));
  console.port?.resize(120, 33);
  await settle();
  expect(driver.ports.get(0)?.size).toEqual({ columns: 120, rows: 33 });
  await driver.close();
});
