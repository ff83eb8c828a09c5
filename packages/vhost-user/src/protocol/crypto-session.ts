import { reject } from "./errors.ts";

/**
 * The "crypto session description" of CREATE_CRYPTO_SESSION, which the protocol's text does not describe: it is a structure of QEMU,
 * `VhostUserCryptoSession`, with the padding of a 64-bit C compiler and two pointers that mean nothing to us. QEMU 7.1 to 8.0 have a
 * shorter one, without an operation and with symmetric sessions only.
 */

/** Operations that create sessions, as VIRTIO numbers them ("Control Virtqueue" of the crypto device). */
export const CIPHER_CREATE_SESSION = 0x002;
export const HASH_CREATE_SESSION = 0x102;
export const MAC_CREATE_SESSION = 0x202;
export const AEAD_CREATE_SESSION = 0x302;
export const AKCIPHER_CREATE_SESSION = 0x404;
const SYMMETRIC: readonly number[] = [
  CIPHER_CREATE_SESSION,
  HASH_CREATE_SESSION,
  MAC_CREATE_SESSION,
  AEAD_CREATE_SESSION,
];

/** Numbers as VIRTIO's crypto device has them; lengths in bytes. */
export interface SymmetricSession {
  readonly operation: number;
  readonly cipherAlgorithm: number;
  readonly hashAlgorithm: number;
  readonly hashResultLength: number;
  readonly aadLength: number;
  readonly operationType: number;
  readonly direction: number;
  readonly hashMode: number;
  readonly chainOrder: number;
  /** At most 64 bytes. */
  readonly cipherKey: Uint8Array;
  /** At most 512 bytes. */
  readonly authKey: Uint8Array;
}

export interface AsymmetricSession {
  /** AKCIPHER_CREATE_SESSION. */
  readonly operation: number;
  readonly algorithm: number;
  readonly keyType: number;
  readonly rsaPadding: number;
  readonly rsaHash: number;
  /** At most 1024 bytes. */
  readonly key: Uint8Array;
}

export type CryptoSession = SymmetricSession | AsymmetricSession;

export const isAsymmetric = (session: CryptoSession): session is AsymmetricSession =>
  session.operation === AKCIPHER_CREATE_SESSION;

const LONGEST_CIPHER_KEY = 64;
const LONGEST_AUTH_KEY = 512;
const LONGEST_KEY = 1024;

/** Bytes of the structure, and where its parts are. */
const SIZE = 1072;
const DETAILS = 8;
const SESSION_ID = 1064;
/** Of the shorter one: the session's id comes first. */
const SHORT_SIZE = 632;
const SHORT_ID = 0;

/** From `DETAILS` on, of a symmetric session. */
const CIPHER_KEY = 48;
const AUTH_KEY = CIPHER_KEY + LONGEST_CIPHER_KEY;
/** And of an asymmetric one. */
const KEY = 32;

const dataView = (bytes: Uint8Array): DataView =>
  new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);

/** Throws a PeerError for another size, an unknown operation, and keys that are longer than their place. */
export function decodeCryptoSession(payload: Uint8Array): CryptoSession {
  const view = dataView(payload);
  if (payload.length === SHORT_SIZE) return symmetric(view, CIPHER_CREATE_SESSION);
  if (payload.length !== SIZE) reject(`crypto session of ${payload.length} bytes`);
  const operation = view.getUint32(0, true);
  if (view.getUint32(4, true) === 0 && SYMMETRIC.includes(operation)) return symmetric(view, operation);
  if (view.getUint32(4, true) !== 0 || operation !== AKCIPHER_CREATE_SESSION)
    reject(`crypto session of operation 0x${operation.toString(16)}`);
  const u32 = (at: number): number => view.getUint32(DETAILS + at, true);
  return {
    operation,
    algorithm: u32(0),
    keyType: u32(4),
    rsaPadding: u32(24),
    rsaHash: u32(28),
    key: keyAt(view, KEY, u32(8), LONGEST_KEY),
  };
}

function symmetric(view: DataView, operation: number): SymmetricSession {
  const u32 = (at: number): number => view.getUint32(DETAILS + at, true);
  return {
    operation,
    cipherAlgorithm: u32(0),
    hashAlgorithm: u32(8),
    hashResultLength: u32(12),
    aadLength: u32(20),
    operationType: view.getUint8(DETAILS + 24),
    direction: view.getUint8(DETAILS + 25),
    hashMode: view.getUint8(DETAILS + 26),
    chainOrder: view.getUint8(DETAILS + 27),
    cipherKey: keyAt(view, CIPHER_KEY, u32(4), LONGEST_CIPHER_KEY),
    authKey: keyAt(view, AUTH_KEY, u32(16), LONGEST_AUTH_KEY),
  };
}

function keyAt(view: DataView, at: number, length: number, longest: number): Uint8Array {
  if (length > longest) reject(`crypto session with a key of ${length} bytes, ${longest} are the most`);
  return new Uint8Array(view.buffer, view.byteOffset + DETAILS + at, length).slice();
}

/** Throws a RangeError for keys that have no room. */
export function encodeCryptoSession(session: CryptoSession): Uint8Array {
  const bytes = new Uint8Array(SIZE);
  const view = dataView(bytes);
  const u32 = (at: number, value: number): void => view.setUint32(DETAILS + at, value, true);
  const put = (at: number, key: Uint8Array, longest: number): void => {
    if (key.length > longest) throw new RangeError(`a key of ${key.length} bytes, ${longest} are the most`);
    bytes.set(key, DETAILS + at);
  };
  view.setUint32(0, session.operation, true);
  if (isAsymmetric(session)) {
    const { algorithm, keyType, rsaPadding, rsaHash, key } = session;
    put(KEY, key, LONGEST_KEY);
    [algorithm, keyType, key.length].forEach((value, i) => u32(4 * i, value));
    u32(24, rsaPadding);
    u32(28, rsaHash);
    return bytes;
  }
  const { cipherAlgorithm, cipherKey, hashAlgorithm, hashResultLength, authKey, aadLength } = session;
  put(CIPHER_KEY, cipherKey, LONGEST_CIPHER_KEY);
  put(AUTH_KEY, authKey, LONGEST_AUTH_KEY);
  const words = [
    cipherAlgorithm,
    cipherKey.length,
    hashAlgorithm,
    hashResultLength,
    authKey.length,
    aadLength,
  ];
  words.forEach((value, i) => u32(4 * i, value));
  const { operationType, direction, hashMode, chainOrder } = session;
  bytes.set([operationType, direction, hashMode, chainOrder], DETAILS + 24);
  return bytes;
}

/** The answer to a description: one of the same form, with nothing but the id in it. */
export function encodeSessionId(asked: Uint8Array, id: number): Uint8Array {
  const bytes = new Uint8Array(asked.length);
  const short = asked.length === SHORT_SIZE;
  if (!short) bytes.set(asked.subarray(0, DETAILS));
  dataView(bytes).setBigInt64(short ? SHORT_ID : SESSION_ID, BigInt(id), true);
  return bytes;
}

/** Negative: the session was not created. Throws a PeerError for what is no answer. */
export function decodeSessionId(payload: Uint8Array): number {
  if (payload.length !== SIZE) reject(`answer to a crypto session of ${payload.length} bytes`);
  const id = Number(dataView(payload).getBigInt64(SESSION_ID, true));
  if (!Number.isSafeInteger(id)) reject("crypto session with an id of 2^53 or more");
  return id;
}
