import { QemuMachine, splitCommandLine } from "@virtio/qemu";
import { BlkDriver } from "virtio/drivers/blk/driver";
import { VIRTIO_ID_BLK } from "virtio/spec/ids";

/** Reads the first sector of an image through the legacy interface of a disk in an ARM machine that runs no guest. */
export async function firstSector(image: string): Promise<Uint8Array> {
  const machine = await QemuMachine.start({
    argv: splitCommandLine(`qemu-system-arm -M versatilepb
      -blockdev driver=file,node-name=disk,filename='${image}'
      -device virtio-blk-pci-transitional,drive=disk`),
  });
  try {
    const disk = await BlkDriver.open(machine.device(VIRTIO_ID_BLK).open({ interface: "legacy" }));
    const sector = new Uint8Array(512);
    await disk.read(0, sector);
    await disk.close();
    return sector;
  } finally {
    await machine.close();
  }
}
