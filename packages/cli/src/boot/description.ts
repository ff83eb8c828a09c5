import type { FileCache } from "@virtio/node/block/file-block";
import type { NbdTarget } from "@virtio/node/nbd/uri";

/**
 * A machine as plain data: what the command line says, checked, with all references resolved. Nothing is opened yet.
 */
export interface MachineDescription {
  /** Bytes. */
  readonly memorySize: number;
  /** Absent: Debian's kernel, with the initial root file system of this project. */
  readonly kernel?: OwnKernel;
  /** What the user adds to our kernel command line; all of it with an own kernel that runs no command for us. */
  readonly append: string;
  /** In the order in which they are plugged in. */
  readonly devices: readonly DeviceDescription[];
  /** Virtio-mmio devices show the legacy interface. */
  readonly legacyMmio: boolean;
  /** Shared directories that the guest mounts. */
  readonly mounts: readonly MountDescription[];
  /** Tag of the directory that becomes the guest's root. */
  readonly root?: string;
}

export interface OwnKernel {
  readonly kernel: string;
  readonly initrd?: string;
}

export interface MountDescription {
  readonly tag: string;
  /** Where the guest mounts it. */
  readonly folder: string;
}

/** How a device is plugged in. */
export type Plug =
  | {
      readonly bus: "pci";
      readonly slot?: number;
      readonly mode: "modern" | "transitional" | "legacy";
      /** MSI-X vectors, or 0 for the INTx pin. */
      readonly vectors: number;
    }
  | { readonly bus: "mmio" };

/** Which features of the ring are offered. */
export interface RingDescription {
  readonly packed: boolean;
  readonly eventIdx: boolean;
  readonly indirect: boolean;
  readonly inOrder: boolean;
  readonly reset: boolean;
}

interface DeviceBase {
  /** QEMU's `id`, or one made from the kind. Unique. */
  readonly label: string;
  readonly plug: Plug;
  readonly ring: RingDescription;
  /** We plug it in of our own accord: logs are silent about it. */
  readonly unasked?: true;
}

/** A thread that serves devices. */
export interface IothreadDescription {
  readonly id: string;
  /** Nanoseconds. */
  readonly pollMaxNs: number;
}

export interface DiskDescription extends DeviceBase {
  readonly kind: "blk";
  readonly drive: DriveDescription;
  readonly iothread?: IothreadDescription;
  readonly serial?: string;
  readonly queues?: number;
  readonly queueSize?: number;
  readonly logicalBlockSize?: number;
  readonly physicalBlockSize?: number;
  /** Bytes. */
  readonly minimumIo?: number;
  /** Bytes. */
  readonly optimalIo?: number;
  readonly discard?: boolean;
  readonly writeZeroes?: boolean;
  readonly writeCache?: boolean;
  readonly configWce?: boolean;
}

export interface EntropyDescription extends DeviceBase {
  readonly kind: "entropy";
  /** The host's file to read, or undefined for the host's own source. */
  readonly file?: string;
}

export interface ConsoleDescription extends DeviceBase {
  readonly kind: "console";
  readonly maxPorts?: number;
  readonly ports: readonly PortDescription[];
}

export interface PortDescription {
  readonly number: number;
  readonly console: boolean;
  readonly name?: string;
  readonly chardev: CharacterDescription;
}

export interface NetDescription extends DeviceBase {
  readonly kind: "net";
  readonly netdev: NetdevDescription;
  /** Six bytes in hexadecimal with colons. */
  readonly mac: string;
  readonly queuePairs: number;
  readonly queueSize?: number;
  readonly mergeBuffers?: boolean;
  readonly controlQueue?: boolean;
  readonly mtu?: number;
  /** Mbit/s. */
  readonly speed?: number;
  readonly duplex?: "half" | "full";
}

export interface NinePDescription extends DeviceBase {
  readonly kind: "9p";
  readonly tag: string;
  readonly directory: DirectoryDescription;
}

export type DeviceDescription =
  DiskDescription | EntropyDescription | ConsoleDescription | NetDescription | NinePDescription;

export interface DriveDescription {
  /** The image; of an export the URI. */
  readonly file: string;
  /** Absent: a file. */
  readonly nbd?: NbdDescription;
  readonly readOnly: boolean;
  /** Writes go to memory and are lost at the end. */
  readonly snapshot: boolean;
  /** Bytes of memory that these writes may take; absent: 1 GiB. */
  readonly snapshotLimit?: number;
  readonly discard: boolean;
  readonly cache: FileCache;
  /** How a file's I/O is done that would wait for the disk; absent: the command chooses. */
  readonly aio?: "threads" | "io_uring";
  /** Reads copy out of a mapping of the file. */
  readonly mapped?: boolean;
  /** "raw" was said: images that look like another format are taken as they are. */
  readonly raw: boolean;
  readonly locking: boolean;
}

/** An export of an NBD server. */
export interface NbdDescription {
  readonly target: NbdTarget;
  /** Seconds. */
  readonly reconnectDelay?: number;
  /** Seconds. */
  readonly openTimeout?: number;
  /** Seconds of silence after which the server counts as lost. */
  readonly requestTimeout?: number;
  readonly connections?: number;
}

export interface DirectoryDescription {
  readonly path: string;
  readonly readOnly: boolean;
  readonly securityModel: "none" | "passthrough" | "mapped-xattr";
}

export type CharacterDescription =
  | { readonly kind: "stdio" }
  | { readonly kind: "null" }
  | { readonly kind: "ringbuf"; readonly size: number }
  | { readonly kind: "file"; readonly path: string; readonly append: boolean }
  | { readonly kind: "socket"; readonly address: SocketAddress; readonly server: boolean };

export type NetdevDescription =
  | {
      readonly kind: "stream";
      readonly address: SocketAddress;
      readonly server: boolean;
      readonly reconnectMilliseconds?: number;
    }
  | { readonly kind: "hub"; readonly hub: number };

export type SocketAddress =
  | { readonly type: "unix"; readonly path: string }
  | { readonly type: "inet"; readonly host: string; readonly port: number };

/** What `--log` asks for. */
export interface LogDescription {
  /** Every access to registers and configuration space too. */
  readonly registers: boolean;
  /** Nothing but what the driver does that it must not: hints and faults. */
  readonly onlyHints: boolean;
}

/** What is done with the machine. */
export interface SessionDescription {
  readonly run?: string;
  readonly save?: string;
  readonly restore?: string;
  readonly cache: boolean;
  readonly log?: LogDescription;
  readonly logFile?: string;
  readonly verbose: boolean;
}
