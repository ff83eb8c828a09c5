import { until } from "@virtio/testkit/until";
import fc from "fast-check";
import { afterEach, expect, test } from "vitest";
import { featureBits, hasFeature } from "virtio/spec/core";
import { VIRTIO_ID_CRYPTO } from "virtio/spec/ids";
import type { CryptoSessionKeeper } from "@virtio/vhost-user/backend/crypto-sessions";
import { VhostUserTransport } from "@virtio/vhost-user/frontend/transport";
import { openDescriptors } from "@virtio/vhost-user/native/descriptor";
import {
  AEAD_CREATE_SESSION,
  AKCIPHER_CREATE_SESSION,
  CIPHER_CREATE_SESSION,
  HASH_CREATE_SESSION,
  MAC_CREATE_SESSION,
  decodeCryptoSession,
  decodeSessionId,
  encodeCryptoSession,
  encodeSessionId,
  type CryptoSession,
} from "@virtio/vhost-user/protocol/crypto-session";
import { PeerError } from "@virtio/vhost-user/protocol/errors";
import * as vu from "@virtio/vhost-user/protocol/numbers";
import { encodeU64 } from "@virtio/vhost-user/protocol/payloads";
import { EchoDevice } from "./echo-device.ts";
import { VERSION_1, serve, turn } from "./peer.ts";
import { setUp } from "./set-up.ts";

afterEach(() => expect(openDescriptors()).toBe(0));

/** Keeps sessions, and does nothing with them. */
class SessionDevice extends EchoDevice implements CryptoSessionKeeper {
  readonly sessions = new Map<number, CryptoSession>();
  /** Ids that are given next; then they are counted. */
  refusal: number | undefined;
  #next = 0;

  async createCryptoSession(session: CryptoSession): Promise<number> {
    await turn();
    if (this.refusal !== undefined) return this.refusal;
    this.sessions.set(this.#next, session);
    return this.#next++;
  }

  closeCryptoSession(id: number): void {
    if (!this.sessions.delete(id)) throw new Error(`${id} is no session`);
  }
}

const u32 = fc.integer({ min: 0, max: 0xffff_ffff });
const u8 = fc.integer({ min: 0, max: 255 });
const symmetric = fc.record({
  operation: fc.constantFrom(
    CIPHER_CREATE_SESSION,
    HASH_CREATE_SESSION,
    MAC_CREATE_SESSION,
    AEAD_CREATE_SESSION,
  ),
  cipherAlgorithm: u32,
  hashAlgorithm: u32,
  hashResultLength: u32,
  aadLength: u32,
  operationType: u8,
  direction: u8,
  hashMode: u8,
  chainOrder: u8,
  cipherKey: fc.uint8Array({ maxLength: 64 }),
  authKey: fc.uint8Array({ maxLength: 512 }),
});
const asymmetric = fc.record({
  operation: fc.constant(AKCIPHER_CREATE_SESSION),
  algorithm: u32,
  keyType: u32,
  rsaPadding: u32,
  rsaHash: u32,
  key: fc.uint8Array({ maxLength: 1024 }),
});
const aes: CryptoSession = {
  operation: CIPHER_CREATE_SESSION,
  cipherAlgorithm: 3,
  hashAlgorithm: 0,
  hashResultLength: 0,
  aadLength: 0,
  operationType: 1,
  direction: 1,
  hashMode: 0,
  chainOrder: 0,
  cipherKey: Uint8Array.from({ length: 32 }, (_, i) => i),
  authKey: new Uint8Array(),
};

test("a session is decoded as it was encoded, garbage is refused, and fields are where QEMU's structure has them", () => {
  fc.assert(
    fc.property(fc.oneof(symmetric, asymmetric), (session) => {
      expect(decodeCryptoSession(encodeCryptoSession(session))).toEqual(session);
    }),
  );
  fc.assert(
    fc.property(fc.constantFrom(0, 631, 632, 633, 1072), fc.infiniteStream(u8), (size, random) => {
      const bytes = Uint8Array.from({ length: size }, () => random.next().value as number);
      try {
        decodeCryptoSession(bytes);
      } catch (error) {
        expect(error).toBeInstanceOf(PeerError);
      }
    }),
  );
  // offsetof() of a C compiler on x86-64, of QEMU's structure since 8.1.
  const view = new DataView(encodeCryptoSession({ ...aes, authKey: new Uint8Array([9]) }).buffer);
  expect([view.byteLength, view.getUint32(0, true), view.getUint32(8, true)]).toEqual([1072, 2, 3]);
  expect([view.getUint32(12, true), view.getUint32(24, true)]).toEqual([32, 1]);
  expect([view.getUint8(32), view.getUint8(57), view.getUint8(120)]).toEqual([1, 1, 9]);
  const rsa = encodeCryptoSession({
    operation: AKCIPHER_CREATE_SESSION,
    algorithm: 1,
    keyType: 2,
    rsaPadding: 3,
    rsaHash: 4,
    key: new Uint8Array([5]),
  });
  const words = new Uint32Array(rsa.buffer);
  expect([...words.subarray(0, 11)]).toEqual([0x404, 0, 1, 2, 1, 0, 0, 0, 3, 4, 5]);
});

test("the shorter form of QEMU 7.1 to 8.0: a cipher's session, and its id comes first", () => {
  const short = new Uint8Array(632);
  short.set(encodeCryptoSession(aes).subarray(8, 632), 8);
  expect(decodeCryptoSession(short)).toEqual(aes);
  const reply = encodeSessionId(short, 77);
  expect(reply.length).toBe(632);
  expect(new DataView(reply.buffer).getBigInt64(0, true)).toBe(77n);
  expect(decodeSessionId(encodeSessionId(encodeCryptoSession(aes), -4))).toBe(-4);
  // Keys do not travel back.
  expect(
    encodeSessionId(encodeCryptoSession(aes), 1)
      .subarray(8, 1064)
      .some((byte) => byte !== 0),
  ).toBe(false);
});

test.each<{ what: string; change: (view: DataView) => void }>([
  { what: "a cipher key of 65 bytes", change: (view) => view.setUint32(12, 65, true) },
  { what: "an authentication key of 513 bytes", change: (view) => view.setUint32(24, 513, true) },
  {
    what: "an authentication key of 2^32 - 1 bytes",
    change: (view) => view.setUint32(24, 0xffff_ffff, true),
  },
  { what: "an unknown operation", change: (view) => view.setUint32(0, 3, true) },
  { what: "an operation of 64 bits", change: (view) => view.setUint32(4, 1, true) },
  {
    what: "an asymmetric key of 1025 bytes",
    change: (view) => {
      view.setUint32(0, AKCIPHER_CREATE_SESSION, true);
      view.setUint32(16, 1025, true);
    },
  },
])("a session with $what is refused", ({ change }) => {
  const bytes = encodeCryptoSession(aes);
  change(new DataView(bytes.buffer));
  expect(() => decodeCryptoSession(bytes)).toThrow(PeerError);
});

test("CRYPTO_SESSION is offered for a device that keeps sessions, and only for it", async () => {
  for (const [device, offered] of [
    [new SessionDevice(), true],
    [new EchoDevice(), false],
  ] as const) {
    const { peer, end } = await setUp(VERSION_1, device);
    expect(hasFeature(await peer.u64(vu.GET_PROTOCOL_FEATURES), vu.PROTOCOL_F_CRYPTO_SESSION)).toBe(offered);
    await end();
  }
});

test.each([
  { what: "of a wrong size", request: vu.CREATE_CRYPTO_SESSION, body: new Uint8Array(633), without: 0n },
  { what: "that is none", request: vu.CREATE_CRYPTO_SESSION, body: new Uint8Array(), without: 0n },
  {
    what: "that is closed without an id",
    request: vu.CLOSE_CRYPTO_SESSION,
    body: new Uint8Array(4),
    without: 0n,
  },
  {
    what: "that was not negotiated",
    request: vu.CREATE_CRYPTO_SESSION,
    body: encodeCryptoSession(aes),
    without: featureBits(vu.PROTOCOL_F_CRYPTO_SESSION),
  },
])(
  "a session $what ends the connection, and the device hears nothing",
  async ({ request, body, without }) => {
    const device = new SessionDevice();
    const { peer, errors, end } = await setUp(VERSION_1, device, without);
    peer.channel.send(request, body);
    await until(() => errors.length === 1);
    expect(device.sessions.size).toBe(0);
    await end();
  },
);

test("sessions are created and closed; a device may refuse; what a dead front-end leaves is closed", async () => {
  const device = new SessionDevice();
  const { peer, errors, end } = await setUp(VERSION_1, device);
  const create = async (): Promise<number> =>
    decodeSessionId((await peer.ask(vu.CREATE_CRYPTO_SESSION, encodeCryptoSession(aes))).payload);
  expect([await create(), await create(), await create()]).toEqual([0, 1, 2]);
  expect(device.sessions.get(1)).toEqual(aes);
  await peer.must(vu.CLOSE_CRYPTO_SESSION, encodeU64(1));
  // A guest's mistake, of which the device hears nothing.
  for (const id of [1, 99, 2n ** 64n - 1n]) await peer.must(vu.CLOSE_CRYPTO_SESSION, encodeU64(id));
  expect([...device.sessions.keys()]).toEqual([0, 2]);
  device.refusal = -3;
  expect(await create()).toBe(-3);
  expect(errors).toEqual([]);
  peer.channel.send(vu.CREATE_CRYPTO_SESSION, encodeCryptoSession(aes));
  peer.disconnect();
  await end();
  expect(device.sessions.size).toBe(0);
});

test("a front-end that creates sessions without end gets so many and no more", async () => {
  const device = new SessionDevice();
  const { peer, end } = await setUp(VERSION_1, device);
  let last = 0;
  for (let i = 0; i < 4097; i++)
    last = decodeSessionId((await peer.ask(vu.CREATE_CRYPTO_SESSION, encodeCryptoSession(aes))).payload);
  expect(last).toBe(-1);
  expect(device.sessions.size).toBe(4096);
  await peer.must(vu.CLOSE_CRYPTO_SESSION, encodeU64(17));
  const again = await peer.ask(vu.CREATE_CRYPTO_SESSION, encodeCryptoSession(aes));
  expect(decodeSessionId(again.payload)).toBe(4096);
  await end();
});

test("our front-end on our back-end: symmetric and asymmetric sessions, refusals, and a back-end without", async () => {
  const device = new SessionDevice();
  const { server, socket } = await serve(device);
  const transport = await VhostUserTransport.open({
    socket: socket.descriptor.release(),
    deviceId: VIRTIO_ID_CRYPTO,
    configLength: 8,
  });
  const rsa: CryptoSession = {
    operation: AKCIPHER_CREATE_SESSION,
    algorithm: 1,
    keyType: 1,
    rsaPadding: 1,
    rsaHash: 3,
    key: new Uint8Array(1024).fill(7),
  };
  const [first, second] = [
    await transport.createCryptoSession(aes),
    await transport.createCryptoSession(rsa),
  ];
  expect(device.sessions.get(first)).toEqual(aes);
  expect(device.sessions.get(second)).toEqual(rsa);
  device.refusal = -4;
  await expect(transport.createCryptoSession(aes)).rejects.toThrow("the device says -4");
  await expect(transport.createCryptoSession({ ...aes, cipherKey: new Uint8Array(65) })).rejects.toThrow(
    RangeError,
  );
  transport.closeCryptoSession(first);
  await transport.settled();
  expect([...device.sessions.keys()]).toEqual([second]);
  expect(transport.failure).toBeUndefined();
  transport.close();
  await expect(transport.createCryptoSession(aes)).rejects.toThrow("gone");
  await server.closed;
  expect(device.sessions.size).toBe(0);
  const plain = await serve(new EchoDevice());
  const without = await VhostUserTransport.open({
    socket: plain.socket.descriptor.release(),
    deviceId: VIRTIO_ID_CRYPTO,
    configLength: 8,
  });
  await expect(without.createCryptoSession(aes)).rejects.toThrow("keeps no crypto sessions");
  without.close();
  await plain.server.closed;
});
