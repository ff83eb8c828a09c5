/**
 * How long guests are kept busy. By default for seconds, so that all guests can be run in one go; with `VIRTIO_GUEST_MINUTES=10` for as
 * long as docs/qemu.md says of its figures.
 */
const minutes = Number(process.env["VIRTIO_GUEST_MINUTES"] ?? "0");
if (!(minutes >= 0 && minutes < 1440)) {
  throw new RangeError(`VIRTIO_GUEST_MINUTES=${process.env["VIRTIO_GUEST_MINUTES"]} is no length in minutes`);
}

/** Seconds of a load: a share of `VIRTIO_GUEST_MINUTES`, and so many at least. */
export function loadSeconds(share: number, least: number): number {
  return Math.max(least, Math.ceil(60 * share * minutes));
}
