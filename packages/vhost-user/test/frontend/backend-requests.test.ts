import { readdirSync } from "node:fs";
import fc from "fast-check";
import { afterEach, expect, test } from "vitest";
import { Upcalls } from "@virtio/vhost-user/backend/upcalls";
import { Channel } from "@virtio/vhost-user/channel/channel";
import { BackendRequests } from "@virtio/vhost-user/frontend/backend-requests";
import { SharedObjectTable } from "@virtio/vhost-user/frontend/shared-objects";
import { closeAll, openDescriptors } from "@virtio/vhost-user/native/descriptor";
import { createEvent } from "@virtio/vhost-user/native/event";
import { mainLoopPoller } from "@virtio/vhost-user/native/poller";
import { UnixSocket } from "@virtio/vhost-user/native/unix-socket";
import { watchedDescriptors } from "@virtio/vhost-user/native/watch";
import { encodeMessage } from "@virtio/vhost-user/protocol/message";
import * as vu from "@virtio/vhost-user/protocol/numbers";
import { turn } from "../backend/peer.ts";
import { uuid } from "../backend/sharing-device.ts";

const processDescriptors = (): number => readdirSync("/proc/self/fd").length;

afterEach(() => {
  expect(openDescriptors()).toBe(0);
  expect(watchedDescriptors()).toBe(0);
});

const message = fc.record({
  request: fc.oneof(
    { arbitrary: fc.integer({ min: 0, max: 12 }), weight: 20 },
    fc.integer({ min: 0, max: 0xffff_ffff }),
  ),
  body: fc.oneof(fc.integer({ min: 0, max: 3 }).map(uuid), fc.uint8Array({ maxLength: 40 })),
  descriptors: fc.oneof({ arbitrary: fc.constant(0), weight: 4 }, fc.integer({ min: 1, max: 12 })),
  reply: fc.oneof({ arbitrary: fc.constant(false), weight: 8 }, fc.constant(true)),
  needReply: fc.boolean(),
  /** Bytes left out at the end. */
  missing: fc.oneof({ arbitrary: fc.constant(0), weight: 30 }, fc.integer({ min: 1, max: 20 })),
});

test("whatever a back-end asks for: answered, refused or not listened to; nothing leaks, and the table is its own", async () => {
  const before = processDescriptors();
  await fc.assert(
    fc.asyncProperty(fc.array(message, { maxLength: 25 }), fc.boolean(), async (messages, late) => {
      const table = new SharedObjectTable();
      table.add(uuid(0), { getSharedObject: async () => (await turn(), createEvent()) });
      table.add(uuid(1), { getSharedObject: () => Promise.reject(new Error("gone")) });
      const own = {
        getSharedObject: () => Promise.resolve(undefined),
        configurationChanged: () => undefined,
      };
      const host = { ...own, objects: table };
      const requests = new BackendRequests(mainLoopPoller, host);
      const socket = new UnixSocket(requests.theirs.duplicate());
      requests.theirs.close();
      const channel = new Channel(socket);
      for (const { request, body, descriptors, reply, needReply, missing } of messages) {
        const sent = Array.from({ length: descriptors }, () => createEvent());
        const whole = encodeMessage(request, body, { reply, needReply });
        const alive = socket.send(whole.subarray(0, Math.max(1, whole.length - missing)), sent);
        closeAll(sent);
        if (!alive) break;
        if (!late) await turn();
        const answer = channel.receive();
        if (typeof answer !== "string") closeAll(answer.descriptors);
      }
      for (let i = 0; i < 3; i++) await turn();
      requests.close();
      table.forget(host);
      expect(table.size).toBe(2);
      channel.close();
      await turn();
      await turn();
    }),
    { numRuns: 150 },
  );
  expect(processDescriptors()).toBe(before);
});

test("whatever a front-end answers: each question has one answer or none, in bounded time, and nothing leaks", async () => {
  const before = processDescriptors();
  await fc.assert(
    fc.asyncProperty(
      fc.array(message, { maxLength: 25 }),
      fc.integer({ min: 0, max: 70 }),
      async (messages, count) => {
        const [ours, theirs] = UnixSocket.pair();
        const upcalls = new Upcalls(ours, mainLoopPoller);
        const all = Array.from({ length: count }, (_, i) =>
          upcalls.ask(vu.BACKEND_SHARED_OBJECT_ADD + (i % 3), uuid(i), true),
        );
        for (const { request, body, descriptors, needReply, missing } of messages) {
          const sent = Array.from({ length: descriptors }, () => createEvent());
          const whole = encodeMessage(request, body, { reply: true, needReply });
          theirs.send(whole.subarray(0, Math.max(1, whole.length - missing)), sent);
          closeAll(sent);
          await turn();
        }
        upcalls.close();
        let answered = 0;
        for (const answer of await Promise.all(all)) {
          if (answer !== undefined) answered++;
          closeAll(answer?.descriptors ?? []);
        }
        expect(answered).toBeLessThanOrEqual(messages.length);
        expect(await upcalls.ask(vu.BACKEND_SHARED_OBJECT_LOOKUP, uuid(1), false)).toBeUndefined();
        theirs.close();
      },
    ),
    { numRuns: 150 },
  );
  expect(processDescriptors()).toBe(before);
});
