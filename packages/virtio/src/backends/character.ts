/** The other end of a console port, after QEMU's chardev: a stream of bytes both ways. */
export interface CharacterBackend {
  /** Whether the host end is connected when the port attaches; `CharacterPort.setOpen` tells of changes. Default true. */
  readonly open?: boolean;
  /**
   * Bytes from the guest; they are the caller's again after the call. Returns how many were taken: after a short one
   * the port holds the rest, and calls again when `CharacterPort.ready` is called.
   */
  write(bytes: Uint8Array): number;
  /** Plugged in, or, with undefined, taken away. */
  attach(port: CharacterPort | undefined): void;
  /** The guest opened or closed its end. */
  guestOpen?(open: boolean): void;
  /** The port has room again after a short `receive`. */
  guestReady?(): void;
  close?(): void;
}

/** The device's side. */
export interface CharacterPort {
  /**
   * Bytes for the guest. Returns how many were taken (none while the guest's end is closed); after a short one
   * `CharacterBackend.guestReady` tells of more room.
   */
  receive(bytes: Uint8Array): number;
  /** The backend can take bytes again after a short `write`. */
  ready(): void;
  /** The host end opened or closed. What the guest writes to a closed one is lost. */
  setOpen(open: boolean): void;
  /** Columns and rows of the terminal at the host end. */
  resize(columns: number, rows: number): void;
}
