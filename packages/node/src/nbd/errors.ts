/** "Error values": what a server may answer. */
const NAMES: Readonly<Record<number, string>> = {
  1: "EPERM",
  5: "EIO",
  12: "ENOMEM",
  22: "EINVAL",
  28: "ENOSPC",
  75: "EOVERFLOW",
  95: "ENOTSUP",
  108: "ESHUTDOWN",
};

/** A request that failed: the server said so, or there is no connection. */
export class NbdError extends Error {
  override readonly name = "NbdError";
  /** One of NBD's error values by its name; EIO when there is no connection. */
  readonly code: string;

  constructor(code: string, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
}

/** The server broke the protocol. The connection is closed, and what was under way on it fails. */
export class NbdProtocolError extends NbdError {
  constructor(message: string) {
    super("EIO", `the NBD server breaks the protocol: ${message}`);
  }
}

/** Anything that went wrong with a connection; what is no NbdError yet becomes its `cause`. */
export function asNbdError(error: unknown): NbdError {
  if (error instanceof NbdError) return error;
  // A host with several addresses: an AggregateError has no text of its own.
  const errors: readonly unknown[] = error instanceof AggregateError ? error.errors : [error];
  const text = errors.map((one) => (one instanceof Error ? one.message : String(one))).join("; ");
  return new NbdError("EIO", text, { cause: error });
}

/** The name of an error value; "The client SHOULD treat an unexpected error value as if it had been NBD_EINVAL". */
export function errorCode(value: number): string {
  return NAMES[value] ?? "EINVAL";
}

const LONGEST_TEXT = 300;

/** A server's text, made fit for one line of ours. */
export function serverText(bytes: Uint8Array): string {
  const text = new TextDecoder().decode(bytes.subarray(0, LONGEST_TEXT));
  return text.replaceAll(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]+/gu, " ").trim();
}
