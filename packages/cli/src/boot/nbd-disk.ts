import { foreignFormat, PROBE_LENGTH } from "@virtio/node/block/image-probe";
import { NbdBlockBackend } from "@virtio/node/nbd/nbd-block";

import { optional } from "../optional.ts";
import { messageOf } from "../user-error.ts";
import type { DriveDescription, NbdDescription } from "./description.ts";

/** Opens a disk that is behind an NBD server; as with files, an image in another format is refused. */
export async function openNbd(
  drive: DriveDescription,
  nbd: NbdDescription,
  tell: (message: string) => void,
): Promise<NbdBlockBackend> {
  const disk = await NbdBlockBackend.open(nbd.target, {
    readOnly: drive.readOnly || drive.snapshot,
    discard: drive.discard,
    // The page cache of a file is the server's affair.
    cache:
      drive.cache === "unsafe"
        ? "unsafe"
        : ["writethrough", "directsync"].includes(drive.cache)
          ? "writethrough"
          : "writeback",
    onError: (error) => tell(messageOf(error)),
    onReconnect: (unflushed) => tell(`disk '${drive.file}': connected again${unflushed ? AT_STAKE : ""}`),
    ...optional("reconnectDelay", nbd.reconnectDelay),
    ...optional("openTimeout", nbd.openTimeout),
    ...optional("requestTimeout", nbd.requestTimeout),
    ...optional("connections", nbd.connections),
  });
  try {
    const start = new Uint8Array(PROBE_LENGTH);
    const known = !drive.raw && disk.size >= start.length;
    if (known) await disk.read(0, start);
    const format = known ? foreignFormat(start) : undefined;
    if (format === undefined) return disk;
    throw new Error(
      `disk '${drive.file}' is a ${format} image; the server has to serve what is in it ` +
        `(qemu-nbd -f ${format} …), or say format=raw if it is a raw disk`,
    );
  } catch (error) {
    await disk.close();
    throw error;
  }
}

const AT_STAKE = "; what was written and not flushed is lost if the server lost its cache";
