import { wholeOption, wholeOptions } from "../../check-option.ts";
import { Mailbox } from "../../driver/mailbox.ts";
import { DriverSession, type DriverOpenOptions, type FeatureNeeds } from "../../driver/session.ts";
import { TransmitBuffers } from "../../driver/transmit-buffers.ts";
import type { DriverTransport } from "../../driver/types.ts";
import type { CancelSignal } from "../../driver/virtqueue.ts";
import { readLe16, readLe32 } from "../../memory/bytes.ts";
import { VIRTIO_F_VERSION_1, featureBits } from "../../spec/core.ts";
import { VIRTIO_ID_NET } from "../../spec/ids.ts";
import { VIRTQ_MAX_SIZE } from "../../spec/virtqueue.ts";
import {
  VIRTIO_NET_CONFIG,
  VIRTIO_NET_F_CTRL_MAC_ADDR,
  VIRTIO_NET_F_CTRL_RX,
  VIRTIO_NET_F_CTRL_RX_EXTRA,
  VIRTIO_NET_F_CTRL_VLAN,
  VIRTIO_NET_F_CTRL_VQ,
  VIRTIO_NET_F_GUEST_ANNOUNCE,
  VIRTIO_NET_F_MAC,
  VIRTIO_NET_F_MQ,
  VIRTIO_NET_F_MRG_RXBUF,
  VIRTIO_NET_F_MTU,
  VIRTIO_NET_F_SPEED_DUPLEX,
  VIRTIO_NET_F_STATUS,
  VIRTIO_NET_S_ANNOUNCE,
  VIRTIO_NET_S_LINK_UP,
} from "../../spec/net.ts";
import { NetControl } from "./control.ts";
import { FrameReceiver } from "./receiver.ts";

/** What this driver can use: no offloads. */
export const NET_DRIVER_FEATURES: bigint = featureBits(
  VIRTIO_NET_F_MTU,
  VIRTIO_NET_F_MAC,
  VIRTIO_NET_F_MRG_RXBUF,
  VIRTIO_NET_F_STATUS,
  VIRTIO_NET_F_CTRL_VQ,
  VIRTIO_NET_F_CTRL_RX,
  VIRTIO_NET_F_CTRL_VLAN,
  VIRTIO_NET_F_CTRL_RX_EXTRA,
  VIRTIO_NET_F_GUEST_ANNOUNCE,
  VIRTIO_NET_F_MQ,
  VIRTIO_NET_F_CTRL_MAC_ADDR,
  VIRTIO_NET_F_SPEED_DUPLEX,
);

const DEPENDENCIES: readonly FeatureNeeds[] = [
  ...[
    VIRTIO_NET_F_CTRL_RX,
    VIRTIO_NET_F_CTRL_RX_EXTRA,
    VIRTIO_NET_F_CTRL_VLAN,
    VIRTIO_NET_F_GUEST_ANNOUNCE,
    VIRTIO_NET_F_MQ,
    VIRTIO_NET_F_CTRL_MAC_ADDR,
  ].map((feature) => ({ feature, needs: [[VIRTIO_NET_F_CTRL_VQ]] })),
  // Without the status field nobody would see that an announcement is asked for.
  { feature: VIRTIO_NET_F_GUEST_ANNOUNCE, needs: [[VIRTIO_NET_F_STATUS]] },
];

const TYPE = { id: VIRTIO_ID_NET, name: "network device" };
const ETHERNET_HEADER_BYTES = 14;
const VLAN_TAG_BYTES = 4;
/** Without VIRTIO_NET_F_MTU. */
const DEFAULT_MTU = 1500;
/** Pairs that the driver makes queues for. */
const MAX_DRIVER_PAIRS = 16;
const QUEUE_SIZE = 256;
/** The smallest receive buffer holds the header, the largest more than any frame. */
const RANGES = {
  receiveCount: [1, VIRTQ_MAX_SIZE],
  receiveSize: [12, 2 ** 20],
  maxWaiting: [1, Number.MAX_SAFE_INTEGER],
} as const;

export interface NetDriverOptions extends DriverOpenOptions {
  /** Features not to use. */
  readonly without?: bigint;
  /** Receive buffers a queue, 1 to 32768, and not more than the queue has room for. Default 64. */
  readonly receiveCount?: number;
  /** Bytes of one, 12 to 1 MiB; default: what the longest frame takes, or 2048 when buffers can be merged. */
  readonly receiveSize?: number;
  /** Frames that wait for a reader before the device gets no more buffers, 1 or more. Default 256. */
  readonly maxWaiting?: number;
}

/** Driver of a network device ("Network Device"), without offloads. Frames are whole Ethernet frames without FCS. */
export class NetDriver implements AsyncIterable<Uint8Array> {
  readonly session: DriverSession;
  /** The device's address, or a random local one when it has none. */
  readonly mac: Uint8Array;
  readonly control: NetControl;
  /** Largest payload of a frame. */
  readonly mtu: number;
  /** Pairs of queues that can be used; `setPairs` says how many are. */
  readonly maxPairs: number;
  /** Called when `linkUp`, `speed` or `fullDuplex` may have changed. */
  onChange: (() => void) | undefined;
  /** Called when the device asks for gratuitous packets: send them here. It is told so afterwards. */
  onAnnounce: (() => void | Promise<void>) | undefined;
  readonly #header: Uint8Array;
  readonly #frames = new Mailbox<Uint8Array>();
  readonly #receivers: FrameReceiver[] = [];
  readonly #transmitters: TransmitBuffers[] = [];
  #pairs = 1;
  #acknowledging = false;

  private constructor(session: DriverSession, options: NetDriverOptions) {
    this.session = session;
    session.onConfigChange = () => this.#configChanged();
    session.onFailure = (error) => this.#failed(error);
    this.mac = session.has(VIRTIO_NET_F_MAC) ? session.readConfig(VIRTIO_NET_CONFIG.mac, 6) : localMac();
    this.mtu = session.has(VIRTIO_NET_F_MTU)
      ? readLe16(session.readConfig(VIRTIO_NET_CONFIG.mtu, 2), 0)
      : DEFAULT_MTU;
    const pairs = session.has(VIRTIO_NET_F_MQ)
      ? Math.max(1, readLe16(session.readConfig(VIRTIO_NET_CONFIG.max_virtqueue_pairs, 2), 0))
      : 1;
    this.maxPairs = Math.min(pairs, MAX_DRIVER_PAIRS);
    const mergeable = session.has(VIRTIO_NET_F_MRG_RXBUF);
    this.#header = new Uint8Array(mergeable || session.has(VIRTIO_F_VERSION_1) ? 12 : 10);
    for (let pair = 0; pair < this.maxPairs; pair++) this.#addPair(pair, options);
    const control = session.has(VIRTIO_NET_F_CTRL_VQ) ? session.addQueue(2 * pairs, 64) : undefined;
    this.control = new NetControl(session, control);
  }

  /** Takes the device over. Throws when it is not a network device, or refuses. */
  static open(transport: DriverTransport, options: NetDriverOptions = {}): Promise<NetDriver> {
    const { ring, signal, without } = options;
    return DriverSession.start(
      transport,
      {
        type: TYPE,
        wanted: NET_DRIVER_FEATURES,
        without,
        dependencies: DEPENDENCIES,
        ring,
        signal,
        check: () => wholeOptions("net", options, RANGES),
      },
      (session) => {
        const driver = new NetDriver(session, options);
        for (const receiver of driver.#receivers) receiver.kick();
        session.ready();
        driver.#configChanged();
        return driver;
      },
    );
  }

  /** "If the driver does not negotiate the VIRTIO_NET_F_STATUS feature, it SHOULD assume the link is active." */
  get linkUp(): boolean {
    return (this.#status & VIRTIO_NET_S_LINK_UP) !== 0;
  }

  /** MBit a second; undefined: unknown. */
  get speed(): number | undefined {
    if (!this.session.has(VIRTIO_NET_F_SPEED_DUPLEX)) return undefined;
    const speed = readLe32(this.session.readConfig(VIRTIO_NET_CONFIG.speed, 4), 0);
    return speed > 0x7fff_ffff ? undefined : speed;
  }

  /** Undefined: unknown. 1 is taken for full, as the field's description has it. */
  get fullDuplex(): boolean | undefined {
    if (!this.session.has(VIRTIO_NET_F_SPEED_DUPLEX)) return undefined;
    const duplex = this.session.readConfig(VIRTIO_NET_CONFIG.duplex, 1)[0] ?? 0xff;
    return duplex > 1 ? undefined : duplex === 1;
  }

  /** Pairs of queues in use. */
  get pairs(): number {
    return this.#pairs;
  }

  /**
   * Sends a frame on one of the pairs in use. Resolves when the device has taken it; the frame must not change until
   * then. Rejects with a RangeError when it is longer than the MTU allows.
   */
  send(frame: Uint8Array, pair = 0): Promise<void> {
    const transmitter = pair < this.#pairs ? this.#transmitters[pair] : undefined;
    if (transmitter === undefined) return Promise.reject(new RangeError(`queue pair ${pair} is not in use`));
    if (frame.length > this.mtu + ETHERNET_HEADER_BYTES + (isTagged(frame) ? VLAN_TAG_BYTES : 0))
      return Promise.reject(new RangeError(`a frame of ${frame.length} bytes is longer than the MTU allows`));
    // "The driver MUST set num_buffers to zero", and without offloads all else is zero too.
    return transmitter.send([this.#header, frame]);
  }

  /** The next frame, or undefined when the driver was closed. */
  async receive(): Promise<Uint8Array | undefined> {
    const frame = await this.#frames.take();
    for (const receiver of this.#receivers) receiver.replenish();
    return frame;
  }

  /** Frames as they come, until the driver is closed. */
  async *[Symbol.asyncIterator](): AsyncIterator<Uint8Array> {
    for (let frame = await this.receive(); frame !== undefined; frame = await this.receive()) yield frame;
  }

  /** Changes the address that the device filters by. */
  async setMac(mac: Uint8Array): Promise<void> {
    await this.control.setMac(mac);
    this.mac.set(mac);
  }

  /** Uses this many pairs of queues ("Automatic receive steering in multiqueue mode"). */
  async setPairs(pairs: number): Promise<void> {
    wholeOption("net: pairs", pairs, 1, this.maxPairs);
    // Transmit queues that go are not used from here on, those that come not before the device has said yes.
    const before = this.#pairs;
    this.#pairs = Math.min(before, pairs);
    try {
      await this.control.setPairs(pairs);
      this.#pairs = pairs;
    } catch (error) {
      this.#pairs = before;
      throw error;
    }
  }

  /** Resets the device; readers see the end, sends under way fail. */
  async close(signal?: CancelSignal): Promise<void> {
    this.#frames.end();
    const closed = this.session.close(signal);
    for (const transmitter of this.#transmitters)
      transmitter.fail(new Error("the network driver was closed"));
    await closed;
  }

  get #status(): number {
    if (!this.session.has(VIRTIO_NET_F_STATUS)) return VIRTIO_NET_S_LINK_UP;
    return readLe16(this.session.readConfig(VIRTIO_NET_CONFIG.status, 2), 0);
  }

  #addPair(pair: number, options: NetDriverOptions): void {
    const { session } = this;
    const { memory } = session;
    const mergeable = session.has(VIRTIO_NET_F_MRG_RXBUF);
    const longest = this.#header.length + ETHERNET_HEADER_BYTES + VLAN_TAG_BYTES + this.mtu;
    const size = options.receiveSize ?? (mergeable ? 2048 : Math.max(longest, 1526));
    // "[…] it MUST supply enough receive buffers to receive at least one receive packet of size mtu."
    const count = Math.max(options.receiveCount ?? 64, mergeable ? Math.ceil(longest / size) : 1);
    const receive = session.addQueue(2 * pair, QUEUE_SIZE);
    const transmit = session.addQueue(2 * pair + 1, QUEUE_SIZE);
    const layout = {
      count,
      size,
      headerBytes: this.#header.length,
      mergeable,
      maxWaiting: options.maxWaiting ?? 256,
    };
    this.#receivers.push(
      new FrameReceiver(receive, memory, this.#frames, layout, (error) => session.fail(error)),
    );
    this.#transmitters.push(new TransmitBuffers(transmit, memory, 32, longest));
  }

  #configChanged(): void {
    this.onChange?.();
    if (!this.session.has(VIRTIO_NET_F_GUEST_ANNOUNCE) || this.#acknowledging) return;
    if ((this.#status & VIRTIO_NET_S_ANNOUNCE) === 0) return;
    this.#acknowledging = true;
    void this.#announce().finally(() => (this.#acknowledging = false));
  }

  async #announce(): Promise<void> {
    try {
      await this.onAnnounce?.();
      await this.control.acknowledgeAnnounce();
    } catch {
      // The device is gone, or the handler failed: it is asked again at the next change.
    }
  }

  #failed(error: Error): void {
    this.#frames.fail(error);
    for (const transmitter of this.#transmitters) transmitter.fail(error);
  }
}

function isTagged(frame: Uint8Array): boolean {
  return frame[12] === 0x81 && frame[13] === 0;
}

/** "[…] it SHOULD use a locally-administered MAC address." */
function localMac(): Uint8Array {
  const mac = Uint8Array.from({ length: 6 }, () => Math.floor(Math.random() * 256));
  mac[0] = ((mac[0] ?? 0) & 0xfc) | 2;
  return mac;
}
