import { ftruncateSync, writeSync, openSync } from "node:fs";
import { afterEach, expect, test } from "vitest";
import { Descriptor, openDescriptors } from "@virtio/vhost-user/native/descriptor";
import { Epoll } from "@virtio/vhost-user/native/epoll";
import { clearEvent, createEvent, signalEvent } from "@virtio/vhost-user/native/event";
import { Mapping } from "@virtio/node/native/mapping";
import { createMemfd, fileExtent } from "@virtio/vhost-user/native/memfd";
import { UnixSocket } from "@virtio/vhost-user/native/unix-socket";
import { watch, watchedDescriptors } from "@virtio/vhost-user/native/watch";

afterEach(() => {
  expect(openDescriptors()).toBe(0);
  expect(watchedDescriptors()).toBe(0);
});

test("descriptors travel with the bytes they were sent with", () => {
  const [left, right] = UnixSocket.pair();
  const events = [createEvent(), createEvent()];
  expect(left.send(new Uint8Array([1, 2, 3, 4]))).toBe(true);
  expect(left.send(new Uint8Array([5, 6, 7, 8]), events)).toBe(true);
  const got: Descriptor[] = [];
  const bytes = new Uint8Array(3);
  expect(right.receive(bytes, got)).toBe(3);
  expect([...bytes]).toEqual([1, 2, 3]);
  expect(right.receive(bytes.subarray(0, 1), got)).toBe(1);
  expect(got.length).toBe(0);
  expect(right.receive(bytes, got)).toBe(3);
  expect([...bytes]).toEqual([5, 6, 7]);
  expect(got.length).toBe(2);
  expect(right.receive(bytes, got)).toBe(1);
  expect(right.receive(bytes, got)).toBe("later");
  signalEvent(got[1]!.fd);
  expect(clearEvent(events[1]!.fd)).toBe(true);
  left.close();
  expect(right.receive(bytes, got)).toBe("end");
  right.close();
  for (const event of [...events, ...got]) event.close();
});

test("two mappings of one file see each other, at an offset that is no page, and outlive their unmapping", () => {
  const memfd = createMemfd("test", 0x40000);
  expect(fileExtent(memfd.fd)).toMatchObject({ size: 0x40000, sealed: true });
  const whole = Mapping.map(memfd.fd, 0, 0x40000);
  const part = Mapping.map(memfd.fd, 0x1234, 0x1000);
  memfd.close();
  const view = part.view(4, 8);
  view[0] = 7;
  expect(whole.view(0x1238, 1)[0]).toBe(7);
  part.unmap();
  expect(view[0]).toBe(0);
  view[0] = 9;
  expect(whole.view(0x1238, 1)[0]).toBe(7);
  expect(() => part.view(0, 1)).toThrow("gone");
  whole.unmap();
});

test("what is mapped can be shrunk only by whom the seals allow", () => {
  const memfd = createMemfd("test", 0x2000);
  expect(() => ftruncateSync(memfd.fd, 0)).toThrow("EPERM");
  memfd.close();
});

test("a kick is heard on the main loop, with microtasks run, and an error there is an uncaught one", async () => {
  const kick = createEvent();
  let watching: { stop(): void } | undefined;
  for (let i = 0; i < 3; i++)
    await new Promise<void>((resolve) => {
      watching = watch(kick.fd, () => {
        expect(clearEvent(kick.fd)).toBe(true);
        watching?.stop();
        void Promise.resolve().then(resolve);
      });
      signalEvent(kick.fd);
    });
  kick.close();
  const file = new Descriptor(openSync("/proc/self/exe", "r"));
  expect(() => watch(file.fd, () => undefined)).toThrow("EPERM");
  file.close();
});

test("epoll reports keys", () => {
  const epoll = new Epoll();
  const [a, b] = [createEvent(), createEvent()];
  epoll.add(a.fd, 11);
  epoll.add(b.fd, 22);
  const keys = new Uint32Array(8);
  expect(epoll.wait(0, keys)).toBe(0);
  signalEvent(b.fd);
  expect(epoll.wait(-1, keys)).toBe(1);
  expect(keys[0]).toBe(22);
  epoll.remove(b.fd);
  expect(epoll.wait(0, keys)).toBe(0);
  for (const one of [a, b, epoll]) one.close();
});

test("a full event and one whose peer is gone neither block nor fail", () => {
  const event = createEvent();
  const full = new BigUint64Array([0xfffffffffffffffen]);
  writeSync(event.fd, full);
  signalEvent(event.fd);
  expect(clearEvent(event.fd)).toBe(true);
  expect(clearEvent(event.fd)).toBe(true);
  event.close();
  const [left, right] = UnixSocket.pair();
  right.close();
  expect(clearEvent(left.fd)).toBe(false);
  left.close();
});
