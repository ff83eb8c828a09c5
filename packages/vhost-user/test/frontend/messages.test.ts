import { until } from "@virtio/testkit/until";
import { afterEach, expect, test } from "vitest";
import { DriverSession } from "virtio/driver/session";
import { VIRTIO_F_VERSION_1, featureBits } from "virtio/spec/core";
import { VhostUserTransport } from "@virtio/vhost-user/frontend/transport";
import { openDescriptors } from "@virtio/vhost-user/native/descriptor";
import { watchedDescriptors } from "@virtio/vhost-user/native/watch";
import * as vu from "@virtio/vhost-user/protocol/numbers";
import { encodeU64 } from "@virtio/vhost-user/protocol/payloads";
import { requestName } from "@virtio/vhost-user/protocol/requests";
import { GOOD, PROTOCOL, pair, type Answers, type FakeBackend } from "./fake-backend.ts";

afterEach(() => {
  expect(openDescriptors()).toBe(0);
  expect(watchedDescriptors()).toBe(0);
});

const RING = ["SET_VRING_NUM", "SET_VRING_BASE", "SET_VRING_ADDR"];
const DESCRIPTORS = ["SET_VRING_ERR", "SET_VRING_CALL", "SET_VRING_KICK"];

/** What a back-end hears of a driver's whole life with one virtqueue. */
async function life(answers: Answers, last: number, config?: Uint8Array): Promise<string[]> {
  const [backend, options] = pair({ ...GOOD, ...answers }, config === undefined ? {} : { config });
  const transport = await VhostUserTransport.open(options);
  const session = await DriverSession.open(transport, { wanted: 0n });
  if (config !== undefined) expect(session.readConfig(0, config.length)).toEqual(config);
  session.addQueue(0);
  session.ready();
  await until(() => heard(backend, vu.SET_VRING_KICK));
  await session.close();
  expect(heard(backend, last)).toBe(true);
  backend.close();
  return backend.heard.map(requestName);
}

const heard = (backend: FakeBackend, request: number): boolean => backend.heard.includes(request);

test("a back-end without protocol features: a table, rings that are enabled by themselves, and nothing to ask", async () => {
  const features = encodeU64(featureBits(VIRTIO_F_VERSION_1));
  const config = new Uint8Array([1, 2, 3, 4, 5, 6, 7, 8]);
  expect(await life({ [vu.GET_FEATURES]: features }, vu.GET_VRING_BASE, config)).toEqual([
    "GET_FEATURES",
    "SET_OWNER",
    "SET_FEATURES",
    "SET_MEM_TABLE",
    ...RING,
    ...DESCRIPTORS,
    "GET_VRING_BASE",
  ]);
});

test("protocol features before anything else; no driver says that its rings are enabled before they are set up", async () => {
  const protocol = PROTOCOL | featureBits(vu.PROTOCOL_F_MQ, vu.PROTOCOL_F_RESET_DEVICE);
  const answers = { [vu.GET_PROTOCOL_FEATURES]: encodeU64(protocol), [vu.GET_QUEUE_NUM]: encodeU64(1) };
  expect(await life(answers, vu.RESET_DEVICE)).toEqual([
    "GET_FEATURES",
    "GET_PROTOCOL_FEATURES",
    "SET_PROTOCOL_FEATURES",
    "GET_QUEUE_NUM",
    "SET_OWNER",
    // 96 bytes are more than this back-end has, as are 72.
    "GET_CONFIG",
    "GET_CONFIG",
    "GET_CONFIG",
    "SET_FEATURES",
    "SET_MEM_TABLE",
    ...RING,
    ...DESCRIPTORS,
    "SET_VRING_ENABLE",
    "SET_VRING_ENABLE",
    "GET_VRING_BASE",
    "RESET_DEVICE",
    "GET_FEATURES",
  ]);
});

test("memory slots, back-end requests and a status, where they are offered", async () => {
  const slots = featureBits(
    vu.PROTOCOL_F_CONFIGURE_MEM_SLOTS,
    vu.PROTOCOL_F_BACKEND_REQ,
    vu.PROTOCOL_F_STATUS,
  );
  const answers = { [vu.GET_PROTOCOL_FEATURES]: encodeU64(slots), [vu.GET_STATUS]: encodeU64(0) };
  const said = await life(answers, vu.SET_STATUS);
  expect(said).toEqual(expect.arrayContaining(["SET_BACKEND_REQ_FD", "ADD_MEM_REG", "SET_STATUS"]));
  expect(said).not.toContain("SET_MEM_TABLE");
});
