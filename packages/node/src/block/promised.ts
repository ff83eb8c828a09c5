import type { BlockCompletion } from "virtio/backends/block";
import type { MaybePromise } from "virtio/device/device";
import type { FileEngine } from "./file-engine.ts";

/** What `start` begins, as a promise for those who want one; nothing when it is done at once. */
export function promised(
  engine: FileEngine | undefined,
  start: (completion: BlockCompletion) => boolean,
): MaybePromise<void> {
  let settle: ((error: unknown) => void) | undefined;
  if (start({ done: (error) => settle?.(error) })) return;
  return new Promise((resolve, reject) => {
    settle = (error) => {
      engine?.promised?.();
      if (error === undefined) resolve();
      else reject(error);
    };
  });
}
