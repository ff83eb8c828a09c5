import { isIndex, isRecord } from "../state.ts";

/** What `VirtioMmio.save` gives. */
export interface MmioTransportState {
  readonly version: 1;
  /** Version of the register layout. */
  readonly interface: 1 | 2;
  readonly deviceFeaturesSel: number;
  readonly driverFeaturesSel: number;
  readonly queueSel: number;
  readonly shmSel: number;
  readonly interruptStatus: number;
  readonly guestPageSize: number;
  readonly queueAlign: readonly number[];
}

const REGISTERS = ["deviceFeaturesSel", "driverFeaturesSel", "queueSel", "shmSel", "guestPageSize"] as const;

/** Whether an untrusted value has the shape of a saved state. */
export function isMmioState(state: unknown): state is MmioTransportState {
  return (
    isRecord(state) &&
    state["version"] === 1 &&
    (state["interface"] === 1 || state["interface"] === 2) &&
    REGISTERS.every((name) => isIndex(state[name], 32)) &&
    isIndex(state["interruptStatus"], 2) &&
    Array.isArray(state["queueAlign"]) &&
    state["queueAlign"].every((align) => isIndex(align, 32))
  );
}
