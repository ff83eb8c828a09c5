import type { CharacterBackend, CharacterPort } from "virtio/backends/character";

/** What the keys after Ctrl-A ask for. */
export interface TerminalCommands {
  leave(): void;
  save(): void;
  /** Ctrl-C, while there is nobody in the guest yet who could be interrupted. */
  interrupt(): void;
  /** The guest writes something for the first time since input is held: it is about to be shown. */
  firstOutput(): void;
}

const controlA = 0x01;
const controlC = 0x03;
const endOfTransmission = 0x04;
const lineFeed = 0x0a;
/** Bytes that are kept while nobody in the guest reads; what is typed beyond is dropped, what comes from a file waits. */
const maxHeld = 1 << 16;
const outputTail = 64;
const help = `\r
Ctrl-A X       leave\r
Ctrl-A S       save the machine (with --save FILE)\r
Ctrl-A Ctrl-A  send Ctrl-A\r
Ctrl-A ?       this list\r
`;

/**
 * The terminal this process runs in, as the host end of a console. On a terminal it is raw and its size is followed; else
 * bytes pass as they are, and the end of input is sent as Ctrl-D, which ends a shell at the beginning of a line.
 *
 *     take() ----> input is held ----> passOn(), or after holdUntil(ready) the output that it takes ----> input passes
 *
 * Input is held because a guest's terminal throws away what comes before it is opened, and echoes what comes before
 * a shell has set it up, which then echoes it again.
 */
export class TerminalBackend implements CharacterBackend {
  readonly #input: NodeJS.ReadStream;
  readonly #output: NodeJS.WriteStream;
  readonly #commands: TerminalCommands;
  #port: CharacterPort | undefined;
  #unsent: Uint8Array = new Uint8Array(0);
  #escaped = false;
  #full = false;
  #raw = false;
  #taken = false;
  #held = true;
  #awaited: ((end: string) => boolean) | undefined;
  #outputTail = "";
  #wrote = false;
  #lastByte = lineFeed;

  constructor(input: NodeJS.ReadStream, output: NodeJS.WriteStream, commands: TerminalCommands) {
    this.#input = input;
    this.#output = output;
    this.#commands = commands;
    output.on("drain", () => {
      this.#full = false;
      this.#port?.ready();
    });
  }

  /** Takes the terminal and holds what comes. It is given back by `release`, and on any exit of this process. */
  take(): void {
    if (this.#taken) return;
    this.#taken = true;
    const input = this.#input;
    if (input.isTTY) {
      this.#raw = true;
      input.setRawMode(true);
      process.on("exit", this.#release);
    }
    if (this.#output.isTTY) this.#output.on("resize", this.#resize);
    this.#resize();
    input.on("data", this.#onData);
    input.on("end", this.#onEnd);
    input.resume();
  }

  /** What came and what comes goes to the guest. */
  passOn(): void {
    this.#held = false;
    this.#awaited = undefined;
    this.#send();
  }

  /** As `passOn`, but only when `ready` says so of the end of what the guest writes, its last 64 bytes. */
  holdUntil(ready: (end: string) => boolean): void {
    this.#awaited = ready;
  }

  release(): void {
    if (!this.#taken) return;
    this.#taken = false;
    process.off("exit", this.#release);
    this.#output.off("resize", this.#resize);
    this.#input.off("data", this.#onData).off("end", this.#onEnd).pause();
    this.#release();
  }

  attach(port: CharacterPort | undefined): void {
    this.#port = port;
    port?.setOpen(true);
    this.#resize();
  }

  write(bytes: Uint8Array): number {
    if (this.#full) return 0;
    if (!this.#wrote) this.#commands.firstOutput();
    this.#wrote = true;
    this.#full = !this.#output.write(bytes.slice());
    this.#awaitOutput(bytes);
    return bytes.length;
  }

  guestReady(): void {
    this.#send();
  }

  guestOpen(open: boolean): void {
    if (open) this.#send();
  }

  #awaitOutput(bytes: Uint8Array): void {
    if (this.#awaited === undefined) return;
    const end = Buffer.from(bytes.subarray(-outputTail)).toString("latin1");
    this.#outputTail = (this.#outputTail + end).slice(-outputTail);
    if (this.#awaited(this.#outputTail)) this.passOn();
  }

  readonly #release = (): void => {
    if (!this.#raw) return;
    this.#raw = false;
    this.#input.setRawMode(false);
    // The guest may have left colours or a hidden cursor behind.
    if (this.#wrote) this.#output.write("\u001b[0m\u001b[?25h\r\n");
  };

  readonly #resize = (): void => {
    if (this.#output.isTTY) this.#port?.resize(this.#output.columns, this.#output.rows);
  };

  readonly #onData = (bytes: Uint8Array): void => {
    const kept: number[] = [];
    for (const byte of bytes) {
      if (!this.#raw) kept.push(byte);
      else if (this.#escaped) {
        this.#escaped = false;
        if (byte === controlA) kept.push(byte);
        else this.#command(String.fromCharCode(byte).toLowerCase());
      } else if (byte === controlA) this.#escaped = true;
      else if (byte === controlC && this.#held) this.#commands.interrupt();
      else if (!this.#held || this.#unsent.length + kept.length < maxHeld) kept.push(byte);
    }
    this.#lastByte = kept.at(-1) ?? this.#lastByte;
    this.#unsent = Buffer.concat([this.#unsent, Buffer.from(kept)]);
    this.#send();
  };

  readonly #onEnd = (): void => {
    // In the middle of a line Ctrl-D would only hand over what there is of it.
    const end = this.#lastByte === lineFeed ? [endOfTransmission] : [lineFeed, endOfTransmission];
    this.#unsent = Buffer.concat([this.#unsent, Buffer.from(end)]);
    this.#send();
  };

  #command(key: string): void {
    if (key === "x") this.#commands.leave();
    else if (key === "s") this.#commands.save();
    else if (key === "?" || key === "h") this.#output.write(help);
  }

  #send(): void {
    if (this.#held && !this.#raw && this.#unsent.length >= maxHeld) this.#input.pause();
    if (this.#held || this.#unsent.length === 0) return;
    const taken = this.#port?.receive(this.#unsent) ?? 0;
    this.#unsent = this.#unsent.subarray(taken);
    if (this.#unsent.length > 0) this.#input.pause();
    else this.#input.resume();
  }
}
