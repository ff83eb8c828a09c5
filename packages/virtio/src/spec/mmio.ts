/** Numbers of the spec's section "Virtio Over MMIO". */

/** Contents of `MagicValue`: "virt" as a little-endian number. */
export const VIRTIO_MMIO_MAGIC_VALUE = 0x74726976;
export const VIRTIO_MMIO_VERSION = 2;
export const VIRTIO_MMIO_VERSION_LEGACY = 1;
/** `DeviceID` of a placeholder: there is no device. */
export const VIRTIO_MMIO_DEVICE_ID_NONE = 0;

/** Bits of `InterruptStatus` and `InterruptACK`. */
export const VIRTIO_MMIO_INTERRUPT_USED = 1;
export const VIRTIO_MMIO_INTERRUPT_CONFIG = 2;

/** "MMIO Device Register Layout": offsets in bytes. */
export const VIRTIO_MMIO = {
  MagicValue: 0x000,
  Version: 0x004,
  DeviceID: 0x008,
  VendorID: 0x00c,
  DeviceFeatures: 0x010,
  DeviceFeaturesSel: 0x014,
  DriverFeatures: 0x020,
  DriverFeaturesSel: 0x024,
  QueueSel: 0x030,
  QueueSizeMax: 0x034,
  QueueSize: 0x038,
  QueueReady: 0x044,
  QueueNotify: 0x050,
  InterruptStatus: 0x060,
  InterruptACK: 0x064,
  Status: 0x070,
  QueueDescLow: 0x080,
  QueueDescHigh: 0x084,
  QueueDriverLow: 0x090,
  QueueDriverHigh: 0x094,
  QueueDeviceLow: 0x0a0,
  QueueDeviceHigh: 0x0a4,
  SHMSel: 0x0ac,
  SHMLenLow: 0x0b0,
  SHMLenHigh: 0x0b4,
  SHMBaseLow: 0x0b8,
  SHMBaseHigh: 0x0bc,
  QueueReset: 0x0c0,
  ConfigGeneration: 0x0fc,
  /** First byte of the device-specific configuration space. */
  Config: 0x100,
} as const;

/** "MMIO Device Legacy Register Layout": offsets in bytes. */
export const VIRTIO_MMIO_LEGACY = {
  MagicValue: 0x000,
  Version: 0x004,
  DeviceID: 0x008,
  VendorID: 0x00c,
  HostFeatures: 0x010,
  HostFeaturesSel: 0x014,
  GuestFeatures: 0x020,
  GuestFeaturesSel: 0x024,
  GuestPageSize: 0x028,
  QueueSel: 0x030,
  QueueSizeMax: 0x034,
  QueueSize: 0x038,
  QueueAlign: 0x03c,
  QueuePFN: 0x040,
  QueueNotify: 0x050,
  InterruptStatus: 0x060,
  InterruptACK: 0x064,
  Status: 0x070,
  Config: 0x100,
} as const;
