import { FitAddon } from "@xterm/addon-fit";
import { Terminal } from "@xterm/xterm";
import type { CharacterPort } from "virtio/backends/character";
import type { PageConsole } from "./guest.ts";

/** Bytes that may wait for the page to draw them before the guest has to wait. */
const MAX_UNDRAWN = 256 << 10;
/** Key strokes kept while the guest has no buffer for them. */
const MAX_TYPED = 64 << 10;

/** A terminal in the page as the host end of a console port. */
export class PageTerminal implements PageConsole {
  // At a height of one a row ends where an underscore begins.
  readonly #terminal = new Terminal({ fontSize: 14, lineHeight: 1.2, convertEol: false, scrollback: 5000 });
  readonly #fit = new FitAddon();
  readonly #encoder = new TextEncoder();
  #port: CharacterPort | undefined;
  #undrawn = 0;
  #typed = new Uint8Array(0);
  #console = false;

  readonly #onConsole: () => void;

  /** `onConsole`: the guest speaks on its console for the first time. */
  constructor(element: HTMLElement, onConsole: () => void) {
    this.#onConsole = onConsole;
    this.#terminal.loadAddon(this.#fit);
    this.#terminal.open(element);
    this.#terminal.onData((text) => this.#type(this.#encoder.encode(text)));
    this.#terminal.onResize(({ cols, rows }) => this.#port?.resize(cols, rows));
    new ResizeObserver(() => this.#fit.fit()).observe(element);
    this.#terminal.focus();
  }

  /** Everything on the screen and above it, for tests. */
  get text(): string {
    const { active } = this.#terminal.buffer;
    const lines = Array.from(
      { length: active.length },
      (_, row) => active.getLine(row)?.translateToString(true) ?? "",
    );
    return lines.join("\n").trimEnd();
  }

  attach(port: CharacterPort | undefined): void {
    this.#port = port;
    port?.resize(this.#terminal.cols, this.#terminal.rows);
  }

  /** The serial port of the guest speaks. */
  serial(byte: number): void {
    if (!this.#console) this.#terminal.write(Uint8Array.of(byte));
  }

  write(bytes: Uint8Array): number {
    // The kernel begins with what it has said on the serial port.
    if (!this.#console) {
      this.#console = true;
      this.#terminal.reset();
      this.#onConsole();
    }
    const taken = bytes.slice(0, Math.max(0, MAX_UNDRAWN - this.#undrawn));
    if (taken.length === 0) return 0;
    this.#undrawn += taken.length;
    this.#terminal.write(taken, () => {
      const wasFull = this.#undrawn >= MAX_UNDRAWN;
      this.#undrawn -= taken.length;
      if (wasFull) this.#port?.ready();
    });
    return taken.length;
  }

  guestReady(): void {
    const taken = this.#port?.receive(this.#typed) ?? 0;
    this.#typed = this.#typed.slice(taken);
  }

  #type(bytes: Uint8Array): void {
    const all = new Uint8Array(Math.min(MAX_TYPED, this.#typed.length + bytes.length));
    all.set(this.#typed);
    all.set(bytes.subarray(0, all.length - this.#typed.length), this.#typed.length);
    this.#typed = all;
    this.guestReady();
  }
}
