import { passesEvent } from "./area.ts";

/**
 * Whether a batch of `slots` ring entries that ends at (`position`, `wrap`) passes the descriptor that the other side
 * waits for. `event` is an event suppression structure's off_wrap: an offset with a wrap counter in bit 15. Section
 * "Driver and Device Event Suppression".
 */
export function passesPackedEvent(
  event: number,
  position: number,
  wrap: boolean,
  slots: number,
  size: number,
): boolean {
  const sameLap = ((event & 0x8000) !== 0) === wrap;
  const offset = sameLap ? event & 0x7fff : (event & 0x7fff) - size;
  return passesEvent(offset, position, position - slots);
}
