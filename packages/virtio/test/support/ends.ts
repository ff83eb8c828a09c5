import type { CharacterBackend, CharacterPort } from "../../src/backends/character.ts";
import type { NetBackend, NetPort } from "../../src/backends/net.ts";

/** A host end of a console port that keeps what it gets and takes only as much as `room` says. */
export class FakeHost implements CharacterBackend {
  readonly open: boolean;
  port: CharacterPort | undefined;
  /** Bytes that will still be taken. */
  room = Infinity;
  readonly opens: boolean[] = [];
  writes = 0;
  readyCalls = 0;
  onReady: (() => void) | undefined;
  #chunks: Uint8Array[] = [];

  constructor(open = true) {
    this.open = open;
  }

  get received(): Uint8Array {
    const all = concat(this.#chunks);
    this.#chunks = [all];
    return all;
  }

  get text(): string {
    return String.fromCharCode(...this.received);
  }

  write(bytes: Uint8Array): number {
    this.writes++;
    const taken = Math.min(bytes.length, this.room);
    this.room -= taken;
    if (taken > 0) this.#chunks.push(bytes.slice(0, taken));
    return taken;
  }

  attach(port: CharacterPort | undefined): void {
    this.port = port;
  }

  guestOpen(open: boolean): void {
    this.opens.push(open);
  }

  guestReady(): void {
    this.readyCalls++;
    this.onReady?.();
  }
}

/** The other end of a network cable: keeps what it gets. */
export class FakeCable implements NetBackend {
  port: NetPort | undefined;
  linkUp = true;
  accept = true;
  readonly frames: Uint8Array[] = [];
  readyCalls = 0;
  onReady: (() => void) | undefined;

  send(frame: Uint8Array): boolean {
    if (!this.accept) return false;
    this.frames.push(frame.slice());
    return true;
  }

  attach(port: NetPort | undefined): void {
    this.port = port;
  }

  ready(): void {
    this.readyCalls++;
    this.onReady?.();
  }
}

export function concat(chunks: readonly Uint8Array[]): Uint8Array {
  const all = new Uint8Array(chunks.reduce((sum, chunk) => sum + chunk.length, 0));
  let at = 0;
  for (const chunk of chunks) {
    all.set(chunk, at);
    at += chunk.length;
  }
  return all;
}

export function ascii(text: string): Uint8Array {
  return Uint8Array.from(text, (letter) => letter.charCodeAt(0));
}

/** Bytes that differ from place to place, for telling whether any were lost. */
export function pattern(length: number, seed = 1): Uint8Array {
  const bytes = new Uint8Array(length);
  let state = seed >>> 0;
  for (let i = 0; i < length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    bytes[i] = state >>> 24;
  }
  return bytes;
}

/** Where two long byte strings differ first, or -1: `toEqual` takes minutes for megabytes. */
export function firstDifference(a: Uint8Array, b: Uint8Array): number {
  const length = Math.min(a.length, b.length);
  for (let i = 0; i < length; i++) if (a[i] !== b[i]) return i;
  return a.length === b.length ? -1 : length;
}
