import { until } from "@virtio/testkit/until";
import { createHash } from "node:crypto";
import { createConnection } from "node:net";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { PassThrough, Writable } from "node:stream";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { CharacterBackend, CharacterPort } from "virtio/backends/character";
import { FileCharacterBackend } from "../../src/character/file.ts";
import { SocketCharacterBackend } from "../../src/character/socket.ts";
import { StreamCharacterBackend } from "../../src/character/stream.ts";

let folder = "";
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "virtio-chr-"));
});
afterAll(() => rmSync(folder, { recursive: true }));

/** A port that takes a few bytes at a time, and sends what it is told as room allows. */
class Port implements CharacterPort {
  readonly received: Buffer[] = [];
  room = Infinity;
  open: boolean | undefined;
  readonly #backend: CharacterBackend;
  #rest = Buffer.alloc(0);

  constructor(backend: CharacterBackend) {
    this.#backend = backend;
    backend.attach(this);
  }

  receive(bytes: Uint8Array): number {
    const taken = Math.min(bytes.length, this.room);
    this.room -= taken;
    if (taken > 0) this.received.push(Buffer.from(bytes.subarray(0, taken)));
    return taken;
  }
  ready(): void {
    this.say(Buffer.alloc(0));
  }
  setOpen(open: boolean): void {
    this.open = open;
  }
  resize(): void {
    throw new Error("no terminal here");
  }
  get waiting(): number {
    return this.#rest.length;
  }
  get text(): string {
    return Buffer.concat(this.received).toString();
  }
  say(bytes: Uint8Array): void {
    const all = Buffer.concat([this.#rest, bytes]);
    const taken = this.#backend.write(all);
    this.#rest = Buffer.from(all.subarray(taken));
    // The bytes are the caller's again.
    all.fill(0);
  }
  grant(room: number): void {
    this.room = room;
    this.#backend.guestReady?.();
  }
}

function pattern(length: number): Buffer {
  return Buffer.from(Uint8Array.from({ length }, (_, i) => (i * 31 + (i >> 8)) & 255));
}

function digest(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}

test("4 MiB each way through a slow pair of streams, without loss and with bounded memory", async () => {
  const input = new PassThrough();
  const heard: Buffer[] = [];
  const output = new Writable({
    highWaterMark: 1000,
    write: (chunk: Buffer, _encoding, done) => {
      heard.push(chunk);
      setImmediate(done);
    },
  });
  const port = new Port(new StreamCharacterBackend(input, output));
  expect(port.open).toBe(true);
  const bytes = pattern(4 << 20);
  port.room = 0;
  input.write(bytes);
  for (let at = 0; at < bytes.length; at += 1 << 18) port.say(bytes.subarray(at, at + (1 << 18)));
  expect(port.waiting).toBeGreaterThan(bytes.length - (1 << 17));
  let granted = 0;
  await until(() => {
    const got = port.received.reduce((sum, piece) => sum + piece.length, 0);
    if (got < bytes.length) {
      granted += 50_001;
      port.grant(50_001);
      expect(got).toBeLessThanOrEqual(granted);
    }
    return got === bytes.length && heard.reduce((sum, piece) => sum + piece.length, 0) === bytes.length;
  }, "both directions");
  expect(digest(Buffer.concat(heard))).toBe(digest(bytes));
  expect(digest(Buffer.concat(port.received))).toBe(digest(bytes));
});

test("input that came before the port, or while there is none, waits", async () => {
  const input = new PassThrough();
  input.write("early ");
  const backend = new StreamCharacterBackend(input, undefined);
  await new Promise((resolve) => setTimeout(resolve, 5));
  const first = new Port(backend);
  await until(() => first.text === "early ", "early input");
  backend.attach(undefined);
  input.write("late");
  await new Promise((resolve) => setTimeout(resolve, 5));
  const second = new Port(backend);
  await until(() => second.text === "late", "late input");
  expect(first.text).toBe("early ");
  expect(backend.write(pattern(10))).toBe(10);
});

test("the end of input leaves the output open", async () => {
  const input = new PassThrough();
  const output = new PassThrough();
  const port = new Port(new StreamCharacterBackend(input, output));
  input.end("x");
  await until(() => port.text === "x", "the last input");
  await new Promise((resolve) => setTimeout(resolve, 5));
  port.grant(5);
  port.say(Buffer.from("bye"));
  expect(String(output.read())).toBe("bye");
  expect(port.open).toBe(true);
});

test("a file keeps the output, afresh or behind what is there", () => {
  const path = join(folder, "log");
  for (const [append, text] of [
    [false, "one"],
    [true, "onetwo"],
    [false, "two"],
  ] as const) {
    const backend = new FileCharacterBackend(path, append);
    const port = new Port(backend);
    port.say(Buffer.from(text.slice(-3)));
    backend.close();
    expect(readFileSync(path, "utf8")).toBe(text);
  }
  expect(() => new FileCharacterBackend(join(folder, "no", "log"))).toThrow("cannot write to");
  expect(() => new FileCharacterBackend("/dev/null")).toThrow("not a regular file");
});

test("a socket port is open while a peer is there, one peer after the other", async () => {
  const backend = await SocketCharacterBackend.open({ address: { port: 0 }, server: true });
  const port = new Port(backend);
  expect(port.open).toBe(false);
  expect(backend.write(pattern(100))).toBe(100);
  for (let round = 0; round < 2; round++) {
    const peer = createConnection({ port: backend.tcpPort ?? 0 });
    const heard: Buffer[] = [];
    peer.on("data", (chunk) => heard.push(chunk));
    await until(() => port.open === true, "open");
    peer.write(`hello ${round}`);
    port.say(Buffer.from("guest"));
    await until(
      () => port.text.endsWith(`hello ${round}`) && String(Buffer.concat(heard)) === "guest",
      "both ways",
    );
    peer.destroy();
    await until(() => port.open === false, "closed");
  }
  backend.close();
});

test("a peer that hangs up while the guest waits for it frees the guest", async () => {
  const backend = await SocketCharacterBackend.open({ address: { port: 0 }, server: true });
  const port = new Port(backend);
  const peer = createConnection({ port: backend.tcpPort ?? 0 });
  await until(() => port.open === true, "open");
  peer.pause();
  port.say(Buffer.alloc(16 << 20));
  expect(port.waiting).toBeGreaterThan(0);
  peer.destroy();
  await until(() => port.waiting === 0, "the guest goes on");
  backend.close();
});
