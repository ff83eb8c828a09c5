import { choiceOption, flagOptions, textOption, wholeOptions } from "virtio/check-option";
import type { SecurityModel } from "./ownership.ts";

export interface HostDirectoryOptions {
  /** Default false. */
  readonly readOnly?: boolean;
  /**
   * As QEMU's `security_model`: who owns on the host what the guest makes. `passthrough`: the guest's users; this process
   * must be root. `none` (the default): the same, but owners that cannot be set are left, and no devices. `mapped-xattr`: the user of
   * this process; what the guest is to see is kept in attributes (`user.virtfs.*`), special files are regular files.
   */
  readonly securityModel?: SecurityModel;
  /** Descriptors that files the guest knows of may take, 1 to 2^20 (less than 16 count as 16); open files come on top. Default 512. */
  readonly maxDescriptors?: number;
  /** Bytes that files and directories the guest knows of, and their names, may take in memory; one more is ENFILE. Default 128 MiB. */
  readonly maxNodeBytes?: number;
}

const SECURITY_MODELS: readonly SecurityModel[] = ["none", "passthrough", "mapped-xattr"];
const RANGES = { maxDescriptors: [1, 2 ** 20], maxNodeBytes: [0, Number.MAX_SAFE_INTEGER] } as const;

/** Throws a RangeError or TypeError that names the option which cannot be. */
export function checkDirectoryOptions(path: string, options: HostDirectoryOptions): void {
  const { securityModel } = options;
  textOption("shared directory: path", path, 1);
  flagOptions("shared directory", options, ["readOnly"]);
  wholeOptions("shared directory", options, RANGES);
  if (securityModel !== undefined)
    choiceOption("shared directory: securityModel", securityModel, SECURITY_MODELS);
}
