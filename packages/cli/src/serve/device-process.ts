import { fork, type ChildProcess } from "node:child_process";

import { UserError } from "../user-error.ts";
import type { ServedDevice, ServeSession } from "./describe.ts";
import type { DeviceSocket } from "./device-socket.ts";
import type { ServingReport } from "./report.ts";
import type { Serving } from "./serving.ts";

/** What a process of a device is given to do. */
export interface DeviceProcessWork {
  /** Their sockets are descriptors of that process. */
  readonly devices: readonly ServedDevice[];
  readonly session: ServeSession;
  /** When the log was begun, in milliseconds since 1970. */
  readonly begun: number;
}

/** As much of it as is known before there is a process. */
export interface DeviceProcessPlan extends Pick<DeviceProcessWork, "session" | "begun"> {
  readonly sockets: readonly DeviceSocket[];
}

/** The first descriptor behind the standard ones and the channel. */
const FIRST_SOCKET = 4;
/** Milliseconds until a process that died is started again: doubled each time, so that who ends it again and again costs little. */
const FIRST_DELAY = 100;
const LONGEST_DELAY = 10_000;
/** Milliseconds that a process must have lived for the next delay to be the first one again. */
const LONG_LIFE = 60_000;
/** Milliseconds for what is in flight at the end; a process that is stuck then is killed. */
const PATIENCE = 10_000;

/** A process that serves a device (or those of one network hub), and is started again when it dies. */
export class DeviceProcess implements Serving {
  /** It ends no more by itself than `virtio serve` does; rejects with a UserError when it died and cannot be started again. */
  readonly closed: Promise<void>;
  readonly #plan: DeviceProcessPlan;
  readonly #say: (message: string) => void;
  readonly #names: string;
  #settle: (error: Error | undefined) => void = () => undefined;
  #child: ChildProcess | undefined;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #delay = FIRST_DELAY;
  #closing = false;

  private constructor(plan: DeviceProcessPlan, say: (message: string) => void) {
    this.#plan = plan;
    this.#say = say;
    this.#names = plan.sockets.map(({ device }) => device.description.label).join(", ");
    this.closed = new Promise((resolve, reject) => {
      this.#settle = (error) => (error === undefined ? resolve() : reject(error));
    });
    this.closed.catch(() => undefined);
  }

  /** Resolves when its devices are served. Rejects with a UserError when they cannot be. */
  static async start(plan: DeviceProcessPlan, say: (message: string) => void): Promise<DeviceProcess> {
    const started = new DeviceProcess(plan, say);
    await started.#start();
    return started;
  }

  /** What is in flight is done first. */
  async close(): Promise<void> {
    this.#closing = true;
    clearTimeout(this.#timer);
    const child = this.#child;
    if (child === undefined) this.#settle(undefined);
    // One that has just ended hears nothing.
    else child.send("stop", () => undefined);
    const timer = setTimeout(() => {
      this.#say(`${this.#names}: its process does not end, and is killed`);
      child?.kill("SIGKILL");
    }, PATIENCE);
    await this.closed.catch(() => undefined);
    clearTimeout(timer);
  }

  #start(): Promise<void> {
    const { sockets, session, begun } = this.#plan;
    const child = fork(new URL("./device-process-main.js", import.meta.url), {
      // Features are bigints.
      serialization: "advanced",
      stdio: ["inherit", "inherit", "inherit", "ipc", ...sockets.map(({ fd }) => fd)],
    });
    this.#child = child;
    for (const socket of sockets) socket.handedOver();
    const devices = sockets.map(({ device, place }, i) => ({ ...device, place, socket: FIRST_SOCKET + i }));
    child.send({ devices, session, begun } satisfies DeviceProcessWork, () => undefined);
    const since = performance.now();
    return new Promise((resolve, reject) => {
      let ready = false;
      let reason: string | undefined;
      child.on("message", (report: ServingReport) => {
        if (report.kind === "says") return this.#say(report.message);
        if (report.kind === "failed") return void (reason = report.message);
        ready = true;
        resolve();
      });
      child.once("error", (error) => (reason ??= error.message));
      child.once("close", (status, signal) => {
        this.#child = undefined;
        const end = reason ?? howItEnded(status, signal);
        // It cannot be served at all: for who starts it to say.
        if (!ready && !this.#closing) return reject(new UserError(reason ?? `${this.#names}: ${end}`));
        resolve();
        this.#ended(status === 0 && reason === undefined ? undefined : end, performance.now() - since);
      });
    });
  }

  /** @param end undefined: as it should; @param life in milliseconds */
  #ended(end: string | undefined, life: number): void {
    if (this.#closing || end === undefined) return this.#settle(undefined);
    if (!this.#plan.sockets.every(({ listening }) => listening)) {
      const message = `${this.#names}: ${end}; its connection was handed over and is gone`;
      this.#say(message);
      return this.#settle(new UserError(message));
    }
    if (life > LONG_LIFE) this.#delay = FIRST_DELAY;
    this.#say(`${this.#names}: ${end}; it is started again`);
    this.#again();
  }

  #again(): void {
    const delay = this.#delay;
    this.#delay = Math.min(2 * delay, LONGEST_DELAY);
    this.#timer = setTimeout(() => {
      this.#start().catch((error: unknown) => {
        this.#say(`${error instanceof Error ? error.message : String(error)}; it is tried again`);
        if (!this.#closing) this.#again();
        else this.#settle(undefined);
      });
    }, delay);
  }
}

const meanings: Readonly<Partial<Record<NodeJS.Signals, string>>> = {
  SIGBUS: ", as when a front-end takes guest memory away",
  SIGKILL: ", as when somebody kills it or memory runs out",
};

function howItEnded(status: number | null, signal: NodeJS.Signals | null): string {
  if (signal === null) return `its process ended with status ${status ?? "unknown"}`;
  return `its process was ended by ${signal}${meanings[signal] ?? ""}`;
}
