import { reject } from "../protocol/errors.ts";
import * as vu from "../protocol/numbers.ts";
import { decodeU64 } from "../protocol/payloads.ts";
import { sendsRarp } from "./features.ts";
import type { Register } from "./handlers.ts";

const MAC_BYTES = 6;
const MIN_MTU = 68;
const MAX_MTU = 65_535;

/** Messages that only network devices know. */
export function registerNet(on: Register, device: object): void {
  on(vu.NET_SET_MTU, (body) => {
    const mtu = Number(decodeU64(body));
    if (mtu < MIN_MTU || mtu > MAX_MTU) reject(`MTU ${mtu}`);
    return undefined;
  });
  on(vu.SEND_RARP, (body) => {
    decodeU64(body);
    if (sendsRarp(device)) device.sendRarp(body.slice(0, MAC_BYTES));
    return undefined;
  });
}
