import type { ControlMessage } from "./outbox.ts";

/** What is kept of a port. */
export interface PortState {
  readonly id: number;
  readonly console: boolean;
  readonly announced: boolean;
  readonly driverReady: boolean;
  readonly guestOpen: boolean;
  /** As the driver knows it. */
  readonly hostOpen: boolean;
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
  const root = record(state, "console state");
  if (integer(root["maxPorts"], 0xffff_ffff, "maxPorts") !== maxPorts)
    throw new Error(`console state: saved with another number of ports than ${maxPorts}`);
  const ports = list(root["ports"], maxPorts, "ports").map((port) => parsePort(port, maxPorts));
  if (new Set(ports.map((port) => port.id)).size !== ports.length)
    throw new Error("console state: a port occurs twice");
  const messages = list(root["messages"], maxPorts * MESSAGES_A_PORT, "messages").map((item) => {
    const message = record(item, "message");
    return {
      id: integer(message["id"], maxPorts - 1, "message.id"),
      event: integer(message["event"], 0xffff, "message.event"),
      value: integer(message["value"], 0xffff, "message.value"),
      data: bytes(message["data"], MAX_MESSAGE_DATA, "message.data"),
    };
  });
  return { maxPorts, driverReady: flag(root["driverReady"], "driverReady"), ports, messages };
}

function parsePort(state: unknown, maxPorts: number): PortState {
  const port = record(state, "port");
  return {
    id: integer(port["id"], maxPorts - 1, "port.id"),
    console: flag(port["console"], "port.console"),
    announced: flag(port["announced"], "port.announced"),
    driverReady: flag(port["driverReady"], "port.driverReady"),
    guestOpen: flag(port["guestOpen"], "port.guestOpen"),
    hostOpen: flag(port["hostOpen"], "port.hostOpen"),
    columns: integer(port["columns"], 0xffff, "port.columns"),
    rows: integer(port["rows"], 0xffff, "port.rows"),
    taken: integer(port["taken"], 2 ** 32, "port.taken"),
  };
}

function record(value: unknown, what: string): Readonly<Record<string, unknown>> {
  if (typeof value !== "object" || value === null) throw new Error(`${what}: not an object`);
  return value as Readonly<Record<string, unknown>>;
}

function list(value: unknown, max: number, what: string): readonly unknown[] {
  if (!Array.isArray(value) || value.length > max)
    throw new Error(`console state: ${what}: not a list of at most ${max}`);
  return value as readonly unknown[];
}

function integer(value: unknown, max: number, what: string): number {
  if (typeof value !== "number" || !Number.isInteger(value) || value < 0 || value > max)
    throw new Error(`console state: ${what}: not a whole number of at most ${max}`);
  return value;
}

function flag(value: unknown, what: string): boolean {
  if (typeof value !== "boolean") throw new Error(`console state: ${what}: neither true nor false`);
  return value;
}

function bytes(value: unknown, max: number, what: string): Uint8Array {
  if (!(value instanceof Uint8Array) || value.length > max)
    throw new Error(`console state: ${what}: not bytes, at most ${max}`);
  return value.slice();
}
