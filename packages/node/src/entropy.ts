import { randomFillSync } from "node:crypto";
import type { EntropySource } from "virtio/backends/entropy";

/** The operating system's entropy, through the generator of OpenSSL that Node carries. */
export const hostEntropy: EntropySource = (target) => {
  randomFillSync(target);
};
