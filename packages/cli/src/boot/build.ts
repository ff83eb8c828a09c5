import { closeSync, openSync, readSync } from "node:fs";

import type { FileEngine } from "@virtio/node/block/file-engine";
import type { EmbeddedMachine } from "@virtio/v86/machine";
import type { BlockBackend } from "virtio/backends/block";
import type { CharacterBackend } from "virtio/backends/character";
import type { EntropySource } from "virtio/backends/entropy";
import type { FileSystem } from "virtio/backends/file-system";
import type { NetBackend } from "virtio/backends/net";
import type { NetHub } from "virtio/backends/net-hub";
import type { VirtioDevice } from "virtio/device/device";
import { DEFAULT_CORE_FEATURES } from "virtio/device/features";
import { VIRTIO_BLK_ID_BYTES } from "virtio/spec/blk";
import {
  VIRTIO_F_EVENT_IDX,
  VIRTIO_F_IN_ORDER,
  VIRTIO_F_INDIRECT_DESC,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_RING_RESET,
  featureBits,
} from "virtio/spec/core";
import { VIRTIO_NET_F_CTRL_VQ, VIRTIO_NET_F_MRG_RXBUF } from "virtio/spec/net";

import { optional } from "../optional.ts";
import { messageOf, sparingly, UserError } from "../user-error.ts";
import type {
  CharacterDescription,
  DeviceDescription,
  DirectoryDescription,
  DriveDescription,
  NbdDescription,
  NetDescription,
  NetdevDescription,
  RingDescription,
  SocketAddress,
} from "./description.ts";

/** What the session gives to the devices. */
export interface Surroundings {
  /** The host end of `-chardev stdio`. */
  readonly terminal: CharacterBackend;
  /** What does the I/O of files that would wait for the disk; absent: they wait. */
  fileEngine?(aio: DriveDescription["aio"]): Promise<FileEngine>;
  /** Something that happens later and does not end the session: an I/O error, a refused connection. */
  warn(message: string): void;
}

/** Bytes of memory that the changes to one disk may take with `snapshot=on`. */
const SNAPSHOT_LIMIT = 2 ** 30;

/** A device that is made but not plugged in. */
export interface BuiltDevice {
  readonly description: DeviceDescription;
  readonly device: VirtioDevice;
}

/** The devices of a machine with what they stand on. Device types that are not used are not loaded. */
export class DeviceBuilder {
  readonly #surroundings: Surroundings;
  readonly #hubs = new Map<number, NetHub>();
  readonly #closers: (() => unknown)[] = [];

  constructor(surroundings: Surroundings) {
    this.#surroundings = surroundings;
  }

  /** Opens everything a device stands on. A failure is a UserError that names the device. */
  async build(description: DeviceDescription): Promise<BuiltDevice> {
    try {
      return { description, device: await this.#device(description) };
    } catch (error) {
      throw new UserError(`${description.label}: ${messageOf(error)}`);
    }
  }

  /** Closes all backends; of one that cannot be closed well it only warns. */
  async close(): Promise<void> {
    for (const close of this.#closers.splice(0).reverse()) {
      try {
        await close();
      } catch (error) {
        this.#surroundings.warn(messageOf(error));
      }
    }
  }

  /** As much of it as a driver can be told (VIRTIO_BLK_T_GET_ID), as QEMU does. */
  #serial({ label, serial }: { readonly label: string; readonly serial?: string }): string | undefined {
    if (serial === undefined || serial.length <= VIRTIO_BLK_ID_BYTES) return serial;
    const cut = serial.slice(0, VIRTIO_BLK_ID_BYTES);
    this.#surroundings.warn(`${label}: a serial has ${VIRTIO_BLK_ID_BYTES} characters at most: "${cut}"`);
    return cut;
  }

  async #device(description: DeviceDescription): Promise<VirtioDevice> {
    switch (description.kind) {
      case "blk": {
        const { BlkDevice } = await import("virtio/devices/blk/device");
        return new BlkDevice(await this.#disk(description.drive, description.label), {
          onError: sparingly((message) => this.#surroundings.warn(`${description.label}: ${message}`)),
          ...optional("serial", this.#serial(description)),
          ...optional("numQueues", description.queues),
          ...optional("queueSize", description.queueSize),
          ...optional("logicalBlockSize", description.logicalBlockSize),
          ...optional("physicalBlockSize", description.physicalBlockSize),
          ...optional("minIoSize", description.minimumIo),
          ...optional("optIoSize", description.optimalIo),
          ...optional("discard", description.discard),
          ...optional("writeZeroes", description.writeZeroes),
          ...optional("writeCache", description.writeCache),
          ...optional("configWce", description.configWce),
        });
      }
      case "entropy": {
        const { entropyDevice } = await import("virtio/devices/entropy/device");
        return entropyDevice(await this.#entropy(description.file));
      }
      case "console": {
        const { ConsoleDevice } = await import("virtio/devices/console/device");
        const ports = [];
        for (const port of description.ports) {
          const kind: "console" | "serial" = port.console ? "console" : "serial";
          const backend = await this.#character(port.chardev, description.label);
          ports.push({ kind, backend, nr: port.number, ...optional("name", port.name) });
        }
        const maxPorts = description.maxPorts ?? 31;
        return new ConsoleDevice({ ports, maxPorts });
      }
      case "net": {
        const { NetDevice } = await import("virtio/devices/net/device");
        const { parseMac } = await import("virtio/devices/net/mac");
        return new NetDevice({
          backend: await this.#net(description.netdev, description.label),
          mac: parseMac(description.mac),
          queuePairs: description.queuePairs,
          without: withoutFeatures(description),
          ...optional("queueSize", description.queueSize),
          ...optional("mtu", description.mtu),
          ...optional("speed", description.speed),
          ...optional("duplex", description.duplex),
        });
      }
      case "9p": {
        const { ninePDevice } = await import("virtio/devices/9p/device");
        return ninePDevice({
          tag: description.tag,
          fileSystem: await this.#directory(description.directory),
        });
      }
    }
  }

  async #disk(drive: DriveDescription, label: string): Promise<BlockBackend> {
    const disk = drive.nbd === undefined ? await this.#file(drive) : await this.#nbd(drive, drive.nbd, label);
    if (!drive.snapshot || drive.readOnly) return disk;
    const { OverlayBlockBackend } = await import("virtio/backends/overlay-block");
    const { MemoryBudget } = await import("virtio/backends/memory-budget");
    const limit = drive.snapshotLimit ?? SNAPSHOT_LIMIT;
    return new OverlayBlockBackend(disk, undefined, new MemoryBudget(limit, "changes (--snapshot-limit)"));
  }

  async #nbd(drive: DriveDescription, nbd: NbdDescription, label: string): Promise<BlockBackend> {
    const { openNbd } = await import("./nbd-disk.ts");
    const disk = await openNbd(drive, nbd, (message) => this.#surroundings.warn(`${label}: ${message}`));
    this.#closers.push(() => disk.close());
    return disk;
  }

  async #file(drive: DriveDescription): Promise<BlockBackend> {
    const { FileBlockBackend } = await import("@virtio/node/block/file-block");
    const engine = await this.#surroundings.fileEngine?.(drive.aio);
    const file = new FileBlockBackend(drive.file, {
      readOnly: drive.readOnly || drive.snapshot,
      discard: drive.discard,
      cache: drive.cache,
      locking: drive.locking,
      ...optional("engine", engine),
      ...optional("mapped", drive.mapped),
      ...(drive.raw ? { format: "raw" } : {}),
    });
    this.#closers.push(() => file.close());
    return file;
  }

  async #entropy(path: string | undefined): Promise<EntropySource> {
    if (path === undefined || path === "/dev/random" || path === "/dev/urandom") {
      const { hostEntropy } = await import("@virtio/node/entropy");
      return hostEntropy;
    }
    const fd = openSync(path, "r");
    this.#closers.push(() => closeSync(fd));
    return (target) => {
      for (let filled = 0; filled < target.length;) {
        const count = readSync(fd, target, filled, target.length - filled, null);
        if (count === 0) throw new Error(`${path} is at its end`);
        filled += count;
      }
    };
  }

  async #character(chardev: CharacterDescription, label: string): Promise<CharacterBackend> {
    switch (chardev.kind) {
      case "stdio":
        return this.#surroundings.terminal;
      case "null":
        return new (await import("virtio/backends/null-character")).NullCharacterBackend();
      case "ringbuf":
        return new (await import("virtio/backends/ring-character")).RingCharacterBackend(chardev.size);
      case "file": {
        const { FileCharacterBackend } = await import("@virtio/node/character/file");
        const file = new FileCharacterBackend(chardev.path, chardev.append);
        this.#closers.push(() => file.close());
        return file;
      }
      case "socket": {
        const { SocketCharacterBackend } = await import("@virtio/node/character/socket");
        const socket = await SocketCharacterBackend.open({
          address: socketAddress(chardev.address),
          server: chardev.server,
          onError: (error) => this.#surroundings.warn(`${label}: ${messageOf(error)}`),
        });
        this.#closers.push(() => socket.close());
        return socket;
      }
    }
  }

  async #net(netdev: NetdevDescription, label: string): Promise<NetBackend> {
    if (netdev.kind === "hub") {
      const hub = this.#hubs.get(netdev.hub) ?? new (await import("virtio/backends/net-hub")).NetHub();
      this.#hubs.set(netdev.hub, hub);
      return hub.port();
    }
    const { StreamNetBackend } = await import("@virtio/node/net/stream");
    const stream = await StreamNetBackend.open({
      address: socketAddress(netdev.address),
      server: netdev.server,
      onError: (error) => this.#surroundings.warn(`${label}: ${messageOf(error)}`),
      ...optional("reconnectMs", netdev.reconnectMilliseconds),
    });
    this.#closers.push(() => stream.close());
    return stream;
  }

  async #directory(directory: DirectoryDescription): Promise<FileSystem> {
    const { HostDirectory } = await import("@virtio/node/directory/host-directory");
    const opened = new HostDirectory(directory.path, {
      readOnly: directory.readOnly,
      securityModel: directory.securityModel,
    });
    this.#closers.push(() => opened.shutdown());
    return opened;
  }
}

/** Plugs a device in where its description says. */
export function plugDevice(machine: EmbeddedMachine, built: BuiltDevice, legacyMmio: boolean): void {
  const { description, device } = built;
  const { label, plug } = description;
  const features = ringFeatures(description.ring);
  const observed = description.unasked !== true;
  try {
    if (plug.bus === "mmio")
      machine.plugMmio(device, { label, features, observed, version: legacyMmio ? 1 : 2 });
    else {
      machine.plugPci(device, {
        label,
        features,
        observed,
        mode: plug.mode,
        ...optional("slot", plug.slot),
        ...(plug.vectors > 0 ? { vectors: plug.vectors } : {}),
      });
    }
  } catch (error) {
    // The machine says what does not fit; anything else is a bug of ours.
    if (error instanceof RangeError) throw new UserError(error.message);
    throw error;
  }
}

function withoutFeatures(net: NetDescription): bigint {
  const off = [];
  if (net.mergeBuffers === false) off.push(VIRTIO_NET_F_MRG_RXBUF);
  if (net.controlQueue === false) off.push(VIRTIO_NET_F_CTRL_VQ);
  return featureBits(...off);
}

/** Ring features to offer, before the transport takes away what it cannot carry. */
export function ringFeatures(ring: RingDescription): bigint {
  let features = DEFAULT_CORE_FEATURES;
  const offer = (bit: number, on: boolean): void => {
    features = on ? features | (1n << BigInt(bit)) : features & ~(1n << BigInt(bit));
  };
  offer(VIRTIO_F_RING_PACKED, ring.packed);
  offer(VIRTIO_F_EVENT_IDX, ring.eventIdx);
  offer(VIRTIO_F_INDIRECT_DESC, ring.indirect);
  offer(VIRTIO_F_IN_ORDER, ring.inOrder);
  offer(VIRTIO_F_RING_RESET, ring.reset);
  return features;
}

function socketAddress(address: SocketAddress): { path: string } | { host: string; port: number } {
  return address.type === "unix" ? { path: address.path } : { host: address.host, port: address.port };
}
