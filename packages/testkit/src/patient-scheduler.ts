import { immediateScheduler, type Scheduler } from "virtio/device/scheduler";

/**
 * For tests that look at what a device did right after a notification: its clock stands still, so that the time of a turn of the
 * event loop is never used up, however slow the machine is and however much a test does without letting the loop turn.
 */
export const patientScheduler: Scheduler = { ...immediateScheduler, now: () => 0 };
