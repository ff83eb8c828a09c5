/**
 * A writer of ACPI Machine Language: the terms that describe a board that does not change. Each function returns the
 * encoding of one term of the ACPI specification's "ACPI Machine Language (AML) Specification".
 */
import { type Bytes, ascii, concat, le } from "./bytes.ts";

/** One encoded term. */
export type Aml = Uint8Array;

const ZERO_OP = 0x00;
const ONE_OP = 0x01;
const NAME_OP = 0x08;
const BYTE_PREFIX = 0x0a;
const WORD_PREFIX = 0x0b;
const DWORD_PREFIX = 0x0c;
const STRING_PREFIX = 0x0d;
const QWORD_PREFIX = 0x0e;
const SCOPE_OP = 0x10;
const BUFFER_OP = 0x11;
const PACKAGE_OP = 0x12;
const DUAL_NAME_PREFIX = 0x2e;
const MULTI_NAME_PREFIX = 0x2f;
const EXT_OP_PREFIX = 0x5b;
const DEVICE_OP = 0x82;

/** A whole number from 0 to 2^53 - 1, in its shortest form. */
export function integer(value: number): Aml {
  if (value === 0) return Uint8Array.of(ZERO_OP);
  if (value === 1) return Uint8Array.of(ONE_OP);
  if (value <= 0xff) return concat([BYTE_PREFIX], le(value, 1));
  if (value <= 0xffff) return concat([WORD_PREFIX], le(value, 2));
  if (value <= 0xffffffff) return concat([DWORD_PREFIX], le(value, 4));
  return concat([QWORD_PREFIX], le(value, 8));
}

/** An ASCII string. */
export function string(text: string): Aml {
  return concat([STRING_PREFIX], ascii(text), [0]);
}

/** A hardware id such as `PNP0A03`, packed as EISA packs it. */
export function eisaId(id: string): Aml {
  const letter = (i: number): number => (id.charCodeAt(i) - 0x40) & 0x1f;
  const vendor = (letter(0) << 10) | (letter(1) << 5) | letter(2);
  const product = Number.parseInt(id.slice(3), 16);
  return concat([DWORD_PREFIX, vendor >> 8, vendor & 0xff, product >> 8, product & 0xff]);
}

export function buffer(bytes: Bytes): Aml {
  return concat([BUFFER_OP], withLength(concat(integer(bytes.length), bytes)));
}

/** At most 255 elements. */
export function packageOf(...elements: readonly Aml[]): Aml {
  return concat([PACKAGE_OP], withLength(concat([elements.length], ...elements)));
}

/** `Name (path, value)` */
export function name(path: string, value: Aml): Aml {
  return concat([NAME_OP], nameString(path), value);
}

/** `Scope (path) { … }` */
export function scope(path: string, ...terms: readonly Aml[]): Aml {
  return concat([SCOPE_OP], withLength(concat(nameString(path), ...terms)));
}

/** `Device (path) { … }` */
export function device(path: string, ...terms: readonly Aml[]): Aml {
  return concat([EXT_OP_PREFIX, DEVICE_OP], withLength(concat(nameString(path), ...terms)));
}

/** `\_SB.PCI0`, `_CRS`: each segment has at most four characters. */
function nameString(path: string): Uint8Array {
  const rooted = path.startsWith("\\");
  const segments = (rooted ? path.slice(1) : path).split(".").map((segment) => ascii(segment, 4, 0x5f));
  const count =
    segments.length === 1
      ? []
      : segments.length === 2
        ? [DUAL_NAME_PREFIX]
        : [MULTI_NAME_PREFIX, segments.length];
  return concat(rooted ? ascii("\\") : [], count, ...segments);
}

/** `PkgLength` and what it counts; it counts itself too. */
function withLength(body: Uint8Array): Uint8Array {
  if (body.length + 1 < 0x40) return concat([body.length + 1], body);
  const following = body.length + 2 < 0x1000 ? 1 : body.length + 3 < 0x10_0000 ? 2 : 3;
  const length = body.length + 1 + following;
  return concat([(following << 6) | (length & 0xf)], le(length >>> 4, 4).slice(0, following), body);
}
