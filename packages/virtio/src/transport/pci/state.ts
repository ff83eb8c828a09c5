import type { PciFunctionState } from "../../bus/pci/function.ts";
import { isIndex, isRecord } from "../state.ts";
import type { CommonConfigState } from "./common-config.ts";
import type { LegacyHeaderState } from "./legacy-header.ts";

/** What `VirtioPciFunction.save` gives. */
export interface PciTransportState {
  readonly version: 1;
  readonly fn: PciFunctionState;
  readonly isr: number;
  readonly configVector: number;
  readonly queueVectors: readonly number[];
  readonly generation: number;
  readonly common: CommonConfigState | undefined;
  readonly legacy: LegacyHeaderState | undefined;
}

/** Whether an untrusted value has the shape; `fn` must still be taken to the function it belongs to. */
export function isTransportState(state: unknown): state is PciTransportState {
  return (
    isRecord(state) &&
    state["version"] === 1 &&
    isRecord(state["fn"]) &&
    isIndex(state["isr"], 8) &&
    isIndex(state["configVector"], 16) &&
    Array.isArray(state["queueVectors"]) &&
    state["queueVectors"].every((vector) => isIndex(vector, 16)) &&
    isIndex(state["generation"], 8) &&
    (state["common"] === undefined || isCommon(state["common"])) &&
    (state["legacy"] === undefined || isLegacy(state["legacy"]))
  );
}

function isCommon(state: unknown): boolean {
  return (
    isRecord(state) &&
    isIndex(state["deviceFeatureSelect"], 32) &&
    isIndex(state["driverFeatureSelect"], 32) &&
    isIndex(state["queueSelect"], 16)
  );
}

function isLegacy(state: unknown): boolean {
  return isRecord(state) && isIndex(state["queueSelect"], 16);
}
