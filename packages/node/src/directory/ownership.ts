import { Errno, ERRNO } from "virtio/backends/errno";
import {
  type FileAttributes,
  type Owner,
  S_IFBLK,
  S_IFCHR,
  S_IFDIR,
  S_IFLNK,
  S_IFMT,
  S_IFREG,
} from "virtio/backends/file-system";
import type { Libc } from "../native/libc.ts";
import { AT_EMPTY_PATH } from "../native/linux.ts";
import { cString, DescriptorPath, NO_NAME } from "./names.ts";
import type { Statx } from "./statx.ts";

/** QEMU's names (`security_model`). */
export type SecurityModel = "none" | "passthrough" | "mapped-xattr";

/** How owners, modes and special files of the guest are kept on the host. Descriptors are opened with O_PATH. */
export interface Ownership {
  /** True: symlinks, FIFOs, sockets and devices of the guest are regular files on the host. */
  readonly keepsSpecialFiles: boolean;
  /** The kind the guest is to see. */
  kind(fd: number, stat: Statx): number;
  /** What the guest is to see of what `stat` says. */
  attributes(fd: number, stat: Statx): FileAttributes;
  /** Permission bits to create something with on the host. */
  creationMode(kind: number, mode: number): number;
  /** Gives what was just created its owner and its mode, type bits included. `stat` is loaded for it. */
  created(fd: number, stat: Statx, mode: number, rdev: number, owner: Owner): void;
  setMode(fd: number, hostKind: number, mode: number): void;
  setOwner(fd: number, stat: Statx, uid: number | undefined, gid: number | undefined): void;
  /** Whether the guest may see and change the extended attribute of this name. */
  allowsXattr(name: string): boolean;
}

/** chown(2): leave it. */
const KEEP = 0xffffffff;
const S_ISGID = 0o2000;
const PERMISSIONS = 0o7777;

export function createOwnership(model: SecurityModel, libc: Libc): Ownership {
  if (model === "mapped-xattr") return new MappedOwnership(libc);
  return new PlainOwnership(libc, model === "none");
}

function fail(libc: Libc): never {
  throw Errno.of(libc.errno());
}

/** Attributes that QEMU passes on as well; `security.` and `trusted.` would give a guest a say on the host. */
function isPublicXattr(name: string): boolean {
  return (
    name.startsWith("user.") || name === "system.posix_acl_access" || name === "system.posix_acl_default"
  );
}

/** Owners and modes are those of the host's files. `none`: what this process may not do to owners is left undone. */
class PlainOwnership implements Ownership {
  readonly keepsSpecialFiles = false;
  readonly #libc: Libc;
  readonly #lenient: boolean;
  readonly #path = new DescriptorPath();

  constructor(libc: Libc, lenient: boolean) {
    this.#libc = libc;
    this.#lenient = lenient;
  }

  kind(_fd: number, stat: Statx): number {
    return stat.mode & S_IFMT;
  }

  attributes(_fd: number, stat: Statx): FileAttributes {
    return stat.attributes();
  }

  creationMode(_kind: number, mode: number): number {
    return mode & PERMISSIONS;
  }

  created(fd: number, stat: Statx, mode: number, _rdev: number, owner: Owner): void {
    const kind = stat.mode & S_IFMT;
    const actual = stat.mode & PERMISSIONS;
    const changesOwner = stat.uid !== owner.uid || stat.gid !== owner.gid;
    if (changesOwner) this.setOwner(fd, stat, owner.uid, owner.gid);
    if (kind === S_IFLNK) return;
    // The umask of this process took bits away, and a change of owner may have. A group that a directory hands down stays.
    const wanted = (mode & PERMISSIONS) | (kind === S_IFDIR ? actual & S_ISGID : 0);
    if (actual !== wanted || (changesOwner && (wanted & 0o6000) !== 0)) this.setMode(fd, kind, wanted);
  }

  setMode(fd: number, _hostKind: number, mode: number): void {
    if (this.#libc.chmod(this.#path.of(fd), mode & PERMISSIONS) < 0) fail(this.#libc);
  }

  setOwner(fd: number, _stat: Statx, uid: number | undefined, gid: number | undefined): void {
    if (this.#libc.fchownat(fd, NO_NAME, uid ?? KEEP, gid ?? KEEP, AT_EMPTY_PATH) === 0) return;
    const errno = this.#libc.errno();
    if (!this.#lenient || errno !== ERRNO.EPERM) throw Errno.of(errno);
  }

  allowsXattr(name: string): boolean {
    return isPublicXattr(name);
  }
}

const PREFIX = "user.virtfs.";
const UID: Uint8Array = cString(`${PREFIX}uid`);
const GID: Uint8Array = cString(`${PREFIX}gid`);
const MODE: Uint8Array = cString(`${PREFIX}mode`);
const RDEV: Uint8Array = cString(`${PREFIX}rdev`);

/**
 * Owners, modes and special files are kept in extended attributes, in QEMU's format, and on the host all belongs to the user of
 * this process: so a guest's root can own files without anybody being root here. What has no such attribute (it was made by
 * the host) is shown as it is.
 */
class MappedOwnership implements Ownership {
  readonly keepsSpecialFiles = true;
  readonly #libc: Libc;
  readonly #path = new DescriptorPath();
  readonly #value: Uint8Array = new Uint8Array(8);
  readonly #view: DataView = new DataView(this.#value.buffer);

  constructor(libc: Libc) {
    this.#libc = libc;
  }

  kind(fd: number, stat: Statx): number {
    return this.#mode(fd, stat.mode) & S_IFMT;
  }

  attributes(fd: number, stat: Statx): FileAttributes {
    const plain = stat.attributes();
    if ((plain.mode & S_IFMT) === S_IFLNK) return plain;
    const mode = this.#mode(fd, plain.mode);
    const kind = mode & S_IFMT;
    const uid = this.#get(fd, UID, 4) ?? plain.uid;
    const gid = this.#get(fd, GID, 4) ?? plain.gid;
    const rdev = kind === S_IFCHR || kind === S_IFBLK ? (this.#get(fd, RDEV, 8) ?? plain.rdev) : plain.rdev;
    return { ...plain, mode, uid, gid, rdev };
  }

  creationMode(kind: number, _mode: number): number {
    return kind === S_IFDIR ? 0o700 : 0o600;
  }

  created(fd: number, _stat: Statx, mode: number, rdev: number, owner: Owner): void {
    const kind = mode & S_IFMT;
    this.#set(fd, UID, 4, owner.uid);
    this.#set(fd, GID, 4, owner.gid);
    this.#set(fd, MODE, 4, mode & 0xffff);
    if (kind === S_IFCHR || kind === S_IFBLK) this.#set(fd, RDEV, 8, rdev);
  }

  setMode(fd: number, hostKind: number, mode: number): void {
    const kind = this.#mode(fd, hostKind) & S_IFMT;
    this.#set(fd, MODE, 4, kind | (mode & PERMISSIONS));
  }

  setOwner(fd: number, _stat: Statx, uid: number | undefined, gid: number | undefined): void {
    if (uid !== undefined) this.#set(fd, UID, 4, uid);
    if (gid !== undefined) this.#set(fd, GID, 4, gid);
  }

  allowsXattr(name: string): boolean {
    return isPublicXattr(name) && !name.startsWith(PREFIX) && name.startsWith("user.");
  }

  /**
   * The mode that is kept, or the host's. A regular file can be kept to be anything but a directory; any other thing is
   * what it is.
   */
  #mode(fd: number, hostMode: number): number {
    const hostKind = hostMode & S_IFMT;
    if (hostKind !== S_IFREG && hostKind !== S_IFDIR) return hostMode;
    const kept = this.#get(fd, MODE, 4);
    if (kept === undefined) return hostMode;
    const kind = kept & S_IFMT;
    const fits = hostKind === S_IFDIR ? kind === S_IFDIR : kind !== S_IFDIR && kind !== 0;
    return (fits ? kind : hostKind) | (kept & PERMISSIONS);
  }

  #get(fd: number, name: Uint8Array, size: number): number | undefined {
    const got = this.#libc.getxattr(this.#path.of(fd), name, this.#value, size);
    return got === size ? this.#view.getUint32(0, true) : undefined;
  }

  #set(fd: number, name: Uint8Array, size: number, value: number): void {
    this.#view.setUint32(0, value, true);
    this.#view.setUint32(4, 0, true);
    if (this.#libc.setxattr(this.#path.of(fd), name, this.#value, size, 0) < 0) fail(this.#libc);
  }
}
