/** The other side of a connection broke a rule of the vhost-user protocol. Nothing of what it asked for was done. */
export class PeerError extends Error {
  override readonly name = "PeerError";
}

export function reject(what: string): never {
  throw new PeerError(what);
}

/** Whatever was thrown, as an Error. */
export function asError(error: unknown): Error {
  return error instanceof Error ? error : new Error(String(error));
}
