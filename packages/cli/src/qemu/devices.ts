/** What of `-device` is carried by vhost-user, and which property belongs to whom. */

export type Family = "blk" | "net" | "entropy";

/** How a device is plugged in, by the end of its name. */
export type Form = "pci" | "pci-transitional" | "pci-non-transitional" | "device";

/** A device of QEMU that one of ours can stand behind. */
export interface Carried {
  readonly family: Family;
  readonly form: Form;
  /** What QEMU has instead of it. */
  readonly driver: string;
}

const carried: ReadonlyMap<string, Carried> = new Map<string, Carried>([
  ...forms("virtio-blk", "blk", {
    pci: "vhost-user-blk-pci",
    "pci-transitional": "vhost-user-blk-pci-transitional",
    "pci-non-transitional": "vhost-user-blk-pci-non-transitional",
    device: "vhost-user-blk",
  }),
  // There, the network back-end is another and the device the same.
  ...forms("virtio-net", "net", {
    pci: "virtio-net-pci",
    "pci-transitional": "virtio-net-pci-transitional",
    "pci-non-transitional": "virtio-net-pci-non-transitional",
    device: "virtio-net-device",
  }),
  // QEMU's has no legacy interface, whatever its name.
  ...forms("virtio-rng", "entropy", {
    pci: "vhost-user-rng-pci",
    "pci-transitional": "vhost-user-rng-pci-transitional",
    "pci-non-transitional": "vhost-user-rng-pci",
    device: "vhost-user-rng",
  }),
]);

function forms(name: string, family: Family, drivers: Readonly<Record<Form, string>>): [string, Carried][] {
  return (["pci", "pci-transitional", "pci-non-transitional", "device"] as const).map((form) => [
    `${name}-${form}`,
    { family, form, driver: drivers[form] },
  ]);
}

/** Devices whose properties decide what can be carried. */
export const askedDrivers: readonly string[] = [
  ...new Set([...carried].flatMap(([name, { driver }]) => [name, driver])),
  "virtio-blk-ccw",
  "virtio-net-ccw",
  "virtio-rng-ccw",
];

/**
 * What stands behind a name of `-device`; undefined: nothing of ours.
 * @param drivers the devices that this QEMU has: the short names are those of a mainframe's channels, else PCI's
 */
export function carriedDevice(
  name: string,
  drivers: ReadonlyMap<string, unknown>,
): (Carried & { name: string }) | undefined {
  const full = /^virtio-(blk|net|rng)$/.test(name)
    ? `${name}-${["ccw", "pci"].find((form) => drivers.has(`${name}-${form}`)) ?? "device"}`
    : name;
  const found = carried.get(full);
  return found === undefined ? undefined : { ...found, name: full };
}

/** The device word of `virtio serve` for each family, and where QEMU's `-device` names what is behind it. */
export const families: Readonly<Record<Family, { readonly word: string; readonly reference: string }>> = {
  blk: { word: "blk", reference: "drive" },
  net: { word: "net", reference: "netdev" },
  entropy: { word: "entropy", reference: "rng" },
};

/** The device's own properties: whoever serves it has them. */
const ours: Readonly<Record<Family, readonly string[]>> = {
  blk: [
    "serial",
    "logical_block_size",
    "physical_block_size",
    "min_io_size",
    "opt_io_size",
    "write-cache",
    "iothread",
  ],
  net: [],
  entropy: [],
};

/** Properties that both ends have to agree on. */
const shared: Readonly<Record<Family, readonly string[]>> = {
  blk: ["num-queues", "queue-size", "discard", "write-zeroes", "config-wce"],
  net: ["mac", "host_mtu", "speed", "duplex", "mrg_rxbuf"],
  entropy: [],
};

/** How QEMU's own device does its work, which a guest does not see: without meaning where it does none. */
const withoutMeaning: readonly string[] = [
  "account-failed",
  "account-invalid",
  "backend_defaults",
  "ioeventfd",
  "request-merging",
  "tx",
  "x-txburst",
  "x-txtimer",
];

/** Where a property goes. */
export type Owner = "ours" | "shared" | "qemu" | "nobody";

export function ownerOf(family: Family, property: string): Owner {
  if (ours[family].includes(property)) return "ours";
  if (shared[family].includes(property)) return "shared";
  return withoutMeaning.includes(property) && family !== "net" ? "nobody" : "qemu";
}
