import { until } from "@virtio/testkit/until";
import { execFile } from "node:child_process";
import { readFile } from "node:fs/promises";
import { expect, test } from "vitest";
import { AdaptiveWindow, LEAST_WINDOW } from "@virtio/vhost-user/native/adaptive-window";
import { BlockingLoop } from "@virtio/vhost-user/native/blocking-loop";
import { openDescriptors } from "@virtio/vhost-user/native/descriptor";
import { clearEvent, createEvent, signalEvent } from "@virtio/vhost-user/native/event";

/** Runs `work` beside the loop, on this thread, and then ends the loop. */
async function beside(loop: BlockingLoop, work: () => Promise<void>): Promise<void> {
  const running = loop.run();
  try {
    await work();
  } finally {
    loop.stop();
    await running;
    loop.close();
    expect(openDescriptors()).toBe(0);
  }
}

const pause = (milliseconds: number): Promise<void> =>
  new Promise((resolve) => void setTimeout(resolve, milliseconds));

test("a descriptor that is signalled is heard of until its watch is stopped", async () => {
  const loop = new BlockingLoop();
  const event = createEvent();
  let heard = 0;
  await beside(loop, async () => {
    const watch = loop.watch(event.fd, () => {
      heard++;
      clearEvent(event.fd);
    });
    for (let i = 1; i <= 3; i++) {
      signalEvent(event.fd);
      await until(() => heard === i);
    }
    watch.stop();
    watch.stop();
    signalEvent(event.fd);
    await pause(30);
    expect(heard).toBe(3);
    event.close();
  });
});

test("Node's own work goes on while the loop sleeps: timers, files, children, promises", async () => {
  const loop = new BlockingLoop();
  await beside(loop, async () => {
    await pause(50);
    expect((await readFile("/proc/self/comm", "latin1")).length).toBeGreaterThan(0);
    const output = await new Promise<string>((resolve, reject) => {
      execFile("echo", ["heard"], (error, text) => (error ? reject(error) : resolve(text)));
    });
    expect(output).toBe("heard\n");
    // Twice: what a promise starts from a callback goes on as well.
    for (let i = 0; i < 2; i++) await new Promise((resolve) => setImmediate(resolve));
  });
});

test("a spinner is looked at and then asked to rest before each sleep, and is never asleep with work", async () => {
  const loop = new BlockingLoop({ pollMaxNs: 1e6 });
  const event = createEvent();
  loop.watch(event.fd, () => clearEvent(event.fd), true);
  let given = 0;
  let done = 0;
  let resting = false;
  let rests = 0;
  const take = (): boolean => {
    const some = done < given;
    done = given;
    return some;
  };
  const spin = loop.spin({
    look: () => {
      resting = false;
      return take();
    },
    rest: () => {
      resting = true;
      rests++;
      return take();
    },
  });
  await beside(loop, async () => {
    for (let i = 1; i <= 50; i++) {
      given = i;
      // As a driver does: it only signals who rests.
      if (resting) signalEvent(event.fd);
      while (done < i) await new Promise((resolve) => setImmediate(resolve));
    }
    const before = rests;
    await until(() => rests > before);
    spin.stop();
    given++;
    signalEvent(event.fd);
    await pause(20);
    expect(done).toBe(50);
    event.close();
  });
});

test("it looks longer while something comes soon, and hardly when it was quiet for long", () => {
  const window = new AdaptiveWindow(0.05);
  expect(window.length).toBe(LEAST_WINDOW);
  const grown = Array.from({ length: 5 }, () => {
    window.woken(0.04);
    return window.length;
  });
  expect(grown).toEqual([0.012, 0.024, 0.048, 0.048, 0.048]);
  window.woken(0.049);
  expect(window.length).toBe(0.05);
  window.woken(0.01);
  expect(window.length).toBe(0.05);
  window.woken(3);
  expect(window.length).toBe(LEAST_WINDOW);
  const none = new AdaptiveWindow(0);
  for (const quiet of [0.001, 0.01, 10]) none.woken(quiet);
  expect(none.length).toBe(LEAST_WINDOW);
});

test("what is put off is done, also when it puts off more; what is polled is polled", async () => {
  const loop = new BlockingLoop();
  await beside(loop, async () => {
    let left = 5;
    const again = (): void => {
      if (--left > 0) loop.scheduler.later(again);
    };
    loop.scheduler.later(again);
    await until(() => left === 0);
    let polled = 0;
    const poll = loop.poll(() => polled++);
    await until(() => polled > 2);
    poll.stop();
  });
});

test("what a callback throws ends the loop", async () => {
  const loop = new BlockingLoop();
  const event = createEvent();
  loop.watch(event.fd, () => {
    throw new Error("of a callback");
  });
  signalEvent(event.fd);
  await expect(loop.run()).rejects.toThrow("of a callback");
  loop.close();
  event.close();
});

test("what is put off until afterwards is done before the loop sleeps, whoever puts it off", async () => {
  const loop = new BlockingLoop();
  const event = createEvent();
  const done: string[] = [];
  const later = (from: string): void => loop.scheduler.afterwards?.(() => done.push(from));
  await beside(loop, async () => {
    const watch = loop.watch(
      event.fd,
      () => {
        clearEvent(event.fd);
        later("descriptor");
        // It is not done in the middle of what puts it off.
        expect(done).not.toContain("descriptor");
        void Promise.resolve().then(() => later("promise"));
      },
      true,
    );
    let resting = true;
    const spin = loop.spin({
      look: () => false,
      rest: () => {
        if (resting) later("rest");
        resting = false;
        return false;
      },
    });
    await until(() => done.includes("rest"));
    loop.promised();
    signalEvent(event.fd);
    await until(() => done.includes("descriptor") && done.includes("promise"));
    spin.stop();
    watch.stop();
    event.close();
  });
  expect(done.toSorted()).toEqual(["descriptor", "promise", "rest"]);
});
