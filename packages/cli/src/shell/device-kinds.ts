import * as ids from "virtio/spec/ids";

/** What the commands call a device type. */
const KINDS: ReadonlyMap<number, string> = new Map([
  [ids.VIRTIO_ID_NET, "net"],
  [ids.VIRTIO_ID_BLK, "blk"],
  [ids.VIRTIO_ID_CONSOLE, "console"],
  [ids.VIRTIO_ID_ENTROPY, "entropy"],
  [ids.VIRTIO_ID_BALLOON, "balloon"],
  [ids.VIRTIO_ID_SCSI, "scsi"],
  [ids.VIRTIO_ID_9P, "9p"],
  [ids.VIRTIO_ID_GPU, "gpu"],
  [ids.VIRTIO_ID_RTC, "rtc"],
  [ids.VIRTIO_ID_INPUT, "input"],
  [ids.VIRTIO_ID_VSOCK, "vsock"],
  [ids.VIRTIO_ID_CRYPTO, "crypto"],
  [ids.VIRTIO_ID_IOMMU, "iommu"],
  [ids.VIRTIO_ID_MEM, "mem"],
  [ids.VIRTIO_ID_SOUND, "sound"],
  [ids.VIRTIO_ID_FS, "fs"],
  [ids.VIRTIO_ID_PMEM, "pmem"],
  [ids.VIRTIO_ID_RPMB, "rpmb"],
  [ids.VIRTIO_ID_SCMI, "scmi"],
  [ids.VIRTIO_ID_I2C, "i2c"],
  [ids.VIRTIO_ID_CAN, "can"],
  [ids.VIRTIO_ID_GPIO, "gpio"],
  [ids.VIRTIO_ID_SPI, "spi"],
  [ids.VIRTIO_ID_MEDIA, "media"],
]);

/** `blk`; a type without a name is `device` and its number, with a dash. */
export function deviceKind(deviceId: number): string {
  return KINDS.get(deviceId) ?? `device${deviceId}-`;
}

/** The number of a type by its name, or undefined. */
export function deviceIdOf(kind: string): number | undefined {
  for (const [id, name] of KINDS) if (name === kind) return id;
  return undefined;
}
