import { immediateScheduler, type Scheduler } from "virtio/device/scheduler";
import { host } from "./globals.ts";

type SchedulingHost = Pick<typeof host, "setImmediate" | "MessageChannel">;

/**
 * Work runs at once, even inside a register access: interrupts that it raises there are only latched (see `V86Core`).
 * What is left over runs after a turn of the event loop, in a browser too, where `setTimeout` would wait 4 ms.
 */
export const machineScheduler: Scheduler = schedulerOf(host);

/** For a host with these globals. */
export function schedulerOf({ setImmediate, MessageChannel }: SchedulingHost): Scheduler {
  return setImmediate !== undefined || MessageChannel === undefined
    ? immediateScheduler
    : { ...immediateScheduler, later: messageTurn(new MessageChannel()) };
}

function messageTurn({
  port1,
  port2,
}: InstanceType<NonNullable<typeof host.MessageChannel>>): (task: () => void) => void {
  const tasks: (() => void)[] = [];
  port1.onmessage = () => tasks.shift()?.();
  return (task) => {
    tasks.push(task);
    port2.postMessage(null);
  };
}
