import assert from "node:assert/strict";
import type { Scheduler } from "virtio/device/scheduler";
import { BusyQueues, waitsBeside } from "../busy-queues.ts";
import type { ConformanceCase } from "./case.ts";

/** A scheduler whose host's loop turns, until it is closed. */
export interface OpenScheduler {
  readonly scheduler: Scheduler;
  close?(): void | Promise<void>;
}

/** Milliseconds of the processor that a timer of the host, or another device, may wait for devices that never stop. */
const LONGEST_WAIT = 20;
/** Measurements, of which one must be within that. */
const ATTEMPTS = 3;

/** Holds a `Scheduler` to its contract. Whatever devices do, the host's loop goes on: its timers, its promises, other devices. */
export function schedulerCases(open: () => OpenScheduler | Promise<OpenScheduler>): ConformanceCase[] {
  const cases: ConformanceCase[] = [];
  const add = (title: string, body: (scheduler: Scheduler) => void | Promise<void>): void => {
    cases.push({
      clauses: [],
      title,
      run: async () => {
        const opened = await open();
        try {
          await body(opened.scheduler);
        } finally {
          await opened.close?.();
        }
      },
    });
  };

  add("soon: each task once, in order, and those that tasks ask for too", async (scheduler) => {
    const done: string[] = [];
    scheduler.soon(() => {
      scheduler.soon(() => done.push("inner"));
      done.push("first");
    });
    scheduler.soon(() => done.push("second"));
    await until(() => done.length === 3);
    await turns(3);
    assert.deepEqual(done.toSorted(), ["first", "inner", "second"]);
    assert.ok(done.indexOf("first") < done.indexOf("second"), "in order");
  });

  add(
    "later: not before what is being done, each once, in order; what a task asks for is after them",
    async (scheduler) => {
      const done: string[] = [];
      scheduler.later(() => {
        done.push("first");
        scheduler.later(() => done.push("of the first"));
      });
      scheduler.later(() => done.push("second"));
      await Promise.resolve();
      assert.deepEqual(done, [], "promises go on before the event loop has a turn");
      await until(() => done.length === 3);
      await turns(3);
      assert.deepEqual(done, ["first", "second", "of the first"]);
    },
  );

  add(
    "later: a task that asks for itself for ever leaves turns to timers and to promises",
    async (scheduler) => {
      let runs = 0;
      let stopped = false;
      const again = (): void => {
        runs++;
        if (!stopped) scheduler.later(again);
      };
      scheduler.later(again);
      for (let i = 0; i < 10; i++) await new Promise((resolve) => setTimeout(resolve, 1));
      await until(() => runs > 10);
      stopped = true;
      const end = runs;
      await turns(3);
      assert.ok(runs <= end + 1, "one task, one run");
    },
  );

  add("idle: each task once", async (scheduler) => {
    let runs = 0;
    if (scheduler.idle === undefined) return;
    scheduler.idle(() => runs++);
    scheduler.idle(() => runs++);
    await until(() => runs === 2);
    await turns(3);
    assert.equal(runs, 2);
  });

  add("afterwards: each task once, not in the middle of what asks for it", async (scheduler) => {
    let runs = 0;
    if (scheduler.afterwards === undefined) return;
    await new Promise<void>((resolve) => {
      scheduler.later(() => {
        scheduler.afterwards?.(() => runs++);
        scheduler.afterwards?.(() => runs++);
        assert.equal(runs, 0, "in the middle");
        resolve();
      });
    });
    await until(() => runs === 2);
    await turns(3);
    assert.equal(runs, 2);
  });

  add("promised: promises that follow one on another go on", async (scheduler) => {
    let reached = 0;
    const follow = async (): Promise<void> => {
      for (let i = 0; i < 20; i++) {
        await Promise.resolve();
        reached = i + 1;
      }
    };
    scheduler.later(() => {
      void follow();
      scheduler.promised?.();
    });
    await until(() => reached === 20);
  });

  add("now: milliseconds that never go back", async (scheduler) => {
    const start = scheduler.now();
    const begin = performance.now();
    let last = start;
    while (performance.now() - begin < 5) {
      const now = scheduler.now();
      assert.ok(now >= last, `${now} after ${last}`);
      last = now;
    }
    await turns(1);
    const passed = performance.now() - begin;
    const took = scheduler.now() - start;
    // Some clocks count whole milliseconds.
    assert.ok(took >= 3 && took <= passed + 2, `${took} ms of ${passed} ms`);
  });

  for (const pops of [false, true])
    for (const chainMs of [0.02, 0.1])
      add(
        `64 virtqueues that are always full, ${pops ? "popped by the device" : "served"}, ${chainMs} ms a chain, drivers that notify unasked: the host waits at most ${LONGEST_WAIT} ms`,
        async (scheduler) => {
          const busy = new BusyQueues(scheduler, { queues: 64, chainMs, pops });
          // The first ones are the compiler's.
          await waitsBeside(busy, scheduler, 60);
          busy.stopped = false;
          const { served } = busy;
          let waits = await waitsBeside(busy, scheduler, 60);
          // A collection of garbage, or a neighbour on the processor, does not come each time.
          for (let i = 1; i < ATTEMPTS && Math.max(waits.timer, waits.device) > LONGEST_WAIT; i++) {
            busy.stopped = false;
            waits = await waitsBeside(busy, scheduler, 60);
          }
          assert.ok(waits.timer <= LONGEST_WAIT, `a timer waited ${waits.timer} ms`);
          assert.ok(waits.device <= LONGEST_WAIT, `another device waited ${waits.device} ms`);
          const least = Math.min(...served);
          assert.ok(least > 0, "every virtqueue is served");
        },
      );
  return cases;
}

async function until(reached: () => boolean): Promise<void> {
  while (!reached()) await turns(1);
}

/** Turns of the host's loop, by its timers. */
async function turns(count: number): Promise<void> {
  for (let i = 0; i < count; i++) await new Promise((resolve) => setTimeout(resolve, 0));
}
