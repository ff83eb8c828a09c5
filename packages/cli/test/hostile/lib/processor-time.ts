import { createRequire } from "node:module";
import type * as Koffi from "koffi";

const koffi = createRequire(import.meta.url)("koffi") as typeof Koffi;
const clockGettime = koffi.load(null).func("int clock_gettime(int clock, void *time)") as (
  clock: number,
  time: BigInt64Array,
) => number;

/** What clock_getcpuclockid(3) gives for a process: its number, inverted, above the kind of the clock. */
const CPUCLOCK_SCHED = 2;

/**
 * Milliseconds that the threads of a process have worked, to the nanosecond and up to this moment. `/proc/PID/stat` counts in steps
 * of 10 ms, and `/proc/PID/schedstat` of a thread that runs is as old as the last tick of the kernel.
 */
export function processorTime(pid: number): number {
  const time = new BigInt64Array(2);
  if (clockGettime((~pid << 3) | CPUCLOCK_SCHED, time) !== 0) throw new Error(`there is no process ${pid}`);
  const [seconds = 0n, nanoseconds = 0n] = time;
  return Number(seconds) * 1000 + Number(nanoseconds) / 1e6;
}
