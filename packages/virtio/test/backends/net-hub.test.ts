import fc from "fast-check";
import { expect, test } from "vitest";
import type { NetBackend, NetPort } from "../../src/backends/net.ts";
import { HUB_QUEUE, NetHub } from "../../src/backends/net-hub.ts";

/** As Node's Buffer: its `slice` copies nothing. */
class Shared extends Uint8Array {
  override slice(start?: number, end?: number): Uint8Array<ArrayBuffer> {
    return new Uint8Array(this.buffer).subarray(start, end);
  }
}

class Card implements NetPort {
  readonly got: number[] = [];
  room = Infinity;
  readonly backend: NetBackend;
  answer: ((value: number) => void) | undefined;

  constructor(hub: NetHub) {
    this.backend = hub.port();
    this.backend.attach(this);
  }
  receive(frame: Uint8Array): boolean {
    if (this.room === 0) return false;
    this.room--;
    const value = frame[0] ?? 0;
    this.got.push(value);
    this.answer?.(value);
    return true;
  }
  linkChanged(): void {}
  send(value: number): boolean {
    const frame = new Shared([value]);
    const taken = this.backend.send(frame);
    frame[0] = 0xdd;
    return taken;
  }
}

const step = fc.oneof(
  fc.record({ kind: fc.constant("send" as const), who: fc.nat(3) }),
  fc.record({ kind: fc.constant("room" as const), who: fc.nat(3), room: fc.nat(4) }),
);

test("each frame reaches every other card once and in order, whatever room they have", () => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 150 }), (history) => {
      const hub = new NetHub();
      const cards = [0, 1, 2, 3].map(() => new Card(hub));
      const expected: number[][] = cards.map(() => []);
      let value = 0;
      for (const { kind, who, ...rest } of history) {
        const card = cards[who];
        if (card === undefined) continue;
        if (kind === "send") {
          // Frames are one byte, and 0xdd marks bytes that are the sender's again.
          value = (value + 1) % 200;
          expect(card.send(value)).toBe(true);
          expected.forEach((list, i) => i !== who && list.push(value));
        } else {
          card.room = "room" in rest ? rest.room : 0;
          card.backend.ready?.();
        }
      }
      for (const [i, card] of cards.entries()) {
        card.room = Infinity;
        card.backend.ready?.();
        expect(card.got).toEqual(expected[i]);
      }
      expect(hub.dropped).toBe(0);
    }),
  );
});

test("a card that never has room costs a bounded number of frames", () => {
  const hub = new NetHub();
  const [full, other] = [new Card(hub), new Card(hub)];
  full.room = 0;
  for (let i = 0; i < HUB_QUEUE + 50; i++) other.send(1);
  expect(hub.dropped).toBe(50);
  full.room = Infinity;
  full.backend.ready?.();
  expect(full.got.length).toBe(HUB_QUEUE);
});

test("cards that answer while they receive do not nest, and order is kept", () => {
  const hub = new NetHub();
  const [a, b, c] = [new Card(hub), new Card(hub), new Card(hub)];
  b.answer = (value) => value < 100 && b.send(value + 1);
  a.answer = (value) => value < 100 && a.send(value + 1);
  a.send(1);
  expect(c.got).toEqual(Array.from({ length: 100 }, (_, i) => i + 1));
});

test("a closed or detached port gets nothing, and what it had waiting is gone", () => {
  const hub = new NetHub();
  const [a, b] = [new Card(hub), new Card(hub)];
  b.room = 0;
  a.send(1);
  b.backend.attach(undefined);
  b.room = Infinity;
  b.backend.attach(b);
  b.backend.ready?.();
  expect(b.got).toEqual([]);
  b.backend.close?.();
  a.send(2);
  expect(b.got).toEqual([]);
});
