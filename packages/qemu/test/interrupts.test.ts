import { afterEach, describe, expect, test, vi } from "vitest";
import { QemuInterrupts } from "../src/machine/interrupts.ts";

const WORDS = 4;
const made: QemuInterrupts[] = [];
afterEach(() => {
  for (const interrupts of made.splice(0)) interrupts.close();
});

interface Machine {
  readonly interrupts: QemuInterrupts;
  readonly words: Int32Array;
  readonly errors: unknown[];
  /** What the machine has done when everything written has arrived. */
  onSettle: () => void;
}

function machine(unheard: readonly number[] = []): Machine {
  const words = new Int32Array(new SharedArrayBuffer(4 * WORDS));
  const errors: unknown[] = [];
  const self: Machine = {
    words,
    errors,
    onSettle: () => undefined,
    interrupts: new QemuInterrupts(
      { settle: () => self.onSettle(), failed: (error) => errors.push(error) },
      { address: 0x5000, words },
      new Set(unheard),
    ),
  };
  made.push(self.interrupts);
  return self;
}

const later = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 30));

describe("messages", () => {
  test("each have a word of their own, and call their handler when it is written", async () => {
    const { interrupts, words } = machine();
    const calls: string[] = [];
    const [a, b] = ["a", "b"].map((name) => interrupts.allocateMessage(() => calls.push(name)));
    expect([a?.address, b?.address]).toEqual([0x5000, 0x5004]);
    Atomics.store(words, 1, b?.data ?? 0);
    await later();
    expect(calls).toEqual(["b"]);
    Atomics.store(words, 0, a?.data ?? 0);
    Atomics.store(words, 1, b?.data ?? 0);
    await later();
    expect(calls.sort()).toEqual(["a", "b", "b"]);
  });

  test("end, and a word is given again once it was released", async () => {
    const { interrupts, words } = machine();
    const handler = vi.fn<() => void>();
    const all = Array.from({ length: WORDS }, () => interrupts.allocateMessage(handler));
    expect(interrupts.allocateMessage(handler)).toBeUndefined();
    all[2]?.release();
    all[2]?.release();
    Atomics.store(words, 2, 1);
    await later();
    expect(handler).not.toHaveBeenCalled();
    expect(interrupts.allocateMessage(handler)?.address).toBe(0x5008);
    expect(interrupts.allocateMessage(handler)).toBeUndefined();
    await later();
    expect(handler).not.toHaveBeenCalled();
  });
});

describe("lines", () => {
  test("call their handlers again until they go down, never inside what raised them", async () => {
    const it = machine();
    let left = 3;
    const handler = vi.fn<() => boolean>(() => left-- > 0);
    it.onSettle = () => {
      if (left === 0) it.interrupts.changed(7, false);
    };
    it.interrupts.connectLine(7, handler);
    it.interrupts.changed(7, true);
    expect(handler).not.toHaveBeenCalled();
    await later();
    expect(handler).toHaveBeenCalledTimes(3);
    expect(it.interrupts.spurious).toBe(0);
  });

  test("that somebody else keeps asserted are asked, for their level tells nothing", async () => {
    const it = machine();
    it.interrupts.changed(7, true);
    let asks = 0;
    let wants = false;
    it.interrupts.connectLine(7, () => {
      asks++;
      return wants;
    });
    await later();
    const before = asks;
    expect(before).toBeGreaterThan(1);
    wants = true;
    it.onSettle = () => (wants = false);
    await later();
    expect(asks).toBeGreaterThan(before);
    expect(it.interrupts.delivered).toBeGreaterThan(0);
  });

  test("that cannot be heard are asked while a driver is on them", async () => {
    const it = machine([255]);
    const handler = vi.fn<() => boolean>(() => true);
    const disconnect = it.interrupts.connectLine(255, handler);
    await later();
    expect(handler.mock.calls.length).toBeGreaterThan(1);
    disconnect();
    handler.mockClear();
    await later();
    expect(handler).not.toHaveBeenCalled();
  });
});

test("what a handler throws is told, and the others go on", async () => {
  const it = machine();
  it.interrupts.connectLine(1, () => {
    throw new Error("a mistake");
  });
  it.interrupts.changed(1, true);
  await later();
  expect(it.errors.map(String)).toContain("Error: a mistake");
  const handler = vi.fn<() => void>();
  it.interrupts.allocateMessage(handler);
  it.interrupts.changed(1, false);
  Atomics.store(it.words, 0, 1);
  await later();
  expect(handler).toHaveBeenCalled();
});

test("nothing is called after the end", async () => {
  const it = machine([255]);
  const handler = vi.fn<() => boolean>(() => true);
  it.interrupts.connectLine(255, handler);
  it.interrupts.connectLine(3, handler);
  it.interrupts.changed(3, true);
  it.interrupts.close();
  await later();
  expect(handler).not.toHaveBeenCalled();
});
