import { execFile } from "node:child_process";
import { readFile } from "node:fs/promises";
import { expect, test } from "vitest";
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
      await pause(5);
      expect(heard).toBe(i);
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
    const start = performance.now();
    await pause(50);
    // A timer is at most one sleep late; the rest is this machine's load.
    expect(performance.now() - start).toBeLessThan(1000);
    expect((await readFile("/proc/self/comm", "latin1")).length).toBeGreaterThan(0);
    const output = await new Promise<string>((resolve, reject) => {
      execFile("echo", ["heard"], (error, text) => (error ? reject(error) : resolve(text)));
    });
    expect(output).toBe("heard\n");
    // Twice: what a promise starts from a callback goes on as well.
    for (let i = 0; i < 2; i++) await new Promise((resolve) => setImmediate(resolve));
  });
});

test("a spinner is asked before each sleep, and looked at in between only while that is worth it", async () => {
  for (const pollMaxNs of [0, 1e6]) {
    const loop = new BlockingLoop({ pollMaxNs });
    let looks = 0;
    let rests = 0;
    const event = createEvent();
    loop.watch(event.fd, () => clearEvent(event.fd), true);
    const spin = loop.spin({
      look: () => {
        looks++;
        return false;
      },
      rest: () => {
        rests++;
        return false;
      },
    });
    await beside(loop, async () => {
      await pause(20);
      // Sleeps of 10 ms are too long for looking to be worth it.
      const before = looks;
      for (let i = 0; i < 200; i++) {
        signalEvent(event.fd);
        await new Promise((resolve) => setImmediate(resolve));
      }
      if (pollMaxNs === 0) expect(looks).toBe(0);
      else expect(looks).toBeGreaterThan(before);
      expect(rests).toBeGreaterThan(2);
      spin.stop();
      event.close();
    });
  }
});

test("what is put off is done, also when it puts off more; what is polled is polled", async () => {
  const loop = new BlockingLoop();
  await beside(loop, async () => {
    let left = 5;
    const again = (): void => {
      if (--left > 0) loop.scheduler.later(again);
    };
    loop.scheduler.later(again);
    await pause(30);
    expect(left).toBe(0);
    let polled = 0;
    const poll = loop.poll(() => polled++);
    await pause(60);
    expect(polled).toBeGreaterThan(2);
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
