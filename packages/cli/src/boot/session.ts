import type { EmbeddedMachine } from "@virtio/v86/machine";

import { messageOf, UserError } from "../user-error.ts";
import { GuestAgent } from "./agent.ts";
import type { MachineDescription, SessionDescription } from "./description.ts";
import { SerialTerminal } from "./serial.ts";
import { StartupLine } from "./startup-line.ts";
import { writeStateFile, type Phase } from "./state-file.ts";
import { TerminalBackend } from "./terminal.ts";

/** The streams of this process. */
export interface Streams {
  readonly stdin: NodeJS.ReadStream;
  readonly stdout: NodeJS.WriteStream;
  readonly stderr: NodeJS.WriteStream;
}

/** Why a session ends. */
interface Ending {
  readonly status: number;
  /** The guest still runs: it is saved, or told to write back its disks. */
  readonly alive: boolean;
}

/** Exit status after a signal, as shells say it. */
const signals = new Map<NodeJS.Signals, number>([
  ["SIGHUP", 129],
  ["SIGINT", 130],
  ["SIGTERM", 143],
]);
const interrupted = 130;
const brokenPipe = 141;
const bootFailed = 1;
const notSaved = 1;

/** The end of what a shell writes that is ready to be typed at: PS1 of our guest, and a question for the place of the cursor. */
const prompt = (end: string): boolean => /[#$] $/.test(end.replaceAll("\u001b[6n", ""));
/** A whole system in `--root` has prompts that we do not know. */
const anything = (): boolean => true;

/** What runs a script on its standard input as a user's shell does who has logged in. */
const loginShell = "cd 2>/dev/null; exec sh -l";

/** One use of a machine: a command, or a terminal with a shell, from the start to the exit status. */
export class Session {
  readonly terminal: TerminalBackend;
  /** What is done until the guest speaks. */
  readonly startup: StartupLine;
  readonly #options: SessionDescription;
  readonly #streams: Streams;
  readonly #ending: Promise<Ending>;
  #end: (ending: Ending) => void = () => undefined;
  #agent: GuestAgent | undefined;
  #machine: EmbeddedMachine | undefined;
  #serialTail: SerialTail | undefined;
  #phase: Phase = "idle";
  /** Requests that the disks had when the guest began: while there are no more it has nothing to write back. */
  #disksUntouched: number | undefined;
  #saving: Promise<void> = Promise.resolve();
  /** What was to be saved last is in no file. */
  #unsaved = false;

  constructor(options: SessionDescription, streams: Streams) {
    this.#options = options;
    this.#streams = streams;
    this.#ending = new Promise((resolve) => {
      this.#end = resolve;
    });
    this.startup = new StartupLine(streams.stderr, options.verbose);
    this.terminal = new TerminalBackend(streams.stdin, streams.stdout, {
      leave: () => this.#end({ status: 0, alive: true }),
      save: () => void this.#save(),
      interrupt: () => this.#end({ status: interrupted, alive: true }),
      firstOutput: () => this.startup.end(),
    });
    for (const [signal, status] of signals) process.on(signal, () => this.#end({ status, alive: true }));
    process.on("SIGUSR1", () => void this.#save());
  }

  /** The host end of the guest's agent; its device is to be plugged in. */
  createAgent(): GuestAgent {
    const { stdout, stderr } = this.#streams;
    this.#agent = new GuestAgent(stdout, stderr, {
      error: (message) => this.warn(message),
      outputClosed: () => this.#end({ status: brokenPipe, alive: true }),
    });
    return this.#agent;
  }

  warn(message: string): void {
    this.startup.clear();
    this.#streams.stderr.write(`virtio: ${message}\n`);
  }

  /**
   * Whoever types at a terminal may begin at once: what is typed is kept until the guest reads it. A command has the terminal
   * as any other program has it. `phase` is where a machine was saved that goes on.
   */
  takeKeyboard(phase: Phase | undefined): void {
    const command = this.#options.run !== undefined || phase === "run";
    if (!command && this.#streams.stdin.isTTY) this.terminal.take();
  }

  /** Boot messages, and the end of the guest. To be called before the machine runs. */
  watch(machine: EmbeddedMachine): void {
    this.#machine = machine;
    machine.onStop = () => this.#end({ status: 0, alive: false });
    if (this.#agent === undefined) return;
    const tail = new SerialTail(this.#options.verbose ? this.#streams.stderr : undefined);
    machine.onSerial((byte) => {
      if (tail.push(byte)) this.#end({ status: bootFailed, alive: false });
    });
    this.#serialTail = tail;
  }

  /** The guest has booted. A guest that stops before is an error that shows what it said. */
  async untilReady(agent: GuestAgent): Promise<void> {
    const ended = await Promise.race([agent.ready.then(() => undefined), this.#ending]);
    if (ended === undefined) return;
    if (ended.alive) throw new Interrupted(ended.status);
    throw new UserError(`the guest stopped while it booted:\n${this.#serialTail?.text ?? ""}`);
  }

  /** Runs the session to its end. `phase` is where a restored machine was saved; undefined: it waits for a start. */
  async go(machine: EmbeddedMachine, wanted: MachineDescription, phase: Phase | undefined): Promise<number> {
    if (this.#machine !== machine) this.watch(machine);
    machine.run();
    const agent = this.#agent;
    if (agent === undefined) this.#connectSerial(machine, wanted);
    const started = agent === undefined ? undefined : this.#startAgent(agent, machine, wanted, phase);
    const ending = await Promise.race([this.#ending, Promise.resolve(started).then(() => this.#ending)]);
    await this.#saving;
    if (ending.alive) await this.#leave(agent);
    this.release();
    await machine.destroy();
    return this.#unsaved ? notSaved : ending.status;
  }

  /** Gives the terminal back. */
  release(): void {
    this.startup.end();
    this.terminal.release();
  }

  async #startAgent(
    agent: GuestAgent,
    machine: EmbeddedMachine,
    wanted: MachineDescription,
    phase: Phase | undefined,
  ): Promise<void> {
    const run =
      this.#options.run ?? (phase !== "session" && this.#readsScript(wanted) ? loginShell : undefined);
    const running = phase === "run";
    if (running && this.#options.run !== undefined)
      throw new UserError("--run: the saved machine is in the middle of another command");
    void agent.exit.then((status) => this.#end({ status, alive: true }));
    void agent.off.then(() => this.#end({ status: 0, alive: false }));
    this.startup.step("Starting what is plugged in");
    if (phase === undefined) await agent.start(wanted);
    else await agent.resume(phase);
    this.#disksUntouched = phase === undefined ? diskRequests(machine) : undefined;
    if (running || run !== undefined) this.startup.end();
    if (running) agent.resumeInput(this.#streams.stdin);
    else if (run !== undefined) agent.run(run, this.#streams.stdin);
    else if (phase === "session") this.#openTerminal();
    else {
      this.startup.step("Starting a shell");
      agent.session(process.env["TERM"] ?? "linux");
      this.terminal.take();
      this.terminal.holdUntil(wanted.root === undefined ? prompt : anything);
    }
    this.#phase = running || run !== undefined ? "run" : "session";
    void agent.exit.then(() => (this.#phase = this.#phase === "run" ? "idle" : this.#phase));
  }

  /** The guest reads already. */
  #openTerminal(): void {
    this.startup.end();
    this.terminal.take();
    this.terminal.passOn();
  }

  /**
   * Standard input is no terminal, and would be the console's: it is a script for a shell then, which needs no console. A whole
   * system in `--root` has an init that reads as it likes.
   */
  #readsScript({ devices, root }: MachineDescription): boolean {
    const ports = devices.flatMap((device) => (device.kind === "console" ? device.ports : []));
    const console = ports.some((port) => port.console && port.chardev.kind === "stdio");
    return this.#streams.stdin.isTTY !== true && console && root === undefined;
  }

  /** With an own kernel the first serial port is on the terminal, unless a console is. */
  #connectSerial(machine: EmbeddedMachine, wanted: MachineDescription): void {
    const ports = wanted.devices.flatMap((device) => (device.kind === "console" ? device.ports : []));
    if (!ports.some((port) => port.chardev.kind === "stdio")) new SerialTerminal(machine, this.terminal);
    else if (this.#options.verbose)
      machine.onSerial((byte) => this.#streams.stderr.write(Uint8Array.of(byte)));
    this.startup.step("Waiting for the guest's first word");
    this.terminal.take();
    this.terminal.passOn();
  }

  /** Saves the machine, or has the guest write back its disks: not both, for what is saved must fit the disks. */
  async #leave(agent: GuestAgent | undefined): Promise<void> {
    if (this.#options.save !== undefined) {
      await this.#save();
      if (!this.#unsaved) return;
    }
    if (this.#machine === undefined || diskRequests(this.#machine) !== this.#disksUntouched) {
      await agent?.stop();
    }
  }

  #save(): Promise<void> {
    const { save } = this.#options;
    if (save === undefined) this.warn("to save the machine give --save FILE");
    else {
      this.#saving = this.#saving.then(async () => {
        try {
          const state = await this.#machine?.save();
          if (state !== undefined) writeStateFile(save, this.#phase, state);
          this.#unsaved = false;
        } catch (error) {
          this.#unsaved = true;
          this.warn(messageOf(error));
        }
      });
    }
    return this.#saving;
  }
}

/** How many requests the disks have had. */
function diskRequests(machine: EmbeddedMachine): number {
  const disks = machine.devices.filter(({ instance }) => instance.device.name === "blk");
  const queues = disks.flatMap(({ instance }) => instance.counters);
  return queues.reduce((sum, { chains }) => sum + chains, 0);
}

/** The user ended the session while the guest booted. */
export class Interrupted extends Error {
  readonly status: number;

  constructor(status: number) {
    super("interrupted");
    this.status = status;
  }
}

/** The end of what the guest said on its serial port, kept for when it does not boot. */
class SerialTail {
  readonly #copy: NodeJS.WriteStream | undefined;
  #line = "";
  #lines: string[] = [];

  constructor(copy: NodeJS.WriteStream | undefined) {
    this.#copy = copy;
  }

  /** True: the kernel has given up. */
  push(byte: number): boolean {
    this.#line += String.fromCharCode(byte);
    if (byte !== 10 && this.#line.length < 512) return false;
    this.#copy?.write(this.#line);
    const line = this.#line.trimEnd();
    this.#line = "";
    this.#lines = [...this.#lines.slice(-30), line];
    return line.includes("end Kernel panic");
  }

  get text(): string {
    return this.#lines.join("\n");
  }
}
