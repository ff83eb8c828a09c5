/**
 * Numbers of 9P2000.L, the protocol that a virtio-9p device carries, and of that device. The VIRTIO specification only
 * reserves its id: device and protocol are what Linux (`net/9p`, `include/uapi/linux/virtio_9p.h`) and QEMU speak.
 */

/** Feature bit: the configuration space holds the mount tag. */
export const VIRTIO_9P_MOUNT_TAG = 0;
/** struct virtio_9p_config: le16 tag_len, then the tag without a terminator. */
export const VIRTIO_9P_CONFIG = { tag_len: 0, tag: 2 } as const;

export const VERSION_9P2000_L = "9P2000.L";
/** What a server answers to a version it does not speak. */
export const VERSION_UNKNOWN = "unknown";

/** Message types. The reply to T is T + 1. */
export const TLERROR = 6;
export const RLERROR = 7;
export const TSTATFS = 8;
export const TLOPEN = 12;
export const TLCREATE = 14;
export const TSYMLINK = 16;
export const TMKNOD = 18;
export const TRENAME = 20;
export const TREADLINK = 22;
export const TGETATTR = 24;
export const TSETATTR = 26;
export const TXATTRWALK = 30;
export const TXATTRCREATE = 32;
export const TREADDIR = 40;
export const TFSYNC = 50;
export const TLOCK = 52;
export const TGETLOCK = 54;
export const TLINK = 70;
export const TMKDIR = 72;
export const TRENAMEAT = 74;
export const TUNLINKAT = 76;
export const TVERSION = 100;
export const TAUTH = 102;
export const TATTACH = 104;
export const TFLUSH = 108;
export const TWALK = 110;
export const TREAD = 116;
export const TWRITE = 118;
export const TCLUNK = 120;
export const TREMOVE = 122;

/** The tag of Tversion. */
export const NOTAG = 0xffff;
/** No authentication file, no fid. */
export const NOFID = 0xffff_ffff;
/** "Not said": `n_uname` of a client that has no number for its user. */
export const NONUNAME = 0xffff_ffff;
/** Names in one Twalk. */
export const MAX_WALK = 16;

/** Bytes: size[4] type[1] tag[2]. */
export const HEADER_SIZE = 7;
/** Bytes: header, ecode[4]. Every reply buffer must have this room. */
export const RLERROR_SIZE = 11;
/** Bytes before the data of Rread and Rreaddir: header, count[4]. */
export const RREAD_HEADER_SIZE = 11;
/** Bytes before the data of Twrite: header, fid[4] offset[8] count[4]. */
export const TWRITE_HEADER_SIZE = 23;
/** Bytes: type[1] version[4] path[8]. */
export const QID_SIZE = 13;
/** Bytes of a directory entry without its name: qid, offset[8], type[1], length[2]. */
export const DIRENT_SIZE = 24;
/** Bytes of a whole Rgetattr. */
export const RGETATTR_SIZE = 160;
/** Room that clients keep for headers when they turn msize into bytes of data. */
export const IO_HEADER_ROOM = 24;

/** Types of a qid. */
export const QTDIR = 0x80;
export const QTSYMLINK = 0x02;
export const QTFILE = 0;

/** `valid` of Rgetattr: mode to blocks. */
export const GETATTR_BASIC = 0x7ff;

/** `valid` of Tsetattr. */
export const SETATTR_MODE = 0x1;
export const SETATTR_UID = 0x2;
export const SETATTR_GID = 0x4;
export const SETATTR_SIZE = 0x8;
export const SETATTR_ATIME = 0x10;
export const SETATTR_MTIME = 0x20;
export const SETATTR_CTIME = 0x40;
/** The time is the one in the message; without it, now. */
export const SETATTR_ATIME_SET = 0x80;
export const SETATTR_MTIME_SET = 0x100;

/** Flag of Tunlinkat. */
export const AT_REMOVEDIR = 0x200;

/** Types of a lock. */
export const LOCK_TYPE_RDLCK = 0;
export const LOCK_TYPE_WRLCK = 1;
export const LOCK_TYPE_UNLCK = 2;
/** Flags of Tlock. */
export const LOCK_FLAGS_BLOCK = 1;
export const LOCK_FLAGS_RECLAIM = 2;
/** Status of Rlock. */
export const LOCK_SUCCESS = 0;
export const LOCK_BLOCKED = 1;
export const LOCK_ERROR = 2;
export const LOCK_GRACE = 3;
