import { expect } from "vitest";
import { query } from "virtio/drivers/input/config";
import { InputDriver, type InputEvent } from "virtio/drivers/input/driver";
import { EV_ABS, EV_KEY, EV_LED, EV_REL, LED_CAPSL } from "virtio/drivers/input/evdev";
import { VIRTIO_INPUT_CFG_ID_NAME } from "virtio/spec/input";
import { VIRTIO_ID_INPUT } from "virtio/spec/ids";
import type { TestDriver } from "./test-driver.ts";

const KEY_A = 30;
const KEY_LEFTSHIFT = 42;
const BTN_LEFT = 0x110;
const [X, Y] = [0, 1];

interface Injection {
  readonly inject: readonly object[];
  readonly report: readonly InputEvent[];
}

const key = (qcode: string, down: boolean): object => ({
  type: "key",
  data: { down, key: { type: "qcode", data: qcode } },
});
const button = (down: boolean): object => ({ type: "btn", data: { down, button: "left" } });
const axis = (type: "rel" | "abs", name: string, value: number): object => ({
  type,
  data: { axis: name, value },
});
const event = (type: number, code: number, value: number): InputEvent => ({ type, code, value });

export const keyboard: TestDriver = input("keyboard", "QEMU Virtio Keyboard", [
  {
    inject: [key("shift", true), key("a", true)],
    report: [event(EV_KEY, KEY_LEFTSHIFT, 1), event(EV_KEY, KEY_A, 1)],
  },
  {
    inject: [key("a", false), key("shift", false)],
    report: [event(EV_KEY, KEY_A, 0), event(EV_KEY, KEY_LEFTSHIFT, 0)],
  },
]);

export const mouse: TestDriver = input("mouse", "QEMU Virtio Mouse", [
  {
    inject: [axis("rel", "x", 5), axis("rel", "y", -7), button(true)],
    report: [event(EV_REL, X, 5), event(EV_REL, Y, -7), event(EV_KEY, BTN_LEFT, 1)],
  },
  { inject: [button(false)], report: [event(EV_KEY, BTN_LEFT, 0)] },
]);

export const tablet: TestDriver = input("tablet", "QEMU Virtio Tablet", [
  {
    inject: [axis("abs", "x", 0x1234), axis("abs", "y", 0x7fff)],
    report: [event(EV_ABS, X, 0x1234), event(EV_ABS, Y, 0x7fff)],
  },
]);

function input(name: string, title: string, injections: readonly Injection[]): TestDriver {
  return {
    name,
    deviceId: VIRTIO_ID_INPUT,
    device: `virtio-${name}`,
    modernOnly: true,
    plug: (id) => ({ properties: `,serial=S-${id}`, argv: [] }),
    recognises: (transport) => nameOf(transport) === title,
    async exercise(transport, id, _around, { qmp }) {
      const driver = await InputDriver.open(transport);
      const { info } = driver;
      expect([info.name, info.serial, info.ids?.vendor]).toEqual([title, `S-${id}`, 0x0627]);
      for (const { report } of injections)
        for (const { type, code } of report) expect(info.events.get(type)?.has(code)).toBe(true);
      if (name === "tablet") expect(info.axes.get(Y)).toMatchObject({ min: 0, max: 0x7fff });
      const reports = driver.reports();
      for (const { inject, report } of injections) {
        await qmp.execute("input-send-event", { events: inject });
        expect((await reports.next()).value).toEqual(report);
      }
      if (name === "keyboard") {
        await driver.setLed(LED_CAPSL, true);
        await driver.setLed(LED_CAPSL, false);
      } else await expect(driver.setLed(LED_CAPSL, true)).rejects.toThrow("no light");
      expect(info.events.has(EV_LED)).toBe(name === "keyboard");
      await driver.close();
    },
  };
}

/** Read before the device is initialised, which it may be. */
function nameOf(transport: Parameters<TestDriver["exercise"]>[0]): string {
  const bytes = query(
    {
      writeConfig: (offset, source) => transport.writeConfig(offset, source),
      readConfig: (offset, length) => {
        const target = new Uint8Array(length);
        transport.readConfig(offset, target);
        return target;
      },
    },
    VIRTIO_INPUT_CFG_ID_NAME,
  );
  // QEMU ends it with a NUL.
  return Buffer.from(bytes).toString().replace("\0", "");
}
