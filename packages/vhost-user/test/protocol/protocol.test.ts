import fc from "fast-check";
import { expect, test } from "vitest";
import { PeerError } from "@virtio/vhost-user/protocol/errors";
import { decodeHeader, encodeMessage } from "@virtio/vhost-user/protocol/message";
import * as vu from "@virtio/vhost-user/protocol/numbers";
import * as payload from "@virtio/vhost-user/protocol/payloads";
import { requestRule } from "@virtio/vhost-user/protocol/requests";

const u32 = fc.integer({ min: 0, max: 0xffff_ffff });
const u16 = fc.integer({ min: 0, max: 0xffff });
const u53 = fc.integer({ min: 0, max: Number.MAX_SAFE_INTEGER });
const half = fc.integer({ min: 0, max: 2 ** 52 });
const region = fc.record({
  guestAddress: half,
  // One byte less than 2^52, so that no sum reaches 2^53.
  size: fc.integer({ min: 1, max: 2 ** 52 - 1 }),
  userAddress: half,
  mmapOffset: half,
});

/** What is encoded is decoded again; anything else is a PeerError or a value, never another error. */
function check<T>(
  values: fc.Arbitrary<T>,
  encode: (value: T) => Uint8Array,
  decode: (bytes: Uint8Array) => unknown,
): void {
  fc.assert(
    fc.property(values, (value) => {
      expect(decode(encode(value))).toEqual(value);
    }),
  );
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 320 }), (bytes) => {
      try {
        decode(bytes);
      } catch (error) {
        expect(error).toBeInstanceOf(PeerError);
      }
    }),
  );
}

test("every payload is decoded as it was encoded, and garbage is refused", () => {
  check(fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }), payload.encodeU64, payload.decodeU64);
  check(fc.record({ index: u32, value: u32 }), payload.encodeVringState, payload.decodeVringState);
  check(
    fc.record({ index: u32, flags: u32, descriptor: u53, used: u53, available: u53, log: u53 }),
    payload.encodeVringAddress,
    payload.decodeVringAddress,
  );
  check(fc.array(region, { maxLength: 8 }), payload.encodeMemoryTable, payload.decodeMemoryTable);
  check(region, payload.encodeRegion, payload.decodeRegion);
  check(fc.record({ size: u53, offset: u53 }), payload.encodeLog, payload.decodeLog);
  const byte = fc.integer({ min: 0, max: 255 });
  check(
    fc.record({ iova: u53, size: u53, userAddress: u53, permissions: byte, type: byte }),
    payload.encodeIotlb,
    payload.decodeIotlb,
  );
  check(
    fc.record({ offset: u32, flags: u32, bytes: fc.uint8Array({ maxLength: 256 }) }),
    payload.encodeConfig,
    payload.decodeConfig,
  );
  check(
    fc.record({ size: u53, offset: u53, queues: u16, queueSize: u16 }),
    payload.encodeInflight,
    payload.decodeInflight,
  );
  check(fc.record({ direction: u32, phase: u32 }), payload.encodeDeviceState, payload.decodeDeviceState);
});

test("a header says what was sent; another version, or more than a message may have, is refused", () => {
  fc.assert(
    fc.property(
      u32,
      fc.uint8Array({ maxLength: 64 }),
      fc.boolean(),
      fc.boolean(),
      (request, body, reply, needReply) => {
        const bytes = encodeMessage(request, body, { reply, needReply });
        expect(decodeHeader(bytes)).toEqual({ request, reply, needReply, size: body.length });
        expect(bytes.length).toBe(vu.HEADER_SIZE + body.length);
      },
    ),
  );
  const header = encodeMessage(1, new Uint8Array());
  header[4] = 2;
  expect(() => decodeHeader(header)).toThrow("protocol version 2");
  const long = encodeMessage(1, new Uint8Array());
  long[10] = 1;
  expect(() => decodeHeader(long)).toThrow(PeerError);
});

test("a region that is empty, or ends beyond 2^53, is none", () => {
  const at = (extra: Partial<payload.RegionDescription>): Uint8Array =>
    payload.encodeRegion({ guestAddress: 0, size: 4096, userAddress: 0, mmapOffset: 0, ...extra });
  expect(() => payload.decodeRegion(at({ size: 0 }))).toThrow("no bytes");
  for (const key of ["guestAddress", "userAddress", "mmapOffset"] as const)
    expect(() => payload.decodeRegion(at({ [key]: Number.MAX_SAFE_INTEGER }))).toThrow("beyond");
});

test("every request of the protocol is known by its name", () => {
  const names = Array.from({ length: vu.CHECK_DEVICE_STATE }, (_, i) => requestRule(i + 1)?.name);
  const numbers: Readonly<Record<string, unknown>> = { ...vu };
  names.forEach((name, i) => expect(numbers[name ?? ""]).toBe(i + 1));
  expect(requestRule(0)).toBeUndefined();
  expect(requestRule(44)).toBeUndefined();
});
