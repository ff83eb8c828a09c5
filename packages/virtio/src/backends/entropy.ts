import type { MaybePromise } from "../device/device.ts";

/** Fills the whole of `target` (at most 64 KiB) with random bytes fit for cryptography. */
export type EntropySource = (target: Uint8Array) => MaybePromise<void>;
