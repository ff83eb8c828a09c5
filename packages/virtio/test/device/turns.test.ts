import { describe, expect, test } from "vitest";
import type { Scheduler } from "../../src/device/scheduler.ts";
import { type Runnable, TURN_MS, Turns } from "../../src/device/turns.ts";
import { ConsoleDevice } from "../../src/devices/console/device.ts";
import { DriverSession } from "../../src/driver/session.ts";
import { Loopback, settle } from "../support/loopback.ts";
import { REQUEST, Rig } from "./rig.ts";

interface ByHand {
  readonly scheduler: Scheduler;
  readonly later: (() => void)[];
  readonly spend: (ms: number) => void;
  readonly turn: () => number;
}

/** Time and the host's loop under the test's hand. */
function byHand(): ByHand {
  let time = 0;
  const later: (() => void)[] = [];
  return {
    scheduler: { soon: (task) => task(), later: (task) => void later.push(task), now: () => time },
    later,
    spend: (ms) => void (time += ms),
    /** Runs what was put off, and says how long that took. */
    turn: () => {
      const begin = time;
      for (const task of later.splice(0)) task();
      return time - begin;
    },
  };
}

describe("a driver that never stops, each chain longer than a turn", () => {
  function endless(): Rig {
    const rig = new Rig();
    const refill = (): void => {
      rig.driver[0]?.collect();
      while (rig.driver[0]?.offer(REQUEST) !== undefined);
      rig.driver[0]?.publish();
    };
    rig.device.serve = () => {
      rig.time += TURN_MS + 1;
      refill();
      return 0;
    };
    rig.start();
    refill();
    return rig;
  }

  test("and notifies although it need not: one task is planned, for one chain", () => {
    const rig = endless();
    for (let turn = 0; turn < 20; turn++) {
      for (let i = 0; i < 3; i++) rig.instance.notify(0);
      const before = rig.time;
      const tasks = rig.later.splice(0);
      expect(tasks).toHaveLength(1);
      for (const task of tasks) task();
      expect(rig.time - before).toBe(TURN_MS + 1);
    }
  });

  test("and is looked at: so it is too", () => {
    const rig = endless();
    rig.instance.queue(0)?.look();
    for (let turn = 0; turn < 20; turn++) {
      const before = rig.time;
      expect(rig.instance.queue(0)?.look()).toBe(true);
      const tasks = rig.later.splice(0);
      expect(tasks).toHaveLength(1);
      for (const task of tasks) task();
      expect(rig.time - before).toBe(TURN_MS + 1);
    }
  });
});

describe("who waits for a turn", () => {
  /** Queues that always have work of `ms` milliseconds a piece. */
  function queues(turns: Turns, spend: (ms: number) => void, pieces: readonly number[]): { runs: number[] } {
    const runs: number[] = [];
    pieces.forEach((ms, index) => {
      const queue: Runnable = {
        waits: "no",
        run: () => {
          runs.push(index);
          turns.begin();
          do spend(ms);
          while (!turns.over());
          turns.end();
          turns.wait(queue);
        },
      };
      turns.wait(queue);
    });
    return { runs };
  }

  test("works in turn, for an equal share of time", () => {
    const { scheduler, spend, turn, later } = byHand();
    const { runs } = queues(new Turns(scheduler), spend, [0.125, 0.125, 0.125, 0.125]);
    expect(turn()).toBeCloseTo(TURN_MS, 0);
    expect(runs).toEqual([0, 1, 2, 3]);
    expect(later).toHaveLength(1);
    turn();
    expect(runs).toEqual([0, 1, 2, 3, 0, 1, 2, 3]);
  });

  test("is not overtaken by one whose work takes longer than a turn", () => {
    const { scheduler, spend, turn } = byHand();
    const { runs } = queues(new Turns(scheduler), spend, [7, 0.5, 0.5]);
    expect(turn()).toBe(7);
    // What is begun is ended, but nothing is begun after 4 ms.
    expect(turn()).toBeLessThan(TURN_MS + 7);
    expect(runs.slice(0, 4)).toEqual([0, 1, 2, 0]);
  });

  test("is forgotten when its queue is reset, however often", () => {
    const { scheduler, spend, later } = byHand();
    const turns = new Turns(scheduler);
    let runs = 0;
    turns.begin();
    spend(TURN_MS);
    turns.end();
    for (let i = 0; i < 100; i++) {
      const queue: Runnable = { waits: "no", run: () => runs++ };
      turns.notified(queue);
      expect(queue.waits).toBe("turn");
      turns.forget(queue);
    }
    for (const task of later) task();
    expect([runs, later.length]).toEqual([0, 1]);
  });

  test("time between two notifications is the guest's and not a device's", () => {
    const { scheduler, spend, later } = byHand();
    const turns = new Turns(scheduler);
    let runs = 0;
    const queue: Runnable = {
      waits: "no",
      run: () => {
        runs++;
        turns.begin();
        spend(0.001);
        turns.end();
      },
    };
    for (let i = 0; i < 100; i++) {
      turns.notified(queue);
      spend(50);
    }
    expect([runs, later.length]).toEqual([100, 0]);
  });
});

describe("a device that pops by itself", () => {
  test("is given no more chains when the time is used up, and is asked again in another turn", () => {
    const rig = new Rig();
    rig.start();
    let popped = 0;
    rig.device.onRefilled = () => {
      const queue = rig.device.context?.queue(1);
      for (let chain = queue?.popAvailable(); chain !== undefined; chain = queue?.popAvailable()) {
        popped++;
        rig.time += 3;
        queue?.addUsed(chain, 0);
      }
      queue?.flush();
    };
    for (let i = 0; i < 5; i++) rig.driver[1]?.offer(REQUEST.slice(1));
    rig.driver[1]?.publish();
    rig.instance.notify(1);
    expect(popped).toBe(2);
    const after: number[] = [];
    for (let turn = 0; turn < 3; turn++) {
      for (const task of rig.later.splice(0)) task();
      after.push(popped);
    }
    expect(after).toEqual([4, 5, 5]);
    expect(rig.used(1)).toHaveLength(5);
  });
});

test("one buffer of a console that takes longer than a turn is written piece by piece, in turns", async () => {
  const { scheduler, spend, turn, later } = byHand();
  const written: number[] = [];
  const write = (bytes: Uint8Array): number => {
    spend(1);
    for (let at = 0; at < bytes.length; at += 4096) written.push(bytes[at] ?? 0);
    return bytes.length;
  };
  const device = new ConsoleDevice({
    ports: [{ backend: { attach: () => undefined, write }, kind: "console" }],
  });
  const transport = new Loopback(device, { scheduler });
  const session = await DriverSession.open(transport, { wanted: 0n });
  const queue = session.addQueue(1, 8);
  session.ready();
  const length = 1 << 20;
  const gpa = transport.memory.allocate(length, 4096);
  const pages = Array.from({ length: length / 4096 }, (_, page) => page);
  for (const page of pages) transport.bytes.fill(page, gpa + 4096 * page, gpa + 4096 * (page + 1));
  let used = false;
  void queue.request([{ gpa, length }], []).then(() => (used = true));
  await settle();
  let longest = 0;
  let turns = 0;
  while (later.length > 0) {
    longest = Math.max(longest, turn());
    turns++;
  }
  await settle();
  expect([used, longest <= TURN_MS + 2, turns >= 3]).toEqual([true, true, true]);
  expect(written).toEqual(pages);
});
