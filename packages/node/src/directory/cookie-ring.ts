import type { DirectoryMemory } from "./directory-memory.ts";

/** Entries that one open directory remembers the places of, at most. */
export const REMEMBERED: number = 1 << 16;
const REMEMBERED_FIRST = 256;
/** Two halves of 32 bits. */
const COOKIE_BYTES = 8;

/** A place in a directory as the kernel names it, and our cursor for it. */
export interface DirectoryPlace {
  /** Entries before it. */
  readonly cursor: number;
  /** Halves of the kernel's 64 bits. */
  readonly low: number;
  readonly high: number;
}

export const START: DirectoryPlace = { cursor: 0, low: 0, high: 0 };

/** The kernel's cookies for the newest cursors of one open directory, as many as there is room for. */
export class CookieRing {
  readonly #memory: DirectoryMemory;
  /** For each cursor from `#oldest` to `newest` its cookie, low and high half; the size is a power of two. */
  #cookies: Uint32Array = new Uint32Array(0);
  #oldest = 1;
  newest = 0;

  constructor(memory: DirectoryMemory) {
    this.#memory = memory;
  }

  find(cursor: number): DirectoryPlace | undefined {
    if (!(cursor >= this.#oldest && cursor <= this.newest)) return undefined;
    const slot = this.#slot(cursor);
    return { cursor, low: this.#cookies[slot] ?? 0, high: this.#cookies[slot + 1] ?? 0 };
  }

  /** The next cursor that is remembered is the one behind `cursor`. */
  begin(cursor: number): void {
    // Reading once more from the start: what is known stays good as long as the directory does not change.
    if (cursor === this.#oldest - 1) return;
    this.#oldest = cursor + 1;
    this.newest = cursor;
  }

  remember(cursor: number, low: number, high: number): void {
    const slot = this.#slot(cursor);
    if (cursor <= this.newest && this.#cookies[slot] === low && this.#cookies[slot + 1] === high) return;
    this.newest = cursor;
    const room = this.#cookies.length / 2;
    if (cursor - this.#oldest >= room && !this.#grow(room)) this.#oldest = cursor - room + 1;
    if (this.#cookies.length === 0) return;
    const place = this.#slot(cursor);
    this.#cookies[place] = low;
    this.#cookies[place + 1] = high;
  }

  close(): void {
    this.#memory.takeCookies(-(COOKIE_BYTES / 2) * this.#cookies.length);
    this.#cookies = new Uint32Array(0);
    this.#oldest = this.newest + 1;
  }

  #grow(before: number): boolean {
    const room = before === 0 ? REMEMBERED_FIRST : 2 * before;
    if (room > REMEMBERED || !this.#memory.takeCookies(COOKIE_BYTES * (room - before))) return false;
    const old = this.#cookies;
    const mask = before - 1;
    this.#cookies = new Uint32Array(2 * room);
    for (let cursor = this.#oldest; cursor < this.newest; cursor++) {
      const slot = this.#slot(cursor);
      this.#cookies[slot] = old[2 * (cursor & mask)] ?? 0;
      this.#cookies[slot + 1] = old[2 * (cursor & mask) + 1] ?? 0;
    }
    return true;
  }

  #slot(cursor: number): number {
    return 2 * (cursor & (this.#cookies.length / 2 - 1));
  }
}
