import type { PropertySpec } from "./values.ts";

/** What a `-device` is, apart from how it is plugged in. */
export type DeviceKind = "blk" | "entropy" | "console" | "net" | "9p" | "virtconsole" | "virtserialport";

/** How a `-device` is plugged in: a PCI function, virtio-mmio, or into the bus of a virtio-serial device. */
export type Attachment = "pci" | "pci-transitional" | "pci-non-transitional" | "mmio" | "port";

/** A name that `-device` knows. */
export interface DeviceType {
  readonly name: string;
  readonly kind: DeviceKind;
  readonly attachment: Attachment;
  readonly help: string;
  readonly properties: readonly PropertySpec[];
}

const id: PropertySpec = { name: "id", kind: "string", help: "names the device" };

const ring: readonly PropertySpec[] = [
  { name: "packed", kind: "switch", help: "offer VIRTIO_F_RING_PACKED (default off)" },
  { name: "event_idx", kind: "switch", help: "offer VIRTIO_F_EVENT_IDX (default on)" },
  { name: "indirect_desc", kind: "switch", help: "offer VIRTIO_F_INDIRECT_DESC (default on)" },
  { name: "in_order", kind: "switch", help: "offer VIRTIO_F_IN_ORDER (default off)" },
  { name: "queue_reset", kind: "switch", help: "offer VIRTIO_F_RING_RESET (default on)" },
];

const pci: readonly PropertySpec[] = [
  { name: "addr", kind: "string", help: "PCI slot, 08 to 1c in hexadecimal (default: the next free one)" },
  { name: "bus", kind: "string", help: "pci.0" },
  {
    name: "vectors",
    kind: "number",
    help: "interrupts by MSI-X when not 0 (default 0: INTx, which is quicker here)",
  },
  { name: "bootindex", kind: "number", help: "there is no firmware to read it", ignored: true },
  { name: "romfile", kind: "string", help: "there is no firmware to run it", ignored: true },
];

const mode: readonly PropertySpec[] = [
  { name: "disable-legacy", kind: "switch", help: "on: modern only (default off: transitional)" },
  { name: "disable-modern", kind: "switch", help: "on: legacy only" },
];

const own: Readonly<Record<DeviceKind, { help: string; properties: readonly PropertySpec[] }>> = {
  blk: {
    help: "a disk",
    properties: [
      { name: "drive", kind: "string", help: "id of a -drive, or node-name of a -blockdev" },
      { name: "serial", kind: "string", help: "what VIRTIO_BLK_T_GET_ID says, up to 20 bytes" },
      { name: "num-queues", kind: "number", help: "request queues (default 1)" },
      { name: "queue-size", kind: "number", help: "size of each queue (default 256)" },
      { name: "logical_block_size", kind: "size", help: "a power of two from 512 on" },
      { name: "physical_block_size", kind: "size", help: "a power of two from 512 on" },
      { name: "min_io_size", kind: "size", help: "smallest I/O without a loss of speed" },
      { name: "opt_io_size", kind: "size", help: "best I/O for speed" },
      { name: "discard", kind: "switch", help: "offer VIRTIO_BLK_F_DISCARD (default: when the image can)" },
      { name: "write-zeroes", kind: "switch", help: "offer VIRTIO_BLK_F_WRITE_ZEROES (default on)" },
      { name: "write-cache", kind: "switch", help: "start with write-back (default on)" },
      {
        name: "iothread",
        kind: "string",
        help: "id of an -object iothread: the thread of virtio serve that serves it",
      },
      { name: "config-wce", kind: "switch", help: "offer VIRTIO_BLK_F_CONFIG_WCE (default on)" },
    ],
  },
  entropy: {
    help: "entropy for /dev/hwrng",
    properties: [
      { name: "rng", kind: "string", help: "id of an -object rng-…" },
      { name: "max-bytes", kind: "size", help: "no limit is kept", ignored: true },
      { name: "period", kind: "number", help: "no limit is kept", ignored: true },
    ],
  },
  console: {
    help: "a bus for virtconsole and virtserialport",
    properties: [{ name: "max_ports", kind: "number", help: "how many ports there can be (default 31)" }],
  },
  net: {
    help: "a network device",
    properties: [
      { name: "netdev", kind: "string", help: "id of a -netdev" },
      { name: "mac", kind: "mac", help: "its address (default 52:54:00:12:34:56 and on)" },
      { name: "mq", kind: "switch", help: "offer VIRTIO_NET_F_MQ (default off)" },
      { name: "queues", kind: "number", help: "queue pairs with mq=on (default 2)" },
      { name: "queue-size", kind: "number", help: "size of the receive and transmit queues (default 256)" },
      { name: "mrg_rxbuf", kind: "switch", help: "offer VIRTIO_NET_F_MRG_RXBUF (default on)" },
      { name: "ctrl_vq", kind: "switch", help: "offer VIRTIO_NET_F_CTRL_VQ (default on)" },
      { name: "host_mtu", kind: "number", help: "offer VIRTIO_NET_F_MTU with this value" },
      { name: "speed", kind: "number", help: "Mbit/s to show" },
      { name: "duplex", kind: ["half", "full"], help: "what to show" },
    ],
  },
  "9p": {
    help: "a shared directory",
    properties: [
      { name: "fsdev", kind: "string", help: "id of an -fsdev" },
      { name: "mount_tag", kind: "string", help: "the name the guest mounts" },
    ],
  },
  virtconsole: {
    help: "a console port (/dev/hvc0 …)",
    properties: [
      { name: "chardev", kind: "string", help: "id of a -chardev" },
      { name: "name", kind: "string", help: "name of the port" },
      { name: "nr", kind: "number", help: "number of the port" },
      { name: "bus", kind: "string", help: "ID.0 of a virtio-serial device (default: the latest)" },
    ],
  },
  virtserialport: {
    help: "a generic port (/dev/vportNpM)",
    properties: [
      { name: "chardev", kind: "string", help: "id of a -chardev" },
      { name: "name", kind: "string", help: "name of the port" },
      { name: "nr", kind: "number", help: "number of the port" },
      { name: "bus", kind: "string", help: "ID.0 of a virtio-serial device (default: the latest)" },
    ],
  },
};

const busForms: readonly (readonly [string, Attachment, string])[] = [
  ["pci", "pci", "PCI"],
  ["pci-transitional", "pci-transitional", "PCI, transitional"],
  ["pci-non-transitional", "pci-non-transitional", "PCI, modern only"],
  ["device", "mmio", "MMIO"],
];

const families: readonly (readonly [string, DeviceKind])[] = [
  ["virtio-blk", "blk"],
  ["virtio-rng", "entropy"],
  ["virtio-serial", "console"],
  ["virtio-net", "net"],
  ["virtio-9p", "9p"],
];

/** Every device of `-device`; parser, help and error texts are made from this. */
export const deviceTypes: readonly DeviceType[] = [
  ...families.flatMap(([family, kind]) =>
    busForms.map(([suffix, attachment, words]): DeviceType => {
      const bus = attachment === "mmio" ? [] : attachment === "pci" ? [...pci, ...mode] : pci;
      const properties = [id, ...own[kind].properties, ...ring, ...bus];
      return {
        name: `${family}-${suffix}`,
        kind,
        attachment,
        help: `${own[kind].help} (${words})`,
        properties,
      };
    }),
  ),
  ...(["virtconsole", "virtserialport"] as const).map((kind): DeviceType => ({
    name: kind,
    kind,
    attachment: "port",
    help: own[kind].help,
    properties: [id, ...own[kind].properties],
  })),
];
