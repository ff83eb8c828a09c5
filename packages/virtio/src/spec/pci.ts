/** Numbers of the spec's section "Virtio Over PCI Bus". */

export const VIRTIO_PCI_VENDOR_ID = 0x1af4;
/** PCI device id of a device: this plus its virtio device id. */
export const VIRTIO_PCI_DEVICE_ID_BASE = 0x1040;
export const VIRTIO_PCI_DEVICE_ID_LAST = 0x107f;
/** "Transitional PCI Device ID", by virtio device id. */
export const VIRTIO_PCI_TRANSITIONAL_DEVICE_IDS: ReadonlyMap<number, number> = new Map([
  [1, 0x1000],
  [2, 0x1001],
  [5, 0x1002],
  [3, 0x1003],
  [8, 0x1004],
  [4, 0x1005],
  [9, 0x1009],
]);

/** `cfg_type` of a virtio structure capability. */
export const VIRTIO_PCI_CAP_COMMON_CFG = 1;
export const VIRTIO_PCI_CAP_NOTIFY_CFG = 2;
export const VIRTIO_PCI_CAP_ISR_CFG = 3;
export const VIRTIO_PCI_CAP_DEVICE_CFG = 4;
export const VIRTIO_PCI_CAP_PCI_CFG = 5;
export const VIRTIO_PCI_CAP_SHARED_MEMORY_CFG = 8;
export const VIRTIO_PCI_CAP_VENDOR_CFG = 9;

/** In a vector field: no interrupt, or: the vector was refused. */
export const VIRTIO_MSI_NO_VECTOR = 0xffff;

/** Bits of the ISR status. */
export const VIRTIO_PCI_ISR_QUEUE = 1;
export const VIRTIO_PCI_ISR_CONFIG = 2;

/** struct virtio_pci_cap: offsets in bytes. */
export const VIRTIO_PCI_CAP = {
  cap_vndr: 0,
  cap_next: 1,
  cap_len: 2,
  cfg_type: 3,
  bar: 4,
  id: 5,
  padding: 6,
  offset: 8,
  length: 12,
} as const;
export const VIRTIO_PCI_CAP_SIZE = 16;

/** struct virtio_pci_cap64: what it has more than struct virtio_pci_cap. */
export const VIRTIO_PCI_CAP64 = { offset_hi: 16, length_hi: 20 } as const;
export const VIRTIO_PCI_CAP64_SIZE = 24;

/** struct virtio_pci_notify_cap: what it has more than struct virtio_pci_cap. */
export const VIRTIO_PCI_NOTIFY_CAP = { notify_off_multiplier: 16 } as const;
export const VIRTIO_PCI_NOTIFY_CAP_SIZE = 20;

/** struct virtio_pci_cfg_cap: what it has more than struct virtio_pci_cap. */
export const VIRTIO_PCI_CFG_CAP = { pci_cfg_data: 16 } as const;
export const VIRTIO_PCI_CFG_CAP_SIZE = 20;

/** struct virtio_pci_vndr_data: what is fixed of it. */
export const VIRTIO_PCI_VNDR_DATA = {
  cap_vndr: 0,
  cap_next: 1,
  cap_len: 2,
  cfg_type: 3,
  vendor_id: 4,
} as const;
export const VIRTIO_PCI_VNDR_DATA_SIZE = 6;

/** struct virtio_pci_common_cfg: offsets in bytes. */
export const VIRTIO_PCI_COMMON_CFG = {
  device_feature_select: 0,
  device_feature: 4,
  driver_feature_select: 8,
  driver_feature: 12,
  config_msix_vector: 16,
  num_queues: 18,
  device_status: 20,
  config_generation: 21,
  queue_select: 22,
  queue_size: 24,
  queue_msix_vector: 26,
  queue_enable: 28,
  queue_notify_off: 30,
  queue_desc: 32,
  queue_driver: 40,
  queue_device: 48,
  queue_notif_config_data: 56,
  queue_reset: 58,
  admin_queue_index: 60,
  admin_queue_num: 62,
} as const;
export const VIRTIO_PCI_COMMON_CFG_SIZE = 64;

/** "Legacy Interfaces: A Note on PCI Device Layout": offsets in the first I/O region, without and with MSI-X enabled. */
export const VIRTIO_PCI_LEGACY = {
  device_features: 0,
  driver_features: 4,
  queue_address: 8,
  queue_size: 12,
  queue_select: 14,
  queue_notify: 16,
  device_status: 18,
  isr_status: 19,
  config_msix_vector: 20,
  queue_msix_vector: 22,
} as const;
/** Where the device-specific configuration starts while MSI-X is disabled. */
export const VIRTIO_PCI_LEGACY_CONFIG = 20;
/** Where the device-specific configuration starts while MSI-X is enabled. */
export const VIRTIO_PCI_LEGACY_CONFIG_MSIX = 24;
/** Unit of the legacy `queue_address`, and the alignment of the used ring. */
export const VIRTIO_PCI_LEGACY_PAGE_SIZE = 4096;
