/** Where a shell's lines go. */
export interface Output {
  write(text: string): void;
}

/** How far a long transfer is. */
export interface Transfer {
  /** Bytes done. */
  progress(done: number): void;
  end(): void;
}
