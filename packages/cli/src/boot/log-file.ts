import { closeSync, constants, openSync, writeSync } from "node:fs";

import { PRIVATE_FILE } from "@virtio/node/private-files";

/** Bytes of text collected before they are written out. */
const chunk = 32_768;
const standardError = 2;

/** Lines with the seconds since it was opened, written out in large pieces: a machine has many events. */
export class LogFile {
  readonly #fd: number;
  readonly #start: number;
  #text = "";
  #scheduled = false;

  /**
   * Without a path: standard error. `since`: the log was begun then by another thread (milliseconds since 1970), and this one
   * adds to it. Throws when the file cannot be written.
   */
  constructor(path: string | undefined, since?: number) {
    const flags = constants.O_WRONLY | constants.O_CREAT | constants.O_APPEND;
    const begin = since === undefined ? constants.O_TRUNC : 0;
    this.#fd = path === undefined ? standardError : openSync(path, flags | begin, PRIVATE_FILE);
    this.#start = since === undefined ? performance.now() : since - performance.timeOrigin;
  }

  write(line: string): void {
    const seconds = ((performance.now() - this.#start) / 1000).toFixed(6);
    this.#text += `${seconds.padStart(11)} ${line}\n`;
    if (this.#text.length >= chunk) this.#flush();
    else if (!this.#scheduled) {
      this.#scheduled = true;
      setImmediate(() => this.#flush());
    }
  }

  close(): void {
    this.#flush();
    if (this.#fd !== standardError) closeSync(this.#fd);
  }

  #flush(): void {
    this.#scheduled = false;
    const text = Buffer.from(this.#text);
    this.#text = "";
    for (let done = 0; done < text.length;) done += writeSync(this.#fd, text, done);
  }
}
