import { VIRTQ_MAX_SIZE } from "../../spec/virtqueue.ts";
import { textOption, wholeOption, wholeOptions } from "../../check-option.ts";
import { DriverSession, type DriverOpenOptions } from "../../driver/session.ts";
import type { DriverTransport } from "../../driver/types.ts";
import type { CancelSignal } from "../../driver/virtqueue.ts";
import { readLe16 } from "../../memory/bytes.ts";
import { decodeUtf8 } from "../../memory/utf8.ts";
import {
  NOFID,
  TATTACH,
  TVERSION,
  VERSION_9P2000_L,
  VIRTIO_9P_CONFIG,
  VIRTIO_9P_MOUNT_TAG,
} from "../../protocols/9p/numbers.ts";
import { readRversion } from "../../protocols/9p/replies.ts";
import { writeTattach, writeTversion } from "../../protocols/9p/requests.ts";
import { featureBits } from "../../spec/core.ts";
import { VIRTIO_ID_9P } from "../../spec/ids.ts";
import { Connection } from "./connection.ts";
import { FidNumbers, NinePFile } from "./file.ts";

const TYPE = { id: VIRTIO_ID_9P, name: "9p device" };
/** The device says 128. */
const QUEUE_SIZE = 128;
const MIN_MSIZE = 4096;

export interface NinePDriverOptions extends DriverOpenOptions {
  /** Bytes of the largest message, 4,096 to 2^32 - 1; the device may lower it. Default 131,072. */
  readonly msize?: number;
  /** Requests at a time; each takes memory for two messages, and `msize` when it carries data. 1 to 32768. Default 8. */
  readonly maxRequests?: number;
}

export interface AttachOptions {
  /** Owner of what is made, 32 bits. Default 0. */
  readonly uid?: number;
  /** A directory below the share's root to take for the root. Default the root. */
  readonly directory?: string;
}

/** The driver of a virtio-9p device: a client of 9P2000.L. */
export class NinePDriver {
  /** What the share is called. */
  readonly tag: string;
  readonly #session: DriverSession;
  readonly #connection: Connection;
  readonly #fids = new FidNumbers();

  private constructor(session: DriverSession, options: NinePDriverOptions) {
    const { msize = 131_072, maxRequests = 8 } = options;
    this.#session = session;
    const length = readLe16(session.readConfig(VIRTIO_9P_CONFIG.tag_len, 2), 0);
    this.tag = decodeUtf8(session.readConfig(VIRTIO_9P_CONFIG.tag, length));
    const queue = session.addQueue(0, QUEUE_SIZE);
    this.#connection = new Connection(session, queue, msize, Math.min(maxRequests, queue.size));
    session.onFailure = (error) => this.#connection.fail(error);
    session.ready();
  }

  /** Takes the device over and agrees on a version. Throws when it is not a 9p device, or refuses. */
  static open(transport: DriverTransport, options: NinePDriverOptions = {}): Promise<NinePDriver> {
    const { ring, signal } = options;
    const tag = featureBits(VIRTIO_9P_MOUNT_TAG);
    return DriverSession.start(
      transport,
      {
        type: TYPE,
        config: VIRTIO_9P_CONFIG.tag,
        wanted: tag,
        required: tag,
        ring,
        signal,
        check: () =>
          wholeOptions("9p", options, { msize: [MIN_MSIZE, 0xffff_ffff], maxRequests: [1, VIRTQ_MAX_SIZE] }),
      },
      async (session) => {
        const driver = new NinePDriver(session, options);
        await driver.#negotiate();
        return driver;
      },
    );
  }

  /** Bytes of the largest message. */
  get msize(): number {
    return this.#connection.msize;
  }

  /** Why the device cannot be used any more. */
  get failure(): Error | undefined {
    return this.#session.failure;
  }

  /** The root directory of the share, or of a part of it. */
  async attach(options: AttachOptions = {}): Promise<NinePFile> {
    const { uid = 0, directory = "" } = options;
    wholeOption("9p: uid", uid, 0, 0xffff_ffff);
    textOption("9p: directory", directory);
    const fid = this.#fids.take();
    const qid = await this.#connection.call(
      TATTACH,
      (w) => writeTattach(w, { fid, afid: NOFID, uname: "", aname: directory, n_uname: uid }),
      (r) => r.qid(),
    );
    return new NinePFile(this.#connection, this.#fids, fid, qid);
  }

  /** Resets the device and gives its memory back. All files are dead then. */
  async close(signal?: CancelSignal): Promise<void> {
    const closed = this.#session.close(signal);
    this.#connection.fail(new Error("9p: the driver was closed"));
    await closed;
  }

  async #negotiate(): Promise<void> {
    const wanted = this.#connection.msize;
    const { msize, version } = await this.#connection.call(
      TVERSION,
      (w) => writeTversion(w, { msize: wanted, version: VERSION_9P2000_L }),
      readRversion,
    );
    if (version !== VERSION_9P2000_L || msize < MIN_MSIZE || msize > wanted) {
      const error = new Error(`the server speaks "${version}" with messages of ${msize} bytes`);
      this.#session.fail(error);
      throw error;
    }
    this.#connection.msize = msize;
  }
}
