import { until } from "@virtio/testkit/until";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { DriverSession } from "virtio/driver/session";
import { featureBits } from "virtio/spec/core";
import { VIRTIO_ID_BLK } from "virtio/spec/ids";
import { VhostUserTransport } from "@virtio/vhost-user/frontend/transport";
import { openDescriptors } from "@virtio/vhost-user/native/descriptor";
import { UnixListener, type UnixSocket } from "@virtio/vhost-user/native/unix-socket";
import { watchedDescriptors } from "@virtio/vhost-user/native/watch";
import * as vu from "@virtio/vhost-user/protocol/numbers";
import { encodeU64 } from "@virtio/vhost-user/protocol/payloads";
import { requestName } from "@virtio/vhost-user/protocol/requests";
import { turn } from "../backend/peer.ts";
import { FakeBackend, GOOD, PROTOCOL, type Answers } from "./fake-backend.ts";

let directory: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "vhost-user-"));
});
afterEach(() => {
  rmSync(directory, { recursive: true });
  expect(openDescriptors()).toBe(0);
  expect(watchedDescriptors()).toBe(0);
});

const WITH_STATUS: Answers = {
  ...GOOD,
  [vu.GET_PROTOCOL_FEATURES]: encodeU64(PROTOCOL | featureBits(vu.PROTOCOL_F_STATUS)),
  [vu.GET_STATUS]: encodeU64(0),
};

async function next(listener: UnixListener, answers: Answers): Promise<FakeBackend> {
  let socket: UnixSocket | undefined;
  await until(() => (socket = listener.accept()) !== undefined, "nobody connects");
  if (socket === undefined) throw new Error("nobody connects");
  return new FakeBackend(socket, answers);
}

test("a driver that resets its device while the next back-end is still asked what it offers: nothing is said to it out of turn", async () => {
  const path = join(directory, "socket");
  const listener = UnixListener.listen(path);
  const opening = VhostUserTransport.open({
    socket: path,
    deviceId: VIRTIO_ID_BLK,
    timeout: 1000,
    reconnect: { delay: 1 },
  });
  const first = await next(listener, WITH_STATUS);
  const transport = await opening;
  const session = await DriverSession.open(transport, { wanted: 0n });
  first.close();
  const second = await next(listener, { ...WITH_STATUS, [vu.GET_FEATURES]: "silence" });
  await until(() => second.heard.length > 0);
  const closing = session.close();
  for (let i = 0; i < 20; i++) await turn();
  expect(second.heard.map(requestName)).toEqual(["GET_FEATURES"]);
  await closing;
  const features = GOOD[vu.GET_FEATURES];
  if (!(features instanceof Uint8Array)) throw new Error("no features");
  second.answer(vu.GET_FEATURES, features);
  for (let i = 0; i < 20; i++) await turn();
  transport.close();
  second.close();
  listener.close();
});
