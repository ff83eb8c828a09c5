/** What JSON out of an untrusted saved state may be. */
export interface JsonLimits {
  readonly bytes: number;
  /** Arrays and objects in each other. */
  readonly depth: number;
  /** Values in arrays and objects, all together. */
  readonly elements: number;
  /**
   * Steps from one list of field names to the next longer one, all different ones together: `{"a":0,"b":0}` are two. A saved state has
   * few kinds of records, and a JavaScript engine keeps a description of each, which takes it many times as long as the record.
   */
  readonly shapes: number;
}

const QUOTE = 0x22;
const COMMA = 0x2c;
const COLON = 0x3a;
const OPEN_ARRAY = 0x5b;
const BACKSLASH = 0x5c;
const CLOSE_ARRAY = 0x5d;
const OPEN_OBJECT = 0x7b;
const CLOSE_OBJECT = 0x7d;
/** Bytes of the name of a field. */
const LONGEST_NAME = 64;
/** More than there can be shapes, so that a step is one number. */
const STEP = 2 ** 24;

/**
 * Counts what a text of JSON holds before it is parsed, for that takes memory and time by its elements and stack by its depth: 64 MB
 * of `[0,0,0,…` become gigabytes. Bytes may come in pieces. It does not say whether it is JSON at all.
 */
export class JsonGauge {
  readonly #limits: JsonLimits;
  readonly #what: string;
  #bytes = 0;
  #depth = 0;
  #elements = 0;
  #inString = false;
  /** The byte before was a backslash in a string, and takes the next one with it. */
  #escaped = false;
  /** The last string, which is a name when a colon follows. */
  readonly #name = new Uint8Array(LONGEST_NAME);
  #nameLength = 0;
  /** By name: its number. */
  readonly #names = new Map<string, number>();
  /** By `shape * STEP + name`: the number of the shape with that name behind it. 0 has no names. */
  readonly #steps = new Map<number, number>();
  /** By depth: of the object that is there. */
  readonly #shapes: number[] = [0];

  /** @param what starts the sentence of the error, such as `device state` */
  constructor(what: string, limits: JsonLimits) {
    this.#what = what;
    this.#limits = limits;
  }

  /** Throws an Error that names the limit which all bytes so far are beyond. */
  add(bytes: Uint8Array): void {
    const { elements, bytes: longest } = this.#limits;
    this.#bytes += bytes.length;
    if (this.#bytes > longest) this.#refuse(`more than ${longest} bytes`);
    for (let at = 0; at < bytes.length; at++) {
      const byte = bytes[at] ?? 0;
      if (this.#inString) this.#string(byte);
      else if (byte === QUOTE) {
        this.#inString = true;
        this.#nameLength = 0;
      } else if (byte === COMMA) this.#elements++;
      else if (byte === COLON) this.#field();
      else if (byte === OPEN_ARRAY || byte === OPEN_OBJECT) this.#open();
      else if ((byte === CLOSE_ARRAY || byte === CLOSE_OBJECT) && this.#depth > 0) this.#depth--;
    }
    // A piece is no longer than the caller makes it, and its elements are bounded by that.
    if (this.#elements > elements) this.#refuse(`more than ${elements} elements`);
  }

  #string(byte: number): void {
    if (byte === QUOTE && !this.#escaped) {
      this.#inString = false;
      return;
    }
    this.#escaped = byte === BACKSLASH && !this.#escaped;
    // Beyond the array nothing is stored.
    this.#name[this.#nameLength++] = byte;
  }

  #open(): void {
    const { depth } = this.#limits;
    this.#elements++;
    if (++this.#depth > depth) this.#refuse(`nested deeper than ${depth}`);
    this.#shapes[this.#depth] = 0;
  }

  #field(): void {
    const { shapes } = this.#limits;
    if (this.#nameLength > LONGEST_NAME)
      this.#refuse(`the name of a field is longer than ${LONGEST_NAME} bytes`);
    const text = String.fromCharCode(...this.#name.subarray(0, this.#nameLength));
    let name = this.#names.get(text);
    if (name === undefined) this.#names.set(text, (name = this.#names.size));
    const step = (this.#shapes[this.#depth] ?? 0) * STEP + name;
    let next = this.#steps.get(step);
    if (next === undefined) {
      if (this.#steps.size >= shapes) this.#refuse(`more than ${shapes} kinds of records`);
      this.#steps.set(step, (next = this.#steps.size + 1));
    }
    this.#shapes[this.#depth] = next;
  }

  #refuse(why: string): never {
    throw new Error(`${this.#what}: ${why}`);
  }
}

/** The same for a text that is there whole. */
export function checkJsonLimits(what: string, bytes: Uint8Array, limits: JsonLimits): void {
  new JsonGauge(what, limits).add(bytes);
}
