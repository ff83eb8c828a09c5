import { flagOption, textOption } from "virtio/check-option";
import { closeSync, fstatSync, openSync, writeSync } from "node:fs";
import { constants } from "node:fs";
import type { CharacterBackend, CharacterPort } from "virtio/backends/character";
import { PRIVATE_FILE } from "../private-files.ts";

/** A port whose output goes to a file: QEMU's `-chardev file`. */
export class FileCharacterBackend implements CharacterBackend {
  #fd: number;

  /** `append`: keep what is there; default: start afresh. Throws an Error that names the file. */
  constructor(path: string, append = false) {
    textOption("character file: path", path, 1);
    flagOption("character file: append", append);
    const { O_WRONLY, O_CREAT, O_TRUNC, O_APPEND, O_NONBLOCK } = constants;
    try {
      // Opening a FIFO that nobody reads must fail and not wait.
      this.#fd = openSync(
        path,
        O_WRONLY | O_CREAT | O_NONBLOCK | (append ? O_APPEND : O_TRUNC),
        PRIVATE_FILE,
      );
    } catch (error) {
      throw new Error(
        `cannot write to '${path}': ${error instanceof Error ? error.message : String(error)}`,
        {
          cause: error,
        },
      );
    }
    if (!fstatSync(this.#fd).isFile()) {
      this.close();
      throw new Error(`cannot write to '${path}': not a regular file`);
    }
  }

  attach(port: CharacterPort | undefined): void {
    port?.setOpen(true);
  }

  /** A full disk is an error of the host. */
  write(bytes: Uint8Array): number {
    for (let done = 0; this.#fd >= 0 && done < bytes.length;) {
      done += writeSync(this.#fd, bytes, done, bytes.length - done);
    }
    return bytes.length;
  }

  close(): void {
    if (this.#fd >= 0) closeSync(this.#fd);
    this.#fd = -1;
  }
}
