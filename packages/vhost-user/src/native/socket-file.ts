import { lstatSync, rmSync, unlinkSync } from "node:fs";
import { NativeError } from "@virtio/node/native/native-error";
import { ECONNREFUSED } from "./linux.ts";
import { UnixListener, UnixSocket } from "./unix-socket.ts";

/** A socket in the file system that is listened at, and goes when it is closed. */
export class SocketFile {
  readonly listener: UnixListener;
  readonly #path: string;
  /** Device and inode. */
  readonly #identity: string | undefined;

  private constructor(path: string, listener: UnixListener) {
    this.#path = path;
    this.listener = listener;
    this.#identity = fileAt(path);
  }

  /**
   * Makes it. A socket file that nobody listens at is what a killed predecessor left; it goes. Throws an Error when there is a file of
   * another kind, or somebody listens there.
   */
  static listen(path: string): SocketFile {
    return new SocketFile(path, listenAt(path));
  }

  close(): void {
    if (this.listener.descriptor.closed) return;
    this.listener.close();
    // By now the path may be somebody else's.
    if (this.#identity !== undefined && this.#identity === fileAt(this.#path))
      rmSync(this.#path, { force: true });
  }
}

function listenAt(path: string): UnixListener {
  try {
    return UnixListener.listen(path);
  } catch (error) {
    if (!(error instanceof NativeError && error.code === "EADDRINUSE")) throw error;
    if (!lstatSync(path).isSocket()) throw new Error(`${path} is there, and is no socket`, { cause: error });
    if (answers(path)) throw new Error(`${path}: somebody listens there already`, { cause: error });
    unlinkSync(path);
    return UnixListener.listen(path);
  }
}

/** Device and inode; undefined when there is nothing. */
function fileAt(path: string): string | undefined {
  const found = lstatSync(path, { throwIfNoEntry: false });
  return found && `${found.dev}:${found.ino}`;
}

function answers(path: string): boolean {
  try {
    UnixSocket.connect(path).close();
    return true;
  } catch (error) {
    return !(error instanceof NativeError && error.errno === ECONNREFUSED);
  }
}
