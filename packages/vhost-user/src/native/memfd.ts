import { textOption, wholeOption } from "virtio/check-option";
import { fstatSync } from "node:fs";
import { hasHugePages } from "@virtio/node/native/mapping";
import { Descriptor } from "./descriptor.ts";
import { check, natives } from "./libc.ts";
import {
  F_ADD_SEALS,
  F_GETFL,
  F_GET_SEALS,
  F_SEAL_GROW,
  F_SEAL_SEAL,
  F_SEAL_SHRINK,
  MFD_ALLOW_SEALING,
  MFD_CLOEXEC,
  O_ACCMODE,
  O_RDWR,
} from "./linux.ts";

/** Zeroed memory with a descriptor, to be shared; its size is sealed, so that no side can make the other's mapping end. */
export function createMemfd(name: string, length: number): Descriptor {
  textOption("memfd: name", name);
  wholeOption("memfd: length", length, 0, Number.MAX_SAFE_INTEGER);
  const native = natives();
  const bytes = new TextEncoder().encode(`${name}\0`);
  const memfd = new Descriptor(
    check(native.memfd_create(bytes, MFD_CLOEXEC | MFD_ALLOW_SEALING), "memfd_create"),
  );
  try {
    check(native.ftruncate(memfd.fd, length), "ftruncate");
    check(
      native.fcntl(memfd.fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL),
      "fcntl(F_ADD_SEALS)",
    );
  } catch (error) {
    memfd.close();
    throw error;
  }
  return memfd;
}

/** What can be known of a file before it is mapped. */
export interface FileExtent {
  /** Bytes. */
  readonly size: number;
  /** Device and inode: two descriptors with the same are one file. */
  readonly identity: string;
  /** F_SEAL_SHRINK is set: the mapping cannot lose its pages (a SIGBUS ends the process). */
  readonly sealed: boolean;
  /** The descriptor is open for both, so that a shared mapping may be read and written. */
  readonly readWrite: boolean;
  /** Its pages are huge ones of a pool that may be empty. */
  readonly hugePages: boolean;
}

export function fileExtent(fd: number): FileExtent {
  const { size, dev, ino } = fstatSync(fd);
  const native = natives();
  const seals = native.fcntl(fd, F_GET_SEALS, 0);
  return {
    size,
    identity: `${dev}:${ino}`,
    sealed: seals >= 0 && (seals & F_SEAL_SHRINK) !== 0,
    readWrite: (check(native.fcntl(fd, F_GETFL, 0), "fcntl(F_GETFL)") & O_ACCMODE) === O_RDWR,
    hugePages: hasHugePages(fd),
  };
}
