import type { CharacterBackend, CharacterPort } from "virtio/backends/character";

/** What the keys after Ctrl-A ask for. */
export interface TerminalCommands {
  leave(): void;
  save(): void;
}

const controlA = 0x01;
const endOfTransmission = 0x04;
const help = `\r
Ctrl-A X       leave\r
Ctrl-A S       save the machine (with --save FILE)\r
Ctrl-A Ctrl-A  send Ctrl-A\r
Ctrl-A ?       this list\r
`;

/**
 * The terminal this process runs in, as the host end of a console. On a terminal it is raw and its size is followed; else
 * bytes pass as they are, and the end of input is sent as Ctrl-D.
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

  constructor(input: NodeJS.ReadStream, output: NodeJS.WriteStream, commands: TerminalCommands) {
    this.#input = input;
    this.#output = output;
    this.#commands = commands;
    output.on("drain", () => {
      this.#full = false;
      this.#port?.ready();
    });
  }

  /** Takes the terminal. It is given back by `release`, and on any exit of this process. */
  take(): void {
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

  release(): void {
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
    this.#full = !this.#output.write(bytes.slice());
    return bytes.length;
  }

  guestReady(): void {
    this.#send();
  }

  guestOpen(open: boolean): void {
    if (open) this.#send();
  }

  readonly #release = (): void => {
    if (!this.#raw) return;
    this.#raw = false;
    this.#input.setRawMode(false);
    // The guest may have left colours or a hidden cursor behind.
    this.#output.write("\u001b[0m\u001b[?25h\r\n");
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
      else kept.push(byte);
    }
    this.#unsent = Buffer.concat([this.#unsent, Buffer.from(kept)]);
    this.#send();
  };

  readonly #onEnd = (): void => {
    this.#unsent = Buffer.concat([this.#unsent, Buffer.of(endOfTransmission)]);
    this.#send();
  };

  #command(key: string): void {
    if (key === "x") this.#commands.leave();
    else if (key === "s") this.#commands.save();
    else if (key === "?" || key === "h") this.#output.write(help);
  }

  #send(): void {
    if (this.#unsent.length === 0) return;
    const taken = this.#port?.receive(this.#unsent) ?? 0;
    this.#unsent = this.#unsent.subarray(taken);
    if (this.#unsent.length > 0) this.#input.pause();
    else this.#input.resume();
  }
}
