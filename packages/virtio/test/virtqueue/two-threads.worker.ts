import { parentPort, workerData } from "node:worker_threads";
import { RegionMemory } from "../../src/memory/region-memory.ts";
import { createDeviceQueue, createDriverQueue } from "../../src/virtqueue/create.ts";
import type { QueueConfig } from "../../src/virtqueue/types.ts";

/** One side of a virtqueue in a thread of its own, sleeping whenever the ring allows it. See two-threads.test.ts. */
export interface ThreadData {
  readonly side: "driver" | "device";
  readonly shared: SharedArrayBuffer;
  readonly gpa: number;
  readonly config: QueueConfig;
  readonly packed: boolean;
  readonly data: number;
  readonly chains: number;
}

const { side, shared, gpa, config, packed, data, chains } = workerData as ThreadData;
const memory = new RegionMemory([{ gpa, bytes: new Uint8Array(shared) }]);
/** Two doorbells at the start of the memory: the device's and the driver's. */
const bells = new Int32Array(shared, 0, 2);
const words = new Int32Array(shared);
const DEVICE_BELL = 0;
const DRIVER_BELL = 1;
let sleeps = 0;

function ring(bell: number): void {
  Atomics.add(bells, bell, 1);
  Atomics.notify(bells, bell);
}

/** Sleeps until the bell has rung more often than `heard`. */
function sleep(bell: number, heard: number): number {
  sleeps++;
  if (Atomics.wait(bells, bell, heard, 10_000) === "timed-out")
    throw new Error(`the ${side} was never woken`);
  return Atomics.load(bells, bell);
}

function runDevice(): void {
  const queue = createDeviceQueue(memory, config, packed);
  let heard = 0;
  for (let done = 0; done < chains;) {
    queue.setNotifications(false);
    do {
      for (let chain = queue.popAvailable(); chain !== undefined; chain = queue.popAvailable(), done++) {
        const from = chain.readable[0];
        const to = chain.writable[0];
        if (from === undefined || to === undefined) throw new Error("a chain without its two buffers");
        // The number was stored before the chain was made available; the answer is stored before it is used.
        words[(to.gpa - gpa) / 4] = (words[(from.gpa - gpa) / 4] ?? 0) + 1;
        queue.addUsed(chain, 4);
      }
      if (queue.takeNotification()) ring(DRIVER_BELL);
    } while (queue.setNotifications(true));
    if (done < chains) heard = sleep(DEVICE_BELL, heard);
  }
}

function runDriver(): void {
  const queue = createDriverQueue(memory, config, packed);
  const slot = new Map<number, number>();
  const freeSlots = Array.from({ length: config.size }, (_, i) => i);
  let heard = 0;
  let next = 0;
  for (let done = 0; done < chains;) {
    for (let batch = next % 7; batch >= 0 && next < chains && freeSlots.length > 0; batch--) {
      const at = freeSlots[freeSlots.length - 1] ?? 0;
      const place = data + 8 * at;
      words[(place - gpa) / 4] = next;
      words[(place - gpa) / 4 + 1] = -1;
      const token = queue.addAvailable([{ gpa: place, length: 4 }], [{ gpa: place + 4, length: 4 }]);
      if (token === undefined) break;
      freeSlots.pop();
      slot.set(token, at);
      next++;
    }
    if (queue.takeNotification()) ring(DEVICE_BELL);
    queue.setNotifications(false);
    let some = false;
    for (let used = queue.popUsed(); used !== undefined; used = queue.popUsed(), done++) {
      const at = slot.get(used.token) ?? 0;
      const place = (data + 8 * at - gpa) / 4;
      if (words[place + 1] !== (words[place] ?? 0) + 1)
        throw new Error(`chain ${done}: used before it was written`);
      freeSlots.push(at);
      some = true;
    }
    // A full ring or an idle one: nothing to do but wait.
    if (!some && done < chains && (freeSlots.length < 2 || next === chains))
      if (!queue.setNotifications(true)) heard = sleep(DRIVER_BELL, heard);
  }
}

if (side === "device") runDevice();
else runDriver();
parentPort?.postMessage({ side, sleeps });
