import { stateBytes, stateFlag, stateInteger, stateList, stateRecord } from "../../device/checked-state.ts";
import { MAC_BYTES } from "./mac.ts";
import { MAX_MAC_ENTRIES, VLAN_IDS } from "./rx-filter.ts";
import type { MacTable, RxFilter } from "./rx-filter.ts";

const RX_MODES = 6;

interface MacTableState {
  /** 48-bit numbers. */
  readonly addresses: readonly number[];
  readonly overflow: boolean;
}

/** A network device at rest. */
export interface NetState {
  readonly mac: Uint8Array;
  readonly pairs: number;
  readonly announce: boolean;
  /** By the numbers of the commands of the VIRTIO_NET_CTRL_RX class. */
  readonly modes: readonly boolean[];
  readonly unicast: MacTableState;
  readonly multicast: MacTableState;
  /** One bit a VLAN id. */
  readonly vlans: Uint8Array;
}

/** Checks everything, as the state may be hostile. Throws an Error that names what is wrong. */
export function parseNetState(state: unknown, maxPairs: number): NetState {
  const root = stateRecord(state, "net state");
  const modes = stateList(root["modes"], RX_MODES, "net state: modes").map((on) =>
    stateFlag(on, "net state: mode"),
  );
  const mac = stateBytes(root["mac"], MAC_BYTES, "net state: mac");
  const vlans = stateBytes(root["vlans"], VLAN_IDS / 8, "net state: vlans");
  const pairs = stateInteger(root["pairs"], maxPairs, "net state: pairs");
  if (modes.length !== RX_MODES || mac.length !== MAC_BYTES || vlans.length !== VLAN_IDS / 8 || pairs === 0)
    throw new Error("net state: something is too short");
  return {
    mac,
    pairs,
    announce: stateFlag(root["announce"], "net state: announce"),
    modes,
    unicast: parseTable(root["unicast"], "net state: unicast"),
    multicast: parseTable(root["multicast"], "net state: multicast"),
    vlans,
  };
}

export function saveFilter(filter: RxFilter): Pick<NetState, "modes" | "unicast" | "multicast" | "vlans"> {
  return {
    modes: Array.from({ length: RX_MODES }, (_, mode) => filter.mode(mode)),
    unicast: saveTable(filter.unicast),
    multicast: saveTable(filter.multicast),
    vlans: filter.vlans.slice(),
  };
}

export function restoreFilter(filter: RxFilter, state: NetState): void {
  state.modes.forEach((on, mode) => filter.setMode(mode, on));
  filter.setMacTables(restoreTable(state.unicast), restoreTable(state.multicast));
  filter.vlans.set(state.vlans);
}

function parseTable(value: unknown, where: string): MacTableState {
  const table = stateRecord(value, where);
  return {
    addresses: stateList(table["addresses"], MAX_MAC_ENTRIES, where).map((key) =>
      stateInteger(key, 0xffff_ffff_ffff, where),
    ),
    overflow: stateFlag(table["overflow"], where),
  };
}

function saveTable(table: MacTable): MacTableState {
  return { addresses: [...table.addresses], overflow: table.overflow };
}

function restoreTable(state: MacTableState): MacTable {
  return { addresses: new Set(state.addresses), overflow: state.overflow };
}
