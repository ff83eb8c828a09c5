import type { QemuFacts } from "@virtio/cli/qemu/facts";

/** What QEMU 7.2 says of itself, as far as these tests go by it; qemu.test.ts holds it against the real one. */

const virtio = "any_layout event_idx indirect_desc iommu_platform notify_on_empty packed queue_reset";
const pci = `${virtio} acpi-index addr ats failover_pair_id multifunction page-per-vq rombar romfile`;
const both = "disable-legacy disable-modern";
const disk = "bootindex config-wce discard num-queues queue-size write-zeroes";
const qemuDisk =
  "account-failed account-invalid backend_defaults cyls discard_granularity drive heads iothread logical_block_size " +
  "max-discard-sectors min_io_size opt_io_size physical_block_size request-merging rerror scsi secs serial share-rw " +
  "werror write-cache";
const net =
  "bootindex ctrl_vq duplex host_mtu mac mq mrg_rxbuf netdev rss rx_queue_size speed status tx tx_queue_size x-txburst";
const rng = "max-bytes period rng";

const words = (...texts: string[]): Set<string> => new Set(texts.join(" ").split(" "));

export const facts: QemuFacts = {
  version: "7.2.22",
  defaultMemory: 128 << 20,
  drivesAreVirtio: false,
  memoryBackend: true,
  drivers: new Map([
    ["virtio-blk-pci", words(pci, both, "vectors class ioeventfd", disk, qemuDisk)],
    ["virtio-blk-pci-transitional", words(pci, "vectors class ioeventfd", disk, qemuDisk)],
    ["virtio-blk-pci-non-transitional", words(pci, "vectors class ioeventfd", disk, qemuDisk)],
    ["virtio-blk-device", words(virtio, disk, qemuDisk)],
    ["vhost-user-blk-pci", words(pci, both, "vectors class chardev", disk)],
    ["vhost-user-blk-pci-transitional", words(pci, "vectors class chardev", disk)],
    ["vhost-user-blk-pci-non-transitional", words(pci, "vectors class chardev", disk)],
    ["vhost-user-blk", words(virtio, "chardev", disk)],
    ["virtio-net-pci", words(pci, both, "vectors ioeventfd", net)],
    ["virtio-net-pci-transitional", words(pci, "vectors ioeventfd", net)],
    ["virtio-net-pci-non-transitional", words(pci, "vectors ioeventfd", net)],
    ["virtio-net-device", words(virtio, net)],
    ["virtio-rng-pci", words(pci, both, "vectors ioeventfd", rng)],
    ["virtio-rng-pci-transitional", words(pci, "vectors ioeventfd", rng)],
    ["virtio-rng-pci-non-transitional", words(pci, "vectors ioeventfd", rng)],
    ["virtio-rng-device", words(virtio, rng)],
    ["vhost-user-rng-pci", words(pci, "vectors chardev")],
    ["vhost-user-rng", words(virtio, "chardev")],
  ]),
};
