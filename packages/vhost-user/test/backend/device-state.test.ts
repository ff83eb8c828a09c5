import { until } from "@virtio/testkit/until";
import { fstatSync, mkdtempSync, openSync, readdirSync, rmSync, writeFileSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterEach, beforeEach, expect, test } from "vitest";
import { Descriptor, openDescriptors } from "@virtio/vhost-user/native/descriptor";
import { createEvent } from "@virtio/vhost-user/native/event";
import { natives } from "@virtio/vhost-user/native/libc";
import * as vu from "@virtio/vhost-user/protocol/numbers";
import { encodeDeviceState } from "@virtio/vhost-user/protocol/payloads";
import { decodeState, encodeState, STATE_LIMITS } from "@virtio/vhost-user/backend/device-state";
import { EchoDevice } from "./echo-device.ts";
import { VERSION_1, turn } from "./peer.ts";
import { setUp } from "./set-up.ts";

const SAVE = encodeDeviceState({ direction: vu.STATE_SAVE, phase: vu.STATE_PHASE_STOPPED });
const LOAD = encodeDeviceState({ direction: vu.STATE_LOAD, phase: vu.STATE_PHASE_STOPPED });

let before: number;
/** All of this process's, whoever made them. */
const descriptors = (): number => readdirSync("/proc/self/fd").length;
beforeEach(() => {
  before = descriptors();
});
afterEach(async () => {
  expect(openDescriptors()).toBe(0);
  await until(() => descriptors() <= before, "a descriptor was leaked");
});

function pipe(): [Descriptor, Descriptor] {
  const fds = new Int32Array(2);
  natives().pipe2(fds, 0o2000000);
  return [new Descriptor(fds[0] ?? -1), new Descriptor(fds[1] ?? -1)];
}

test("a channel that nothing can travel through is a transfer that failed, and is closed", async () => {
  const { peer, end } = await setUp(VERSION_1);
  // What is opened once and stays is there by now.
  const [reader, writer] = pipe();
  await peer.u64(vu.SET_DEVICE_STATE_FD, SAVE, [writer]);
  await peer.u64(vu.CHECK_DEVICE_STATE);
  reader.close();
  writer.close();
  const open = descriptors();
  const kinds = [
    () => createEvent(),
    () => new Descriptor(openSync("/dev/null", "r+")),
    () => new Descriptor(openSync("/", "r")),
    () => new Descriptor(openSync("/proc/self/exe", 0o10000000)),
    () => new Descriptor(openSync("/proc/self/exe", "r")),
  ];
  for (const direction of [SAVE, LOAD])
    for (const kind of kinds) {
      const channel = kind();
      expect(await peer.u64(vu.SET_DEVICE_STATE_FD, direction, [channel])).toBe(0x100n);
      channel.close();
      const result = await peer.u64(vu.CHECK_DEVICE_STATE);
      // /dev/null takes everything.
      expect([0n, 1n]).toContain(result);
      if (direction === LOAD) expect(result).toBe(1n);
    }
  await until(() => descriptors() <= open, "a channel was leaked");
  await end();
});

test("a device that cannot save closes the channel, and the next transfer begins anew", async () => {
  const device = new EchoDevice();
  device.save = () => {
    throw new Error("not now");
  };
  const { peer, end } = await setUp(VERSION_1, device);
  const [reader, writer] = pipe();
  expect(await peer.u64(vu.SET_DEVICE_STATE_FD, SAVE, [writer])).toBe(0x100n);
  writer.close();
  expect(await peer.u64(vu.CHECK_DEVICE_STATE)).toBe(1n);
  // Its end: nobody holds the other side.
  reader.setNonBlocking();
  expect(natives().read(reader.fd, new Uint8Array(1), 1)).toBe(0);
  reader.close();
  await end();
});

test("a server that closes while the device is reset for a state: nothing is loaded any more", async () => {
  const device = new EchoDevice();
  const { server, peer, ring, end } = await setUp(VERSION_1, device);
  await ring.start();
  await ring.stop();
  let reset: (() => void) | undefined;
  let restored = 0;
  Object.assign(device, {
    reset: () => new Promise<void>((resolve) => (reset = resolve)),
    restore: () => restored++,
  });
  const [reader, writer] = pipe();
  const alive = fstatSync(reader.fd).ino;
  peer.channel.send(vu.SET_DEVICE_STATE_FD, LOAD, { descriptors: [reader] });
  reader.close();
  await until(() => reset !== undefined);
  const closing = server.close();
  for (let i = 0; i < 5; i++) await turn();
  Object.assign(device, { reset: () => undefined });
  reset?.();
  await turn();
  // The writer stays open with somebody else: nothing ends by itself.
  try {
    writeSync(writer.fd, '{"version":1,"state":{"done":[]}}');
  } catch (error) {
    // Nobody reads it, which is right.
    expect(error).toMatchObject({ code: "EPIPE" });
  }
  const left = (): boolean =>
    readdirSync("/proc/self/fd").some((fd) => {
      try {
        return Number(fd) !== writer.fd && fstatSync(Number(fd)).ino === alive;
      } catch {
        return false;
      }
    });
  await closing;
  await until(() => !left(), "the channel is held");
  await end();
  writer.close();
  expect(restored).toBe(0);
});

test("any state is decoded as it was encoded", () => {
  const leaf = fc.oneof(fc.constant(null), fc.boolean(), fc.integer(), fc.string(), fc.uint8Array());
  const { state } = fc.letrec<{ state: unknown }>((tie) => ({
    state: fc.oneof(
      { maxDepth: 4 },
      leaf,
      fc.array(tie("state"), { maxLength: 4 }),
      fc.dictionary(fc.constantFrom("a", "b", "path", "n0"), tie("state"), { noNullPrototype: true }),
    ),
  }));
  fc.assert(
    fc.property(state, (value) => {
      expect(decodeState(encodeState(value))).toEqual(value);
    }),
  );
  // Once a device's.
  const fids = Array.from({ length: 30_000 }, (_, fid) => ({
    fid,
    path: ["a", "b"],
    flags: null,
    locks: [],
  }));
  expect(decodeState(encodeState({ version: 1, fids }))).toEqual({ version: 1, fids });
});

const inState = (text: string): string => `{"version":1,"state":${text}}`;
const many = (text: (i: number) => string, count: number): string =>
  Array.from({ length: count }, (_, i) => text(i)).join(",");

test.each([
  ["many numbers", inState(`[${many(() => "0", 3_000_000)}]`), "more than 524288 elements"],
  ["deep arrays", "[".repeat(1 << 20), "nested deeper than 32"],
  ["a long text", inState(`"${"x".repeat(STATE_LIMITS.bytes)}"`), "more than 8388608 bytes"],
  ["fields of many names", inState(`{${many((i) => `"k${i}":0`, 100_000)}}`), "more than 4096 kinds"],
  ["records of many kinds", inState(`[${many((i) => `{"k${i}":0}`, 100_000)}]`), "more than 4096 kinds"],
  ["a prototype", inState(`{"__proto__":{"$bytes":"AA=="}}`), "a field is called __proto__"],
])("a hostile state is refused by name, and the session lives on: %s", async (_, text, refusal) => {
  const { peer, errors, end } = await setUp(VERSION_1);
  const folder = mkdtempSync(join(tmpdir(), "virtio-device-state-"));
  writeFileSync(join(folder, "state"), text);
  const file = new Descriptor(openSync(join(folder, "state"), "r"));
  rmSync(folder, { recursive: true });
  expect(await peer.u64(vu.SET_DEVICE_STATE_FD, LOAD, [file])).toBe(0x100n);
  file.close();
  expect(await peer.u64(vu.CHECK_DEVICE_STATE)).toBe(1n);
  expect(errors.map(String)).toEqual([expect.stringContaining(`Error: device state: ${refusal}`)]);
  await end();
});

test("a state that could not be loaded is not saved", () => {
  expect(() => encodeState(Array.from({ length: 600_000 }, () => 0))).toThrow("more than 524288 elements");
});
