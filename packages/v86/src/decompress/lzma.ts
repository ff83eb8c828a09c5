/** The LZMA decoder: a range coder, the probability models and the state machine of the LZMA specification. */

const STATES = 12;
const POSITION_STATES_MAX = 16;
const LENGTH_MIN = 2;
const LENGTH_LOW = 8;
const LENGTH_MIDDLE = 8;
const LENGTH_HIGH = 256;
const SLOT_BITS = 6;
const LENGTH_STATES = 4;
const FIRST_MODEL_SLOT = 4;
const END_MODEL_SLOT = 14;
const ALIGN_BITS = 4;
const LITERAL_MODELS = 0x300;
const PROBABILITY_BITS = 11;
const PROBABILITY_HALF = 1 << (PROBABILITY_BITS - 1);
const PROBABILITY_SHIFT = 5;
const TOP = 2 ** 24;

// Where each group of models starts in one array.
const IS_MATCH = 0;
const IS_REP = IS_MATCH + STATES * POSITION_STATES_MAX;
const IS_REP0 = IS_REP + STATES;
const IS_REP1 = IS_REP0 + STATES;
const IS_REP2 = IS_REP1 + STATES;
const IS_REP0_LONG = IS_REP2 + STATES;
const SLOT = IS_REP0_LONG + STATES * POSITION_STATES_MAX;
const POSITION = SLOT + LENGTH_STATES * (1 << SLOT_BITS);
const ALIGN = POSITION + (1 << (END_MODEL_SLOT / 2));
const MATCH_LENGTH = ALIGN + (1 << ALIGN_BITS);
/** In a group of length models: choice, choice2, low, middle, high. */
const LENGTH_LOW_AT = 2;
const LENGTH_MIDDLE_AT = LENGTH_LOW_AT + POSITION_STATES_MAX * LENGTH_LOW;
const LENGTH_HIGH_AT = LENGTH_MIDDLE_AT + POSITION_STATES_MAX * LENGTH_MIDDLE;
const LENGTH_MODELS = LENGTH_HIGH_AT + LENGTH_HIGH;
const REP_LENGTH = MATCH_LENGTH + LENGTH_MODELS;
const LITERAL = REP_LENGTH + LENGTH_MODELS;
const MODELS = LITERAL + (LITERAL_MODELS << 4);

/** LZMA as LZMA2 carries it: in chunks, with everything decoded so far as the dictionary. */
export class LzmaDecoder {
  readonly #models = new Uint16Array(MODELS);
  readonly #out: Uint8Array;
  /** Bytes decoded. */
  #at = 0;
  #input: Uint8Array = new Uint8Array(0);
  #next = 0;
  #range = 0;
  #code = 0;
  #state = 0;
  #rep0 = 0;
  #rep1 = 0;
  #rep2 = 0;
  #rep3 = 0;
  #literalContextBits = 0;
  #literalPositionMask = 0;
  #positionMask = 0;

  /** `out` takes everything; it is also the dictionary. */
  constructor(out: Uint8Array) {
    this.#out = out;
  }

  get length(): number {
    return this.#at;
  }

  /** Throws an Error on properties that LZMA2 does not allow. */
  setProperties(byte: number): void {
    const literalContextBits = byte % 9;
    const rest = Math.floor(byte / 9);
    const literalPositionBits = rest % 5;
    const positionBits = Math.floor(rest / 5);
    if (positionBits > 4 || literalContextBits + literalPositionBits > 4) throw damaged();
    this.#literalContextBits = literalContextBits;
    this.#literalPositionMask = (1 << literalPositionBits) - 1;
    this.#positionMask = (1 << positionBits) - 1;
  }

  resetState(): void {
    this.#models.fill(PROBABILITY_HALF);
    this.#state = this.#rep0 = this.#rep1 = this.#rep2 = this.#rep3 = 0;
  }

  /** Bytes that were not compressed. */
  copy(bytes: Uint8Array): void {
    if (bytes.length > this.#out.length - this.#at) throw damaged();
    this.#out.set(bytes, this.#at);
    this.#at += bytes.length;
  }

  /** Decodes one chunk of `length` bytes. Throws an Error when it is damaged. */
  decode(input: Uint8Array, length: number): void {
    const end = this.#at + length;
    if (end > this.#out.length || input.length < 5 || input[0] !== 0) throw damaged();
    this.#input = input;
    this.#range = 0xffffffff;
    this.#code = new DataView(input.buffer, input.byteOffset).getUint32(1);
    this.#next = 5;
    while (this.#at < end) {
      const positionState = this.#at & this.#positionMask;
      if (this.#bit(IS_MATCH + this.#state * POSITION_STATES_MAX + positionState) === 0) this.#literal();
      else this.#copyMatch(this.#match(positionState), end);
    }
    // The encoder's flush; reading it here keeps the check below exact.
    if (this.#range < TOP) this.#normalize();
    if (this.#next > input.length) throw damaged();
  }

  #literal(): void {
    const previous = this.#at > 0 ? (this.#out[this.#at - 1] ?? 0) : 0;
    const position = (this.#at & this.#literalPositionMask) << this.#literalContextBits;
    const models = LITERAL + LITERAL_MODELS * (position + (previous >> (8 - this.#literalContextBits)));
    let symbol = 1;
    if (this.#state >= 7) {
      let matched = this.#out[this.#at - this.#rep0 - 1] ?? 0;
      while (symbol < 0x100) {
        const matchBit = (matched >> 7) & 1;
        matched <<= 1;
        const bit = this.#bit(models + ((1 + matchBit) << 8) + symbol);
        symbol = (symbol << 1) | bit;
        if (matchBit !== bit) break;
      }
    }
    while (symbol < 0x100) symbol = (symbol << 1) | this.#bit(models + symbol);
    this.#out[this.#at++] = symbol;
    this.#state = this.#state < 4 ? 0 : this.#state < 10 ? this.#state - 3 : this.#state - 6;
  }

  /** Decodes the distance into `rep0` and returns the length. */
  #match(positionState: number): number {
    const state = this.#state;
    if (this.#bit(IS_REP + state) === 0) {
      this.#rep3 = this.#rep2;
      this.#rep2 = this.#rep1;
      this.#rep1 = this.#rep0;
      const length = this.#length(MATCH_LENGTH, positionState);
      this.#rep0 = this.#distance(Math.min(length - LENGTH_MIN, LENGTH_STATES - 1));
      this.#state = state < 7 ? 7 : 10;
      return length;
    }
    if (this.#bit(IS_REP0 + state) === 0) {
      if (this.#bit(IS_REP0_LONG + state * POSITION_STATES_MAX + positionState) === 0) {
        this.#state = state < 7 ? 9 : 11;
        return 1;
      }
    } else {
      this.#rotate(state);
    }
    this.#state = state < 7 ? 8 : 11;
    return this.#length(REP_LENGTH, positionState);
  }

  /** One of the older distances becomes the latest. */
  #rotate(state: number): void {
    let distance = this.#rep1;
    if (this.#bit(IS_REP1 + state) !== 0) {
      if (this.#bit(IS_REP2 + state) === 0) {
        distance = this.#rep2;
      } else {
        distance = this.#rep3;
        this.#rep3 = this.#rep2;
      }
      this.#rep2 = this.#rep1;
    }
    this.#rep1 = this.#rep0;
    this.#rep0 = distance;
  }

  #copyMatch(length: number, end: number): void {
    const out = this.#out;
    let from = this.#at - this.#rep0 - 1;
    if (from < 0 || length > end - this.#at) throw damaged();
    for (let i = 0; i < length; i++) out[this.#at++] = out[from++] ?? 0;
  }

  #length(models: number, positionState: number): number {
    if (this.#bit(models) === 0)
      return LENGTH_MIN + this.#tree(models + LENGTH_LOW_AT + positionState * LENGTH_LOW, 3);
    if (this.#bit(models + 1) === 0)
      return (
        LENGTH_MIN + LENGTH_LOW + this.#tree(models + LENGTH_MIDDLE_AT + positionState * LENGTH_MIDDLE, 3)
      );
    return LENGTH_MIN + LENGTH_LOW + LENGTH_MIDDLE + this.#tree(models + LENGTH_HIGH_AT, 8);
  }

  #distance(lengthState: number): number {
    const slot = this.#tree(SLOT + (lengthState << SLOT_BITS), SLOT_BITS);
    if (slot < FIRST_MODEL_SLOT) return slot;
    const bits = (slot >> 1) - 1;
    const base = (2 | (slot & 1)) * 2 ** bits;
    if (slot < END_MODEL_SLOT) return base + this.#reverseTree(POSITION + base - slot, bits);
    const direct = this.#direct(bits - ALIGN_BITS) * 2 ** ALIGN_BITS;
    return base + direct + this.#reverseTree(ALIGN, ALIGN_BITS);
  }

  #tree(models: number, bits: number): number {
    let symbol = 1;
    for (let i = 0; i < bits; i++) symbol = (symbol << 1) | this.#bit(models + symbol);
    return symbol - (1 << bits);
  }

  #reverseTree(models: number, bits: number): number {
    let symbol = 1;
    let value = 0;
    for (let i = 0; i < bits; i++) {
      const bit = this.#bit(models + symbol);
      symbol = (symbol << 1) | bit;
      value |= bit << i;
    }
    return value;
  }

  #direct(bits: number): number {
    let value = 0;
    for (let i = 0; i < bits; i++) {
      if (this.#range < TOP) this.#normalize();
      this.#range >>>= 1;
      const bit = this.#code >= this.#range ? 1 : 0;
      if (bit === 1) this.#code -= this.#range;
      value = value * 2 + bit;
    }
    return value;
  }

  #bit(model: number): number {
    if (this.#range < TOP) this.#normalize();
    const probability = this.#models[model] ?? 0;
    const bound = (this.#range >>> PROBABILITY_BITS) * probability;
    if (this.#code < bound) {
      this.#range = bound;
      this.#models[model] = probability + (((1 << PROBABILITY_BITS) - probability) >> PROBABILITY_SHIFT);
      return 0;
    }
    this.#range -= bound;
    this.#code -= bound;
    this.#models[model] = probability - (probability >> PROBABILITY_SHIFT);
    return 1;
  }

  #normalize(): void {
    this.#range = (this.#range << 8) >>> 0;
    this.#code = ((this.#code << 8) | (this.#input[this.#next++] ?? 0)) >>> 0;
  }
}

export function damaged(): Error {
  return new Error("the compressed data is damaged");
}
