import type { DeviceContext } from "../../device/device.ts";
import type { SegmentWriter } from "../../memory/cursor.ts";
import { VIRTIO_BLK_S_OK } from "../../spec/blk.ts";
import type { DescriptorChain } from "../../virtqueue/types.ts";
import { LONG_BYTES } from "./long-requests.ts";

interface Target {
  readonly context: DeviceContext;
  readonly writer: SegmentWriter;
}

/**
 * Writes the status into the last writable byte, and gives the used length. Bytes before it that hold no data are zeroed, so that
 * the used length says truly how far the device wrote and the status lies inside it. Where there are too many of them to be
 * zeroed in one go, the length is that of the data.
 */
export function completed(
  { context, writer }: Target,
  chain: DescriptorChain,
  status: number,
  filled: number,
): number {
  const end = chain.writableLength - 1;
  const written = status === VIRTIO_BLK_S_OK ? filled : 0;
  if (end - written > LONG_BYTES) {
    putStatus(context, chain, status);
    return written;
  }
  if (written < end) {
    writer.start(chain.writable);
    writer.skip(written);
    writer.fill(0, end - written);
  }
  putStatus(context, chain, status);
  return end + 1;
}

function putStatus({ memory }: DeviceContext, { writable }: DescriptorChain, status: number): void {
  let last = writable.length - 1;
  while (last > 0 && writable[last]?.length === 0) last--;
  const segment = writable[last];
  if (segment === undefined) return;
  const gpa = segment.gpa + segment.length - 1;
  memory.view(gpa, 1)[0] = status;
  memory.wrote(gpa, 1);
}
