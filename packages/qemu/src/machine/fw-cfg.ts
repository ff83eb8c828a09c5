import type { BusAccess } from "virtio/driver/platform";
import type { GuestMemory } from "virtio/memory/guest-memory";

/** Ports of QEMU's firmware configuration device on a PC ("QEMU Firmware Configuration (fw_cfg) Device"). */
const DMA_ADDRESS_HIGH = 0x514;
const DMA_ADDRESS_LOW = 0x518;
/** The directory of files. */
const FILE_DIRECTORY = 0x19;
/** Control bits of a transfer. */
const DMA_ERROR = 1;
const DMA_READ = 2;
const DMA_SELECT = 8;
/** An entry of the directory: size, key, reserved, name; big-endian. */
const ENTRY = { size: 0, select: 4, name: 8, bytes: 64 } as const;
const ENTRY_NAME_SIZE = 56;
const MAX_FILES = 1024;
/** Bytes of a file that is read: more is none of those that are needed here. */
const MAX_FILE = 16 << 20;
const COMMAND_SIZE = 16;

/** Reads a file that QEMU has for firmware, through memory from `scratch` on; undefined when there is none. */
export function readFirmwareFile(
  bus: BusAccess,
  memory: GuestMemory,
  scratch: { readonly gpa: number; readonly length: number },
  name: string,
): Uint8Array | undefined {
  const limit = Math.min(MAX_FILE, scratch.length - COMMAND_SIZE);
  const transfer = (key: number, length: number): Uint8Array => {
    const data = scratch.gpa + COMMAND_SIZE;
    const bytes = memory.view(scratch.gpa, COMMAND_SIZE);
    const command = new DataView(bytes.buffer, bytes.byteOffset, COMMAND_SIZE);
    command.setUint32(0, key * 0x10000 + (DMA_SELECT | DMA_READ));
    command.setUint32(4, length);
    command.setUint32(8, Math.floor(data / 2 ** 32));
    command.setUint32(12, data % 2 ** 32);
    bus.write("io", DMA_ADDRESS_HIGH, 4, swap(Math.floor(scratch.gpa / 2 ** 32)));
    bus.write("io", DMA_ADDRESS_LOW, 4, swap(scratch.gpa % 2 ** 32));
    // A read of a port comes after the transfer.
    bus.read("io", DMA_ADDRESS_HIGH, 4);
    if ((command.getUint32(0) & DMA_ERROR) !== 0) return new Uint8Array(0);
    return memory.view(data, length).slice();
  };
  const head = transfer(FILE_DIRECTORY, 4);
  const count = Math.min(head.length < 4 ? 0 : new DataView(head.buffer).getUint32(0), MAX_FILES);
  const directory = transfer(FILE_DIRECTORY, 4 + count * ENTRY.bytes);
  for (let i = 0; i < count; i++) {
    const entry = new DataView(directory.buffer, 4 + i * ENTRY.bytes, ENTRY.bytes);
    const text = Buffer.from(directory.buffer, entry.byteOffset + ENTRY.name, ENTRY_NAME_SIZE).toString(
      "latin1",
    );
    const size = entry.getUint32(ENTRY.size);
    if (text.split("\0")[0] !== name || size > limit) continue;
    return transfer(entry.getUint16(ENTRY.select), size);
  }
  return undefined;
}

/** The device's registers are big-endian and ports are little-endian. */
function swap(value: number): number {
  const view = new DataView(new ArrayBuffer(4));
  view.setUint32(0, value);
  return view.getUint32(0, true);
}
