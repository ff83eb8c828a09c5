import { clause } from "@virtio/testkit/clause";
import { RING } from "@virtio/testkit/ring/history";
import { describe, expect, test } from "vitest";
import { LATER } from "../../src/device/device.ts";
import { VirtioFault } from "../../src/fault.ts";
import {
  VIRTIO_F_EVENT_IDX,
  VIRTIO_F_INDIRECT_DESC,
  VIRTIO_F_IN_ORDER,
  VIRTIO_F_RING_PACKED,
  featureBits,
} from "../../src/spec/core.ts";
import type { DescriptorChain } from "../../src/virtqueue/types.ts";
import { DATA, MODERN, NEEDS_RESET, REQUEST, Rig, RUNNING, settle } from "./rig.ts";

const FORMATS: [string, bigint][] = [
  ["split", MODERN],
  ["split with EVENT_IDX", MODERN | featureBits(VIRTIO_F_EVENT_IDX)],
  ["packed", MODERN | featureBits(VIRTIO_F_RING_PACKED)],
  ["packed with EVENT_IDX", MODERN | featureBits(VIRTIO_F_RING_PACKED, VIRTIO_F_EVENT_IDX)],
];

describe.each(FORMATS)("serving a virtqueue, %s", (_name, features) => {
  test("what is done at once needs no promise, no second turn, and one notification a batch", () => {
    const rig = new Rig();
    rig.start(features);
    rig.notifications.length = 0;
    rig.device.serve = (chain) => chain.writableLength;
    const tokens = [
      rig.driver[0]?.offer(REQUEST),
      rig.driver[0]?.offer(REQUEST),
      rig.driver[0]?.offer(REQUEST),
    ];
    expect(rig.driver[0]?.publish()).toBe(true);
    rig.instance.notify(0);
    expect(rig.used()).toEqual(tokens.map((token) => ({ token, written: 16 })));
    expect(rig.notifications).toEqual([0]);
    expect(rig.instance.counters[0]).toMatchObject({
      chains: 3,
      readableBytes: 24,
      writtenBytes: 48,
      faults: 0,
    });
  });

  test("what is done later comes in any order", async () => {
    const rig = new Rig();
    rig.start(features);
    const tokens = [rig.offer(), rig.offer(), rig.offer()];
    const [first, second, third] = rig.device.requests;
    third?.done(3);
    await settle();
    expect(rig.used()).toEqual([{ token: tokens[2], written: 3 }]);
    second?.done(2);
    first?.done(1);
    await settle();
    expect(rig.used()).toEqual([
      { token: tokens[1], written: 2 },
      { token: tokens[0], written: 1 },
    ]);
  });

  test("what the device ends by itself is used, published together, and waited for by a pause", async () => {
    const rig = new Rig();
    rig.start(features);
    rig.notifications.length = 0;
    const chains: DescriptorChain[] = [];
    rig.device.serve = (chain) => {
      chains.push(chain);
      return LATER;
    };
    const tokens = [rig.offer(), rig.offer(), rig.offer()];
    const queue = rig.device.context?.queue(0);
    const complete = (index: number, written: number): void => {
      const chain = chains[index];
      if (chain !== undefined) queue?.complete(chain, written);
    };
    complete(1, 5);
    complete(0, 4);
    await settle();
    expect(rig.used()).toEqual([
      { token: tokens[1], written: 5 },
      { token: tokens[0], written: 4 },
    ]);
    expect(rig.notifications).toEqual([0]);
    let paused = false;
    const pause = rig.instance.pause().then(() => (paused = true));
    await settle();
    expect(paused).toBe(false);
    complete(2, 6);
    await pause;
    expect(rig.used()).toEqual([{ token: tokens[2], written: 6 }]);
    // After a reset it does nothing.
    rig.instance.resume();
    rig.offer();
    rig.instance.writeStatus(0);
    const before = rig.memory.snapshot();
    complete(3, 7);
    await settle();
    expect(rig.memory.changedSince(before)).toEqual([]);
    expect(rig.faults).toEqual([]);
  });

  test("a loop that knows of its promises hears of those that wait for what the device ends, and of no others", async () => {
    let promised = 0;
    const scheduler = {
      soon: (task: () => void) => task(),
      later: () => undefined,
      afterwards: (task: () => void) => task(),
      promised: () => void promised++,
      now: () => 0,
    };
    const rig = new Rig({ scheduler });
    rig.start(features);
    const queue = rig.device.context?.queue(0);
    const chains: DescriptorChain[] = [];
    rig.device.serve = (chain) => {
      chains.push(chain);
      return LATER;
    };
    const complete = (): void => {
      for (const chain of chains.splice(0)) queue?.complete(chain, 4);
    };
    rig.offer();
    complete();
    expect(promised).toBe(0);
    rig.offer();
    const pause = rig.instance.pause();
    complete();
    expect(promised).toBe(1);
    await pause;
    rig.instance.resume();
    rig.offer();
    rig.instance.writeStatus(0);
    promised = 0;
    complete();
    expect(promised).toBe(1);
  });

  test("a driver that looks at the ring goes on while there is more, the sooner the more there was to do", () => {
    const seen = (pages: number, count: number): number[] => {
      const rig = new Rig();
      rig.start(features | featureBits(VIRTIO_F_INDIRECT_DESC));
      const page = { gpa: DATA, length: 4096, writable: true };
      const elements = Array.from({ length: pages }, () => page);
      const found: number[] = [];
      rig.device.serve = () => {
        found.push(rig.used().length);
        return 0;
      };
      for (let i = 0; i < count; i++) rig.driver[0]?.offer(elements, { directBefore: 0 });
      rig.driver[0]?.publish();
      rig.instance.notify(0);
      return found;
    };
    expect(seen(4, 8)).toEqual([0, 0, 0, 0, 4, 0, 0, 0]);
    expect(seen(8, 8)).toEqual([0, 0, 0, 3, 0, 0, 3, 0]);
  });

  test(
    clause("dev.core.reserved-features", "under VIRTIO_F_IN_ORDER it comes in the order it was offered"),
    async () => {
      const rig = new Rig();
      rig.start(features | featureBits(VIRTIO_F_IN_ORDER));
      // The naive driver learns of it through its own ring's config, so look at what is used when.
      rig.offer();
      rig.offer();
      rig.device.requests[1]?.done(2);
      await settle();
      expect(rig.used()).toEqual([]);
      rig.device.requests[0]?.done(1);
      await settle();
      expect(rig.used().map(({ written }) => written)).toEqual([1, 2]);
    },
  );

  test("no wake-up is lost between the last look and the notification that was asked for", async () => {
    const rig = new Rig();
    rig.start(features);
    let extra = 2;
    rig.device.serve = () => {
      // The driver adds while the device works, and is told that no notification is wanted.
      if (extra-- > 0) {
        rig.driver[0]?.offer(REQUEST);
        rig.driver[0]?.publish();
      }
      return 1;
    };
    rig.offer();
    expect(rig.used()).toHaveLength(3);
    rig.offer();
    await settle();
    expect(rig.used()).toHaveLength(1);
  });

  test("a notification from within a request does not nest", async () => {
    const rig = new Rig();
    rig.start(features);
    let depth = 0;
    let deepest = 0;
    let extra = 3;
    rig.device.serve = () => {
      deepest = Math.max(deepest, ++depth);
      if (extra-- > 0) {
        rig.driver[0]?.offer(REQUEST);
        rig.driver[0]?.publish();
        rig.instance.notify(0);
      }
      depth--;
      return 1;
    };
    rig.offer();
    await settle();
    expect(rig.used()).toHaveLength(4);
    expect(deepest).toBe(1);
  });

  test("the budget gives way to the event loop, and nothing is forgotten", () => {
    const rig = new Rig({ budget: 2 });
    rig.start(features);
    let served = 0;
    rig.device.serve = () => {
      served++;
      rig.time += 3;
      return 1;
    };
    for (let i = 0; i < 4; i++) rig.driver[0]?.offer([{ gpa: DATA, length: 4, writable: true }]);
    rig.driver[0]?.publish();
    rig.instance.notify(0);
    expect(served).toBe(2);
    expect(rig.used()).toHaveLength(2);
    rig.runLater();
    expect(served).toBe(4);
    expect(rig.used()).toHaveLength(2);
  });

  test("no time passed: no need to give way", () => {
    const rig = new Rig({ budget: 2 });
    rig.start(features);
    rig.device.serve = () => 1;
    for (let i = 0; i < 4; i++) rig.driver[0]?.offer([{ gpa: DATA, length: 4, writable: true }]);
    rig.driver[0]?.publish();
    rig.instance.notify(0);
    expect(rig.used()).toHaveLength(4);
    expect(rig.later).toEqual([]);
  });

  test("a chain that takes longer than a turn is followed by a turn of the event loop, however few there are", () => {
    const rig = new Rig();
    rig.start(features);
    rig.device.serve = () => {
      rig.time += 100;
      return 1;
    };
    for (let i = 0; i < 3; i++) rig.driver[0]?.offer([{ gpa: DATA, length: 4, writable: true }]);
    rig.driver[0]?.publish();
    rig.instance.notify(0);
    const used = [rig.used().length];
    for (let i = 0; i < 3; i++) {
      for (const task of rig.later.splice(0)) task();
      used.push(rig.used().length);
    }
    expect(used).toEqual([1, 1, 1, 0]);
  });

  test("the driver adds just when the device asks for notifications: it is seen without one", () => {
    for (const queue of [0, 1]) {
      const rig = new Rig();
      rig.start(features);
      rig.device.serve = () => 1;
      rig.offer(undefined, queue);
      const running = rig.device.context?.queue(1);
      if (queue === 1) expect(running?.popAvailable()).toBeDefined();
      // From now on the ring is empty. The device looks, then says that it wants to be notified, then looks again.
      rig.memory.onWrote = () => {
        rig.memory.onWrote = undefined;
        rig.driver[queue]?.offer(REQUEST);
        rig.driver[queue]?.publish();
      };
      if (queue === 0) rig.instance.notify(0);
      else expect(running?.popAvailable()).toBeDefined();
      if (queue === 0) expect(rig.used()).toHaveLength(2);
    }
  });

  test("a pause from within a request takes no more chains", async () => {
    const rig = new Rig();
    rig.start(features);
    let served = 0;
    rig.device.serve = () => {
      served++;
      void rig.instance.pause();
      return 1;
    };
    rig.driver[0]?.offer(REQUEST);
    rig.driver[0]?.offer(REQUEST);
    rig.driver[0]?.publish();
    rig.instance.notify(0);
    await settle();
    expect(served).toBe(1);
    expect(rig.used()).toHaveLength(1);
  });

  test("a queue that the device pops hears of a notification that comes while it works on one", async () => {
    const rig = new Rig();
    rig.start(features);
    let refilled = 0;
    rig.device.onRefilled = () => {
      if (++refilled === 1) rig.instance.notify(1);
    };
    rig.instance.notify(1);
    await settle();
    expect(refilled).toBe(2);
  });

  test("a pause ends when the last request fails", async () => {
    const rig = new Rig();
    rig.start(features);
    rig.offer();
    const pause = rig.instance.pause();
    rig.device.requests[0]?.fail(new Error("disk on fire"));
    await pause;
    expect(rig.status & NEEDS_RESET).toBe(NEEDS_RESET);
  });

  test("a reset or a pause while the rest waits for its turn", async () => {
    const rig = new Rig({ budget: 1 });
    rig.start(features);
    let served = 0;
    rig.device.serve = () => {
      served++;
      rig.time += 10;
      return 1;
    };
    for (let i = 0; i < 3; i++) rig.driver[0]?.offer([{ gpa: DATA, length: 4, writable: true }]);
    rig.driver[0]?.publish();
    rig.instance.notify(0);
    expect(served).toBe(1);
    await rig.instance.pause();
    rig.runLater();
    expect(served).toBe(1);
    rig.instance.resume();
    rig.runLater();
    expect(served).toBe(3);
    rig.offer([{ gpa: DATA, length: 4, writable: true }]);
    rig.instance.writeStatus(0);
    const before = rig.memory.snapshot();
    rig.runLater();
    expect(rig.memory.changedSince(before)).toEqual([]);
  });

  test("a pause drains, and a queue popped by the device stands still", async () => {
    const rig = new Rig();
    rig.start(features);
    const token = rig.offer();
    let paused = false;
    const pause = rig.instance.pause().then(() => (paused = true));
    rig.offer();
    rig.offer(undefined, 1);
    await settle();
    expect(paused).toBe(false);
    expect(rig.device.requests).toHaveLength(1);
    expect(rig.device.context?.queue(1)?.popAvailable()).toBeUndefined();
    rig.device.requests[0]?.done(4);
    await pause;
    expect(rig.used()).toEqual([{ token, written: 4 }]);
    rig.instance.resume();
    expect(rig.device.requests).toHaveLength(2);
    expect(rig.device.context?.queue(1)?.popAvailable()).toBeDefined();
  });

  test("a queue that the device pops hears of more buffers, and gives chains back", () => {
    const rig = new Rig();
    rig.start(features);
    rig.device.calls.length = 0;
    const queue = rig.device.context?.queue(1);
    expect(queue?.popAvailable()).toBeUndefined();
    const token = rig.offer(undefined, 1);
    expect(rig.device.calls).toEqual(["refilled"]);
    const chain = queue?.popAvailable();
    expect(chain?.token).toBe(token);
    if (chain !== undefined) queue?.unpop(chain);
    const again = queue?.popAvailable();
    expect(again?.token).toBe(token);
    if (again !== undefined) queue?.addUsed(again, 16);
    expect(rig.used(1)).toEqual([]);
    queue?.flush();
    expect(rig.used(1)).toEqual([{ token, written: 16 }]);
    expect(rig.instance.counters[1]).toMatchObject({ chains: 1, readableBytes: 8 });
  });
});

describe("what goes wrong while a virtqueue is served", () => {
  test("a rejected promise is a bug of the host: the device needs a reset, the process lives on", async () => {
    const rig = new Rig();
    rig.start();
    rig.offer();
    rig.offer();
    rig.device.requests[0]?.fail(new Error("disk on fire"));
    await settle();
    expect(rig.status).toBe(RUNNING | NEEDS_RESET);
    expect(rig.faults[0]?.message).toContain("disk on fire");
    expect(rig.faults[0]?.cause).toBeInstanceOf(Error);
    expect(rig.instance.counters[0]?.faults).toBe(1);
    rig.device.requests[1]?.done(1);
    await settle();
    expect(rig.faults).toHaveLength(1);
  });

  test("a handler that throws is one too", () => {
    const rig = new Rig();
    rig.device.serve = () => {
      throw new TypeError("undefined is not a function");
    };
    rig.start();
    rig.offer();
    expect(rig.status).toBe(RUNNING | NEEDS_RESET);
    expect(rig.faults[0]?.message).toContain("undefined is not a function");
  });

  test("a malformed chain in a queue that the device pops is a fault and no chain", () => {
    const rig = new Rig();
    rig.start();
    rig.offer([{ gpa: 0x7000_0000, length: 1, writable: true }], 1);
    expect(rig.device.context?.queue(1)?.popAvailable()).toBeUndefined();
    expect(rig.faults[0]).toMatchObject({ clause: "drv.split.desc", queue: 1 });
    expect(rig.status).toBe(RUNNING | NEEDS_RESET);
  });

  test.each(FORMATS)(
    "memory that goes away while a request is out is a fault, %s",
    async (_name, features) => {
      const rig = new Rig();
      rig.start(features);
      rig.offer();
      const queue = rig.device.context?.queue(1);
      rig.offer(undefined, 1);
      const chain = queue?.popAvailable();
      rig.memory.remove(RING);
      rig.device.requests[0]?.done(4);
      await settle();
      expect(rig.status & NEEDS_RESET).toBe(NEEDS_RESET);
      expect(rig.faults[0]?.queue).toBe(0);
      if (chain !== undefined) expect(() => queue?.addUsed(chain, 4)).not.toThrow();
      expect(() => queue?.flush()).not.toThrow();
      rig.instance.writeStatus(0);
      expect(rig.status).toBe(0);
    },
  );

  test.each(FORMATS)(
    "memory that goes away while a batch is served ends it, with one fault, %s",
    (_n, features) => {
      const rig = new Rig();
      rig.start(features | featureBits(VIRTIO_F_INDIRECT_DESC));
      let served = 0;
      rig.device.serve = () => {
        if (++served === 1) return 0;
        // That is when what was used first is published.
        if (served === 3) rig.memory.remove(RING);
        return LATER;
      };
      const pages = Array.from({ length: 8 }, () => ({ gpa: DATA, length: 4096, writable: true }));
      for (let i = 0; i < 4; i++) rig.driver[0]?.offer(pages, { directBefore: 0 });
      rig.driver[0]?.publish();
      rig.instance.notify(0);
      expect(rig.status & NEEDS_RESET).toBe(NEEDS_RESET);
      expect([served, rig.faults.length, rig.instance.counters[0]?.faults]).toEqual([3, 1, 1]);
    },
  );

  test("a device may fail by itself, once it is live", () => {
    const rig = new Rig();
    rig.start();
    rig.notifications.length = 0;
    rig.device.context?.fail(new VirtioFault("dev.blk.operation", "the platter is bent", { queue: 0 }));
    expect(rig.faults.map((fault) => fault.rule)).toEqual(["the platter is bent"]);
    expect(rig.status).toBe(RUNNING | NEEDS_RESET);
    expect(rig.notifications).toEqual(["config"]);
    const { context } = rig.device;
    rig.instance.writeStatus(0);
    context?.fail(new VirtioFault("dev.blk.operation", "too late"));
    expect(rig.status).toBe(0);
    expect(rig.faults).toHaveLength(1);
  });
});
