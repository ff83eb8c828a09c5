/**
 * UTF-8 that loses nothing. Names of files are bytes and need not be UTF-8: a byte that is not part of a well-formed
 * sequence becomes one of U+DC80 to U+DCFF (a lone surrogate, which well-formed UTF-8 cannot hold) and turns into that
 * byte again. So every byte string survives `encodeUtf8(decodeUtf8(bytes))`; a lone surrogate outside that range is
 * encoded as U+FFFD.
 */

const ESCAPE_FIRST = 0xdc80;
const ESCAPE_LAST = 0xdcff;
const ESCAPE = 0xdc00;
const REPLACEMENT = 0xfffd;

/** Code units handed to String.fromCharCode at once: its arguments lie on the stack. */
const BATCH = 1024;

/** Bytes that `text` takes. */
export function utf8Length(text: string): number {
  let length = text.length;
  for (let i = 0; i < text.length; i++) {
    const unit = text.charCodeAt(i);
    if (unit < 0x80) continue;
    if (unit < 0x800) length += 1;
    else if (unit < 0xd800 || unit > 0xdfff) length += 2;
    else if (pairAt(text, i) !== 0) {
      length += 2;
      i++;
    } else if (unit < ESCAPE_FIRST || unit > ESCAPE_LAST) length += 2;
  }
  return length;
}

/** The bytes of `text`. */
export function encodeUtf8(text: string): Uint8Array {
  const bytes = new Uint8Array(utf8Length(text));
  encodeUtf8Into(text, bytes, 0);
  return bytes;
}

/** Writes the bytes of `text` at `offset`; the caller has made room for `utf8Length(text)`. Returns the offset behind. */
export function encodeUtf8Into(text: string, target: Uint8Array, offset: number): number {
  let at = offset;
  for (let i = 0; i < text.length; i++) {
    let point = text.charCodeAt(i);
    if (point < 0x80) {
      target[at++] = point;
      continue;
    }
    if (point >= 0xd800 && point <= 0xdfff) {
      const pair = pairAt(text, i);
      if (pair !== 0) {
        point = pair;
        i++;
      } else if (point >= ESCAPE_FIRST && point <= ESCAPE_LAST) {
        target[at++] = point - ESCAPE;
        continue;
      } else point = REPLACEMENT;
    }
    at = encodePoint(point, target, at);
  }
  return at;
}

/** The text of `bytes[start, end)`. */
export function decodeUtf8(bytes: Uint8Array, start = 0, end: number = bytes.length): string {
  // Names are nearly always short and ASCII.
  if (end - start <= 64) {
    let ascii = "";
    let at = start;
    for (; at < end; at++) {
      const byte = bytes[at] ?? 0;
      if (byte >= 0x80) break;
      ascii += String.fromCharCode(byte);
    }
    if (at >= end) return ascii;
    return ascii + decodeSlow(bytes, at, end);
  }
  return decodeSlow(bytes, start, end);
}

function decodeSlow(bytes: Uint8Array, start: number, end: number): string {
  let text = "";
  const units: number[] = [];
  for (let at = start; at < end;) {
    const first = bytes[at] ?? 0;
    const length = first < 0x80 ? 1 : sequenceLength(bytes, at, end);
    if (length === 0) {
      units.push(ESCAPE + first);
      at++;
    } else {
      const point = length === 1 ? first : decodePoint(bytes, at, length);
      if (point < 0x10000) units.push(point);
      else units.push(0xd800 + ((point - 0x10000) >> 10), 0xdc00 + ((point - 0x10000) & 0x3ff));
      at += length;
    }
    if (units.length >= BATCH) {
      text += String.fromCharCode(...units);
      units.length = 0;
    }
  }
  return text + String.fromCharCode(...units);
}

/** The code point of the surrogate pair at `i`, or 0. */
function pairAt(text: string, i: number): number {
  const high = text.charCodeAt(i);
  if (high > 0xdbff || i + 1 >= text.length) return 0;
  const low = text.charCodeAt(i + 1);
  if (low < 0xdc00 || low > 0xdfff) return 0;
  return 0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00);
}

function encodePoint(point: number, target: Uint8Array, offset: number): number {
  let at = offset;
  if (point < 0x800) target[at++] = 0xc0 | (point >> 6);
  else {
    if (point < 0x10000) target[at++] = 0xe0 | (point >> 12);
    else {
      target[at++] = 0xf0 | (point >> 18);
      target[at++] = 0x80 | ((point >> 12) & 0x3f);
    }
    target[at++] = 0x80 | ((point >> 6) & 0x3f);
  }
  target[at++] = 0x80 | (point & 0x3f);
  return at;
}

/** Bytes of the well-formed sequence (Unicode, table 3-7) that starts at `at` with a byte of 0x80 or more, or 0. */
function sequenceLength(bytes: Uint8Array, at: number, end: number): number {
  const first = bytes[at] ?? 0;
  if (first < 0xc2 || first > 0xf4) return 0;
  const length = first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
  if (at + length > end) return 0;
  const second = bytes[at + 1] ?? 0;
  const low = first === 0xe0 ? 0xa0 : first === 0xf0 ? 0x90 : 0x80;
  const high = first === 0xed ? 0x9f : first === 0xf4 ? 0x8f : 0xbf;
  if (second < low || second > high) return 0;
  for (let i = at + 2; i < at + length; i++) {
    if (((bytes[i] ?? 0) & 0xc0) !== 0x80) return 0;
  }
  return length;
}

function decodePoint(bytes: Uint8Array, at: number, length: number): number {
  let point = (bytes[at] ?? 0) & (0xff >> (length + 1));
  for (let i = at + 1; i < at + length; i++) point = (point << 6) | ((bytes[i] ?? 0) & 0x3f);
  return point;
}
