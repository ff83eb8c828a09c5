/** Feature bits by name, for people who read logs and registers. Bit numbers as in the spec. */

/** Of one area: bit number to name, without the `VIRTIO_X_F_` in front. */
export type FeatureNames = Readonly<Record<number, string>>;

export const CORE_FEATURE_NAMES: FeatureNames = {
  24: "NOTIFY_ON_EMPTY",
  27: "ANY_LAYOUT",
  28: "INDIRECT_DESC",
  29: "EVENT_IDX",
  32: "VERSION_1",
  33: "ACCESS_PLATFORM",
  34: "RING_PACKED",
  35: "IN_ORDER",
  36: "ORDER_PLATFORM",
  37: "SR_IOV",
  38: "NOTIFICATION_DATA",
  39: "NOTIF_CONFIG_DATA",
  40: "RING_RESET",
  41: "ADMIN_VQ",
  43: "SUSPEND",
};

/** By virtio device id. */
export const DEVICE_FEATURE_NAMES: Readonly<Record<number, FeatureNames>> = {
  // net
  1: {
    0: "CSUM",
    1: "GUEST_CSUM",
    2: "CTRL_GUEST_OFFLOADS",
    3: "MTU",
    5: "MAC",
    6: "GSO",
    7: "GUEST_TSO4",
    8: "GUEST_TSO6",
    9: "GUEST_ECN",
    10: "GUEST_UFO",
    11: "HOST_TSO4",
    12: "HOST_TSO6",
    13: "HOST_ECN",
    14: "HOST_UFO",
    15: "MRG_RXBUF",
    16: "STATUS",
    17: "CTRL_VQ",
    18: "CTRL_RX",
    19: "CTRL_VLAN",
    20: "CTRL_RX_EXTRA",
    21: "GUEST_ANNOUNCE",
    22: "MQ",
    23: "CTRL_MAC_ADDR",
    41: "GUEST_RSC4",
    42: "GUEST_RSC6",
    50: "DEVICE_STATS",
    51: "HASH_TUNNEL",
    52: "VQ_NOTF_COAL",
    53: "NOTF_COAL",
    54: "GUEST_USO4",
    55: "GUEST_USO6",
    56: "HOST_USO",
    57: "HASH_REPORT",
    59: "GUEST_HDRLEN",
    60: "RSS",
    61: "RSC_EXT",
    62: "STANDBY",
    63: "SPEED_DUPLEX",
    64: "RSS_CONTEXT",
    65: "GUEST_UDP_TUNNEL_GSO",
    66: "GUEST_UDP_TUNNEL_GSO_CSUM",
    67: "HOST_UDP_TUNNEL_GSO",
    68: "HOST_UDP_TUNNEL_GSO_CSUM",
    69: "OUT_NET_HEADER",
    70: "IPSEC",
  },
  // blk
  2: {
    0: "BARRIER",
    1: "SIZE_MAX",
    2: "SEG_MAX",
    4: "GEOMETRY",
    5: "RO",
    6: "BLK_SIZE",
    7: "SCSI",
    9: "FLUSH",
    10: "TOPOLOGY",
    11: "CONFIG_WCE",
    12: "MQ",
    13: "DISCARD",
    14: "WRITE_ZEROES",
    15: "LIFETIME",
    16: "SECURE_ERASE",
    17: "ZONED",
  },
  // console
  3: {
    0: "SIZE",
    1: "MULTIPORT",
    2: "EMERG_WRITE",
  },
  // balloon
  5: {
    0: "MUST_TELL_HOST",
    1: "STATS_VQ",
    2: "DEFLATE_ON_OOM",
    3: "FREE_PAGE_HINT",
    4: "PAGE_POISON",
    5: "PAGE_REPORTING",
  },
  // scsi
  8: {
    0: "INOUT",
    1: "HOTPLUG",
    2: "CHANGE",
    3: "T10_PI",
  },
  // gpu
  16: {
    0: "VIRGL",
    1: "EDID",
    2: "RESOURCE_UUID",
    3: "RESOURCE_BLOB",
    4: "CONTEXT_INIT",
    5: "BLOB_ALIGNMENT",
  },
  // rtc
  17: {
    0: "ALARM",
  },
  // vsock
  19: {
    0: "STREAM",
    1: "SEQPACKET",
    2: "NO_IMPLIED_STREAM",
  },
  // crypto
  20: {
    0: "REVISION_1",
    1: "CIPHER_STATELESS_MODE",
    2: "HASH_STATELESS_MODE",
    3: "MAC_STATELESS_MODE",
    4: "AEAD_STATELESS_MODE",
    5: "AKCIPHER_STATELESS_MODE",
  },
  // iommu
  23: {
    0: "INPUT_RANGE",
    1: "DOMAIN_RANGE",
    2: "MAP_UNMAP",
    3: "BYPASS",
    4: "PROBE",
    5: "MMIO",
    6: "BYPASS_CONFIG",
  },
  // mem
  24: {
    0: "ACPI_PXM",
    1: "UNPLUGGED_INACCESSIBLE",
    2: "PERSISTENT_SUSPEND",
  },
  // sound
  25: {
    0: "CTLS",
  },
  // fs
  26: {
    0: "NOTIFICATION",
  },
  // pmem
  27: {
    0: "SHMEM_REGION",
  },
  // scmi
  32: {
    0: "P2A_CHANNELS",
    1: "SHARED_MEMORY",
  },
  // i2c
  34: {
    0: "ZERO_LENGTH_REQUEST",
  },
  // can
  36: {
    0: "CAN_CLASSIC",
    1: "CAN_FD",
    2: "RTR_FRAMES",
    3: "LATE_TX_ACK",
  },
  // gpio
  41: {
    0: "IRQ",
  },
};

/** The set bits of `features` by name, a bit that has none by number. */
export function featureNames(id: number, features: bigint): string[] {
  const names: string[] = [];
  for (let bit = 0; bit < 128; bit++) {
    if (((features >> BigInt(bit)) & 1n) === 0n) continue;
    names.push(DEVICE_FEATURE_NAMES[id]?.[bit] ?? CORE_FEATURE_NAMES[bit] ?? `bit ${bit}`);
  }
  return names;
}

/** How the spec's names of a device type's features begin, by virtio device id. */
const PREFIXES: Readonly<Record<number, string>> = {
  1: "NET",
  2: "BLK",
  3: "CONSOLE",
  5: "BALLOON",
  8: "SCSI",
  16: "GPU",
  17: "RTC",
  19: "VSOCK",
  20: "CRYPTO",
  23: "IOMMU",
  24: "MEM",
  25: "SND",
  26: "FS",
  27: "PMEM",
  32: "SCMI",
  34: "I2C",
  36: "CAN",
  41: "GPIO",
};

/** The spec's whole name of a feature: `VIRTIO_BLK_F_MQ`; "feature bit 99" where it has none. `id`: virtio device id. */
export function featureName(id: number, bit: number): string {
  const own = DEVICE_FEATURE_NAMES[id]?.[bit];
  if (own !== undefined) return `VIRTIO_${PREFIXES[id] ?? id}_F_${own}`;
  const core = CORE_FEATURE_NAMES[bit];
  return core === undefined ? `feature bit ${bit}` : `VIRTIO_F_${core}`;
}

/** The whole names of the set bits, for a sentence: "VIRTIO_BLK_F_MQ, feature bit 99". */
export function featureList(id: number, features: bigint): string {
  const names: string[] = [];
  let bit = 0;
  for (let rest = features; rest !== 0n; rest >>= 1n, bit++)
    if ((rest & 1n) === 1n) names.push(featureName(id, bit));
  return names.join(", ");
}
