/** The other side of a connection broke a rule of the vhost-user protocol. Nothing of what it asked for was done. */
export class PeerError extends Error {
  override readonly name = "PeerError";
}

export function reject(what: string): never {
  throw new PeerError(what);
}
