import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { BusyPoll } from "../../src/frontend/busy-poll.ts";

beforeEach(() => {
  vi.useFakeTimers({ toFake: ["setImmediate", "performance"] });
});
afterEach(() => {
  vi.useRealTimers();
});

/** A ring that is looked at: a turn takes 0.005 ms. */
function rig(): {
  poll: BusyPoll;
  looks: () => number;
  call: (after: number) => boolean;
  find: () => boolean;
} {
  let looks = 0;
  const poll = new BusyPoll(50_000, () => {
    looks++;
    vi.advanceTimersByTime(0.005);
    poll.looksAgain(false);
  });
  const call = (after: number): boolean => {
    vi.advanceTimersByTime(after);
    poll.woken();
    return poll.looksAgain(true);
  };
  return { poll, looks: () => looks, call, find: () => poll.looksAgain(true) };
}

test("nobody looks until it was worth it, nor when it is no longer", () => {
  const { looks, call } = rig();
  expect(call(1)).toBe(false);
  // A call soon after another one: a look would have found it.
  expect(call(0.02)).toBe(true);
  vi.runAllTicks();
  vi.runAllTimers();
  const found = looks();
  expect(found).toBeGreaterThan(0);
  // It gave up in the end.
  expect(found).toBeLessThan(20);
  expect(call(1)).toBe(false);
});

test("one turn is planned at a time, and none after the end", () => {
  const { poll, looks, call, find } = rig();
  call(1);
  call(0.02);
  expect([find(), find()]).toEqual([true, true]);
  expect(vi.getTimerCount()).toBe(1);
  poll.stop();
  // The planned one finds nobody any more: it is none to wait for.
  expect(find()).toBe(false);
  vi.runAllTimers();
  expect([looks(), find()]).toEqual([0, false]);
});
