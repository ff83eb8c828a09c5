import { reject } from "../protocol/errors.ts";
import * as vu from "../protocol/numbers.ts";
import { decodeInflight, encodeInflight } from "../protocol/payloads.ts";
import type { PeerFiles } from "../memory/peer-file.ts";
import type { Register } from "./handlers.ts";
import { InflightRegion, type InflightQueue } from "./inflight.ts";

/** What the inflight region of a session needs of it. */
export interface SessionInflightHost {
  /** VIRTIO_F_RING_PACKED was negotiated. */
  readonly packed: boolean;
  /** No virtqueue runs. */
  suspended(): boolean;
  readonly files: PeerFiles;
}

/** "Inflight I/O tracking" of one session: the region that the front-end keeps for the next one. */
export class SessionInflight {
  readonly #host: SessionInflightHost;
  #region: InflightRegion | undefined;

  constructor(host: SessionInflightHost) {
    this.#host = host;
  }

  register(on: Register): void {
    on(vu.GET_INFLIGHT_FD, (body) => {
      const asked = decodeInflight(body);
      const { descriptor, description } = InflightRegion.allocate(
        asked.queues,
        asked.queueSize,
        this.#host.packed,
      );
      return { payload: encodeInflight(description).subarray(0, body.length), descriptors: [descriptor] };
    });
    on(vu.SET_INFLIGHT_FD, (body, luggage) => {
      const description = decodeInflight(body);
      const descriptor = luggage.one();
      try {
        if (!this.#host.suspended()) reject("inflight region while rings run");
        const region = InflightRegion.adopt(descriptor, description, this.#host.files);
        this.close();
        this.#region = region;
      } finally {
        descriptor.close();
      }
      return undefined;
    });
  }

  queue(index: number, size: number): InflightQueue | undefined {
    return this.#region?.queue(index, size, this.#host.packed);
  }

  /** No virtqueue notes anything any more. */
  close(): void {
    this.#region?.close();
    this.#region = undefined;
  }
}
