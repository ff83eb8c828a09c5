import { getSystemErrorName } from "node:util";

/** A function of the C library failed. */
export class NativeError extends Error {
  override readonly name = "NativeError";
  readonly errno: number;
  /** `ENOENT`. */
  readonly code: string;

  constructor(call: string, errno: number) {
    const code = getSystemErrorName(-errno);
    super(`${call}: ${code}`);
    this.errno = errno;
    this.code = code;
  }
}
