import { stateBytes, stateFlag, stateInteger, stateList, stateRecord } from "../../device/checked-state.ts";
import type { ControlMessage } from "./outbox.ts";

/** What is kept of a port. */
export interface PortState {
  readonly id: number;
  readonly console: boolean;
  readonly announced: boolean;
  readonly driverReady: boolean;
  readonly guestOpen: boolean;
  /** The state of the host end that the driver was told last. */
  readonly toldOpen: boolean;
  readonly columns: number;
  readonly rows: number;
  /** Bytes of the next transmit buffer that the backend has. */
  readonly taken: number;
}

/** A console device at rest. */
export interface ConsoleState {
  readonly maxPorts: number;
  readonly driverReady: boolean;
  readonly ports: readonly PortState[];
  readonly messages: readonly ControlMessage[];
}

/** Messages that a well-formed outbox can hold for one port. */
const MESSAGES_A_PORT = 8;
const MAX_MESSAGE_DATA = 4096;

/** Checks everything, as the state may be hostile. Throws an Error that names what is wrong. */
export function parseConsoleState(state: unknown, maxPorts: number): ConsoleState {
  const root = stateRecord(state, "console state");
  if (stateInteger(root["maxPorts"], 0xffff_ffff, "console state: maxPorts") !== maxPorts)
    throw new Error(`console state: saved with another number of ports than ${maxPorts}`);
  const ports = stateList(root["ports"], maxPorts, "console state: ports").map((port) =>
    parsePort(port, maxPorts),
  );
  if (new Set(ports.map((port) => port.id)).size !== ports.length)
    throw new Error("console state: a port occurs twice");
  const messages = stateList(root["messages"], maxPorts * MESSAGES_A_PORT, "console state: messages").map(
    (item) => {
      const message = stateRecord(item, "console state: message");
      return {
        id: stateInteger(message["id"], maxPorts - 1, "console state: message.id"),
        event: stateInteger(message["event"], 0xffff, "console state: message.event"),
        value: stateInteger(message["value"], 0xffff, "console state: message.value"),
        data: stateBytes(message["data"], MAX_MESSAGE_DATA, "console state: message.data"),
      };
    },
  );
  return {
    maxPorts,
    driverReady: stateFlag(root["driverReady"], "console state: driverReady"),
    ports,
    messages,
  };
}

function parsePort(state: unknown, maxPorts: number): PortState {
  const port = stateRecord(state, "console state: port");
  return {
    id: stateInteger(port["id"], maxPorts - 1, "console state: port.id"),
    console: stateFlag(port["console"], "console state: port.console"),
    announced: stateFlag(port["announced"], "console state: port.announced"),
    driverReady: stateFlag(port["driverReady"], "console state: port.driverReady"),
    guestOpen: stateFlag(port["guestOpen"], "console state: port.guestOpen"),
    toldOpen: stateFlag(port["toldOpen"], "console state: port.toldOpen"),
    columns: stateInteger(port["columns"], 0xffff, "console state: port.columns"),
    rows: stateInteger(port["rows"], 0xffff, "console state: port.rows"),
    taken: stateInteger(port["taken"], 2 ** 32, "console state: port.taken"),
  };
}
