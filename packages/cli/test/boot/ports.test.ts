import { PassThrough, Writable } from "node:stream";

import fc from "fast-check";
import { expect, test } from "vitest";

import type { CharacterPort } from "virtio/backends/character";
import { InputPort, LinePort, OutputPort } from "@virtio/cli/boot/ports";

/** The guest's side of a port: takes as much as it has room for. */
class FakePort implements CharacterPort {
  readonly received: number[] = [];
  room = 0;
  open = false;
  readyCalls = 0;

  receive(bytes: Uint8Array): number {
    const taken = Math.min(this.room, bytes.length);
    this.received.push(...bytes.subarray(0, taken));
    this.room -= taken;
    return taken;
  }

  ready(): void {
    this.readyCalls++;
  }

  setOpen(open: boolean): void {
    this.open = open;
  }

  resize(): void {
    // These ports have no size.
  }

  get text(): string {
    return Buffer.from(this.received).toString();
  }
}

test("lines come whole however the guest cuts them", () => {
  const line = fc.stringMatching(/^[ -~]{0,20}$/);
  fc.assert(
    fc.property(fc.array(line, { minLength: 1 }), fc.array(fc.nat(9), { maxLength: 50 }), (lines, cuts) => {
      const seen: string[] = [];
      const port = new LinePort((text) => seen.push(text));
      let rest = Buffer.from(lines.map((text) => `${text}\n`).join(""));
      for (const cut of cuts) {
        port.write(rest.subarray(0, cut));
        rest = rest.subarray(cut);
      }
      port.write(rest);
      expect(seen).toEqual(lines);
    }),
  );
});

test("a line without an end does not grow for ever", () => {
  const seen: string[] = [];
  const port = new LinePort((text) => seen.push(text));
  for (let i = 0; i < 100; i++) port.write(new Uint8Array(65536).fill(65));
  port.write(Buffer.from("\n"));
  expect(seen).toHaveLength(1);
  expect(seen[0]?.length).toBeLessThanOrEqual(4096);
});

test("what is sent to the guest waits for its room, and nothing is lost", () => {
  const port = new LinePort(() => undefined);
  const guest = new FakePort();
  port.attach(guest);
  port.send("hello ");
  port.send("world");
  for (let i = 0; i < 11; i++) {
    guest.room = 1;
    port.guestReady();
  }
  expect(guest.text).toBe("hello world");
});

test("the end of the input closes the host's end only when the guest has all of it", async () => {
  const guest = new FakePort();
  const port = new InputPort();
  port.attach(guest);
  const input = new PassThrough();
  port.feed(input);
  input.end("some bytes");
  await new Promise((resolve) => setTimeout(resolve, 10));
  expect(guest.open).toBe(true);
  guest.room = 4;
  port.guestReady();
  expect(guest.open).toBe(true);
  guest.room = 100;
  port.guestReady();
  await new Promise((resolve) => setTimeout(resolve, 10));
  expect([guest.text, guest.open]).toEqual(["some bytes", false]);
});

test("without input the guest is at the end of its file", () => {
  const guest = new FakePort();
  const port = new InputPort();
  port.attach(guest);
  port.feed(undefined);
  expect(guest.open).toBe(false);
});

test("a slow reader makes the guest wait, in bounded memory, and drained() waits for all", async () => {
  let held = 0;
  let most = 0;
  const slow = new Writable({
    highWaterMark: 1,
    write(chunk: Buffer, _encoding, done) {
      held += chunk.length;
      most = Math.max(most, held);
      setImmediate(() => {
        held -= chunk.length;
        done();
      });
    },
  });
  const port = new OutputPort(slow, () => undefined);
  const piece = new Uint8Array(1 << 16).fill(7);
  const guest = new FakePort();
  let left = 64;
  const pump = (): void => {
    while (left > 0 && port.write(piece) === piece.length) left--;
  };
  guest.ready = pump;
  port.attach(guest);
  pump();
  expect(left).toBeGreaterThan(40);
  await port.drained();
  expect([left, held]).toEqual([0, 0]);
  expect(most).toBeLessThanOrEqual(1 << 20);
});

test("when nobody reads any more it is told once, and the guest is not held up", async () => {
  const errors: string[] = [];
  const broken = new Writable({
    write(_chunk, _encoding, done) {
      done(new Error("EPIPE"));
    },
  });
  const port = new OutputPort(broken, (error) => errors.push(error.message));
  port.attach(new FakePort());
  port.write(new Uint8Array(10));
  await port.drained();
  expect(port.write(new Uint8Array(10))).toBe(10);
  expect(errors).toEqual(["EPIPE"]);
});
