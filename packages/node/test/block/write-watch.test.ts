import { writeSync, openSync, closeSync } from "node:fs";
import { expect, test } from "vitest";
import { WriteWatch } from "@virtio/node/block/write-watch";

/** A clock and a thread of the test's own. */
class Thread {
  now = 0;
  sleeps = 0;
  asked = 0;
  readonly watch = new WriteWatch(
    () => this.now,
    () => {
      this.asked++;
      return this.sleeps;
    },
  );

  /** A write that takes so many milliseconds. False: it was left to somebody else. */
  write(took: number, slept: boolean): boolean {
    this.now += 0.1;
    if (!this.watch.begin()) return false;
    this.now += took;
    if (slept) this.sleeps++;
    this.watch.end();
    return true;
  }
}

test("a thread that sleeps in its writes again and again leaves them to somebody else for a second", () => {
  const thread = new Thread();
  expect([thread.write(50, true), thread.write(50, true), thread.write(1, false)]).toEqual([
    true,
    true,
    false,
  ]);
  thread.now += 1000;
  // It was seen before: once is enough now.
  expect([thread.write(50, true), thread.write(1, false)]).toEqual([true, false]);
});

test("a thread that loses its processor goes on", () => {
  const thread = new Thread();
  for (let i = 0; i < 20; i++) expect(thread.write(50, false)).toBe(true);
});

test("short sleeps are none, and writes that take no time ask the system nothing", () => {
  const thread = new Thread();
  for (let i = 0; i < 100; i++) expect(thread.write(5, true)).toBe(true);
  expect(thread.asked).toBe(0);
  thread.write(50, false);
  thread.now += 10_000;
  const { asked } = thread;
  for (let i = 0; i < 100; i++) thread.write(1, false);
  expect(thread.asked).toBe(asked);
});

test("the system says whether this thread slept", () => {
  let now = 0;
  const watch = new WriteWatch(() => now);
  const held = (work: () => void): boolean => {
    if (!watch.begin()) return true;
    work();
    now += 50;
    watch.end();
    now += 1;
    return !watch.begin();
  };
  const sink = openSync("/dev/null", "w");
  const busy = (): void => void writeSync(sink, "x");
  const sleep = (): void => void Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 5);
  held(busy);
  expect(held(busy)).toBe(false);
  expect(held(sleep)).toBe(true);
  closeSync(sink);
});
