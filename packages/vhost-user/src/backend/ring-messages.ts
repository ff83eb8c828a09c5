import type { Descriptor } from "../native/descriptor.ts";
import { reject } from "../protocol/errors.ts";
import * as vu from "../protocol/numbers.ts";
import * as payload from "../protocol/payloads.ts";
import type { Beginning } from "./beginning.ts";
import type { Luggage, Register } from "./handlers.ts";
import type { BackendRing } from "./ring.ts";

/** The messages that set up a vring, start and stop it. */
export function registerRings(on: Register, rings: readonly BackendRing[], beginning: Beginning): void {
  const ringAt = (index: number): BackendRing => rings[index] ?? reject(`there is no virtqueue ${index}`);
  const state = (body: Uint8Array): { ring: BackendRing; value: number } => {
    const { index, value } = payload.decodeVringState(body);
    return { ring: ringAt(index), value };
  };
  /** SET_VRING_KICK, CALL, ERR: the descriptor that must be there unless the message says that there is none. */
  const descriptorFor = (
    body: Uint8Array,
    luggage: Luggage,
  ): { ring: BackendRing; descriptor: Descriptor | undefined } => {
    const word = Number(BigInt.asUintN(32, payload.decodeU64(body)));
    const ring = ringAt(word & vu.VRING_INDEX_MASK);
    if ((word & vu.VRING_NOFD_MASK) !== 0) return { ring, descriptor: undefined };
    // It is shared with the front-end: one that blocks would let it stop this thread.
    luggage.all[0]?.setNonBlocking();
    return { ring, descriptor: luggage.one() };
  };
  on(vu.SET_VRING_NUM, (body) => {
    const { ring, value } = state(body);
    ring.setSize(value);
    return undefined;
  });
  on(vu.SET_VRING_BASE, async (body) => {
    const { ring, value } = state(body);
    ring.setBase(value);
    if (ring.beginsAnew) await beginning.anotherDriver();
    return undefined;
  });
  on(vu.SET_VRING_ADDR, async (body) => {
    const address = payload.decodeVringAddress(body);
    await ringAt(address.index).setAddress(address);
    return undefined;
  });
  on(vu.GET_VRING_BASE, async (body) => {
    const { ring } = state(body);
    return { payload: payload.encodeVringState({ index: ring.index, value: await ring.stop() }) };
  });
  on(vu.SET_VRING_ENABLE, (body) => {
    const { ring, value } = state(body);
    if (value > 1) reject(`virtqueue ${ring.index}: enable ${value}`);
    ring.enabled = value === 1;
    beginning.consider();
    return undefined;
  });
  on(vu.SET_VRING_KICK, (body, luggage) => {
    const { ring, descriptor } = descriptorFor(body, luggage);
    ring.setKick(descriptor);
    return undefined;
  });
  on(vu.SET_VRING_CALL, (body, luggage) => {
    const { ring, descriptor } = descriptorFor(body, luggage);
    ring.setCall(descriptor);
    return undefined;
  });
  on(vu.SET_VRING_ERR, (body, luggage) => {
    const { ring, descriptor } = descriptorFor(body, luggage);
    ring.setErr(descriptor);
    return undefined;
  });
}
