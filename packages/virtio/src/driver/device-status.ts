import { VIRTIO_STATUS_FAILED } from "../spec/core.ts";
import { nextTurn } from "./turn.ts";
import type { DriverTransport } from "./types.ts";
import { untilDone } from "./wait.ts";

/** After an abort: turns of the event loop that a device gets to complete its reset. */
const LAST_TURNS = 100;
/** A register of a device that is not there any more; no device sets all bits of its status. */
const ALL_ONES = 0xff;
export function addStatus(transport: DriverTransport, bit: number): void {
  transport.writeStatus(transport.readStatus() | bit);
}

/** The driver has given up on the device. One that cannot be reached is not told. */
export function setFailed(transport: DriverTransport): void {
  try {
    addStatus(transport, VIRTIO_STATUS_FAILED);
  } catch {
    // Nobody may have known yet that it cannot.
  }
}

export function closeQuietly(transport: DriverTransport): void {
  try {
    transport.close?.();
  } catch {
    // Why it is closed is what is told.
  }
}

/** The device's registers read as ones: it was unplugged. */
class DeviceGone extends Error {}

/** Rejects when the device is gone, and a while after `cut` says that nobody waits any more. */
export async function resetDevice(transport: DriverTransport, cut: () => Error | undefined): Promise<void> {
  transport.writeStatus(0);
  let turns = 0;
  await untilDone(
    () => {
      const status = transport.readStatus();
      if ((status & ALL_ONES) === ALL_ONES) throw new DeviceGone(`${transport.name}: the device is gone`);
      return status === 0;
    },
    () => {
      const reason = cut();
      return reason !== undefined && turns++ >= LAST_TURNS ? reason : undefined;
    },
  );
}

/** It was not reset, and holds nothing all the same. */
export async function isGone(transport: DriverTransport, problem: Error): Promise<boolean> {
  if (problem instanceof DeviceGone) return true;
  // A machine that does not answer is known to be lost a moment later.
  if (transport.failure === undefined) await nextTurn();
  return transport.failure !== undefined;
}
