import { loadRegisters, loadStructs } from "@virtio/testkit/oracles";
import type { AccessSize } from "virtio/bus/types";
import type { BusAccess, BusSpace, PciAddress, PciConfigAccess, PciPlatform } from "virtio/driver/platform";

/** One register access of a driver. */
export interface Access {
  readonly kind: "read" | "write";
  readonly space: BusSpace | "config";
  readonly address: number;
  readonly size: AccessSize;
  readonly value: number;
}

/** A platform that writes down every access, and may answer in the device's place. */
export class WatchedPlatform {
  readonly log: Access[] = [];
  readonly platform: PciPlatform;
  /** Changes what a read gives. */
  lie: ((access: Access) => number | undefined) | undefined;

  constructor(inner: PciPlatform) {
    const bus: BusAccess = {
      read: (space, address, size) =>
        this.#seen({ kind: "read", space, address, size, value: inner.bus.read(space, address, size) }),
      write: (space, address, size, value) => {
        this.#seen({ kind: "write", space, address, size, value });
        inner.bus.write(space, address, size, value);
      },
    };
    const where = (at: PciAddress, offset: number): number => at.device * 256 + offset;
    const pci: PciConfigAccess = {
      readConfig: (at, offset, size) =>
        this.#seen({
          kind: "read",
          space: "config",
          address: where(at, offset),
          size,
          value: inner.pci.readConfig(at, offset, size),
        }),
      writeConfig: (at, offset, size, value) => {
        this.#seen({ kind: "write", space: "config", address: where(at, offset), size, value });
        inner.pci.writeConfig(at, offset, size, value);
      },
    };
    this.platform = { ...inner, bus, pci };
  }

  /** Accesses inside a range of an address space, with addresses relative to it. */
  within(space: Access["space"], base: number, length: number): Access[] {
    return this.log
      .filter((access) => access.space === space && access.address >= base && access.address < base + length)
      .map((access) => ({ ...access, address: access.address - base }));
  }

  #seen(access: Access): number {
    const value = this.lie?.(access) ?? access.value;
    this.log.push({ ...access, value });
    return value;
  }
}

const DRIVER_READ_ONLY = new Set([
  "device_feature",
  "num_queues",
  "config_generation",
  "queue_notify_off",
  "queue_notif_config_data",
  "admin_queue_index",
  "admin_queue_num",
]);

/** What a driver did to the common configuration against "Common configuration structure layout", in words. */
export function commonConfigViolations(log: readonly Access[]): string[] {
  const fields = loadStructs()["virtio_pci_common_cfg"]?.fields ?? [];
  const violations: string[] = [];
  const configured = new Map<number, Set<string>>();
  let selected = 0;
  let resetting = false;
  for (const { kind, address, size, value } of log) {
    const field = fields.findLast(({ off }) => (off ?? 0) <= address);
    const name = field?.name ?? "?";
    const width = field?.type === "u8" ? 1 : field?.type === "le16" ? 2 : 4;
    const start = field?.off ?? 0;
    const aligned = address === start || (field?.type === "le64" && address === start + 4);
    if (size !== width || !aligned) violations.push(`${kind} of ${size} bytes at ${address} (${name})`);
    if (name === "device_status") {
      if (kind === "read" && value === 0) resetting = false;
      if (kind === "write" && value !== 0 && resetting) violations.push("not waited for the reset");
      if (kind === "write" && value === 0) resetting = true;
      if (kind === "write" && value === 0) configured.clear();
    }
    if (kind === "read") continue;
    if (DRIVER_READ_ONLY.has(name)) violations.push(`write to ${name}`);
    if (name === "queue_select") selected = value;
    const done = configured.get(selected) ?? new Set();
    configured.set(selected, done.add(`${name}${address - start}`));
    if (name === "queue_enable") {
      if (value !== 1) violations.push(`queue_enable ${value}`);
      const areas = ["queue_desc", "queue_driver", "queue_device"].flatMap((area) => [
        `${area}0`,
        `${area}4`,
      ]);
      const missing = ["queue_size0", ...areas].filter((need) => !done.has(need));
      if (missing.length > 0) violations.push(`queue_enable before ${missing.join(", ")}`);
    } else if (name.startsWith("queue_") && name !== "queue_select" && name !== "queue_reset") {
      if (done.has("queue_enable0")) violations.push(`${name} written to an enabled virtqueue`);
    }
    if (name === "queue_reset") configured.delete(selected);
  }
  return violations;
}

/** What a driver did to MMIO registers against "MMIO Device Register Layout", in words. */
export function mmioViolations(log: readonly Access[], legacy: boolean): string[] {
  const table = Object.entries(legacy ? loadRegisters().mmioLegacy : loadRegisters().mmio);
  const violations: string[] = [];
  let selectedDevice = false;
  let selectedDriver = false;
  for (const { kind, address, size, value } of log) {
    if (address >= 0x100) continue;
    const [name, register] = table.find(([, { offset }]) => offset === address) ?? ["a hole", undefined];
    if (register === undefined) violations.push(`${kind} of ${address}`);
    if (size !== 4) violations.push(`${kind} of ${size} bytes at ${name}`);
    if (kind === "read" && register?.access === "W") violations.push(`read of ${name}`);
    if (kind === "write" && register?.access === "R") violations.push(`write to ${name}`);
    if (/Features?Sel$/.test(name) && kind === "write") {
      if (/Device|Host/.test(name)) selectedDevice = true;
      else selectedDriver = true;
    }
    if (/^(Device|Host)Features$/.test(name) && !selectedDevice)
      violations.push(`${name} before its selector`);
    if (/^(Driver|Guest)Features$/.test(name) && !selectedDriver)
      violations.push(`${name} before its selector`);
    if (name === "InterruptACK" && (value & ~3) !== 0)
      violations.push(`undefined bits in InterruptACK: ${value}`);
  }
  return violations;
}
