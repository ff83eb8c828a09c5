/** Bytes from the start of an image that `foreignFormat` wants to see. */
export const PROBE_LENGTH = 512;

interface Magic {
  readonly format: string;
  readonly offset: number;
  readonly text: string;
}

/** Image formats that are no raw disks; texts are Latin-1. */
const MAGICS: readonly Magic[] = [
  { format: "qcow2", offset: 0, text: "QFI\xfb" },
  { format: "qed", offset: 0, text: "QED\0" },
  { format: "vmdk", offset: 0, text: "KDMV" },
  { format: "vmdk", offset: 0, text: "COWD" },
  { format: "vmdk", offset: 0, text: "# Disk DescriptorFile" },
  { format: "vhdx", offset: 0, text: "vhdxfile" },
  { format: "vpc", offset: 0, text: "conectix" },
  { format: "vdi", offset: 0x40, text: "\x7f\x10\xda\xbe" },
  { format: "parallels", offset: 0, text: "WithoutFreeSpace" },
  { format: "parallels", offset: 0, text: "WithouFreSpacExt" },
  { format: "luks", offset: 0, text: "LUKS\xba\xbe" },
  { format: "gzip", offset: 0, text: "\x1f\x8b\x08" },
  { format: "xz", offset: 0, text: "\xfd7zXZ\0" },
  { format: "zstd", offset: 0, text: "\x28\xb5\x2f\xfd" },
];

/** The name of the format that `start`, the first bytes of a file, is in, when a raw disk it surely is not. */
export function foreignFormat(start: Uint8Array): string | undefined {
  const text = String.fromCharCode(...start.subarray(0, PROBE_LENGTH));
  return MAGICS.find((magic) => text.startsWith(magic.text, magic.offset))?.format;
}
