/** The other end of a network device's cable: whole Ethernet frames without FCS. */
export interface NetBackend {
  /** A frame from the guest. The bytes are the caller's again after the call. False: dropped, the peer has no room. */
  send(frame: Uint8Array): boolean;
  /**
   * Who takes frames for the guest. `receive` returns false when there is no room; the backend may then keep a bounded
   * number and try again when `ready` is called. The frame is the backend's again after the call.
   */
  attach(port: NetPort | undefined): void;
  /** The port has room again. */
  ready?(): void;
  /** False when the cable is unplugged; `NetPort.linkChanged` tells of changes. Default true. */
  readonly linkUp?: boolean;
  close?(): void;
}

/** The device's side of the cable. */
export interface NetPort {
  /**
   * A frame for the guest. False: no room now. Frames that the guest does not want, or cannot take at all, are taken
   * and dropped. `more` says that another frame follows in the same turn of the event loop: the guest is notified once,
   * after the last.
   */
  receive(frame: Uint8Array, more?: boolean): boolean;
  linkChanged(): void;
}
