/** Numbers of the vhost-user protocol, as QEMU's docs/interop/vhost-user.rst gives them. */

/** "VHOST_USER_F_PROTOCOL_FEATURES": a feature bit (of the virtio set) that no driver ever sees. */
export const VHOST_USER_F_PROTOCOL_FEATURES = 30;
/** "VHOST_F_LOG_ALL": feature bit by which the front-end switches dirty logging on and off. */
export const VHOST_F_LOG_ALL = 26;

/** Protocol feature bits. */
export const PROTOCOL_F_MQ = 0;
export const PROTOCOL_F_LOG_SHMFD = 1;
export const PROTOCOL_F_RARP = 2;
export const PROTOCOL_F_REPLY_ACK = 3;
export const PROTOCOL_F_MTU = 4;
export const PROTOCOL_F_BACKEND_REQ = 5;
export const PROTOCOL_F_CROSS_ENDIAN = 6;
export const PROTOCOL_F_CRYPTO_SESSION = 7;
export const PROTOCOL_F_PAGEFAULT = 8;
export const PROTOCOL_F_CONFIG = 9;
export const PROTOCOL_F_BACKEND_SEND_FD = 10;
export const PROTOCOL_F_HOST_NOTIFIER = 11;
export const PROTOCOL_F_INFLIGHT_SHMFD = 12;
export const PROTOCOL_F_RESET_DEVICE = 13;
export const PROTOCOL_F_INBAND_NOTIFICATIONS = 14;
export const PROTOCOL_F_CONFIGURE_MEM_SLOTS = 15;
export const PROTOCOL_F_STATUS = 16;
export const PROTOCOL_F_XEN_MMAP = 17;
export const PROTOCOL_F_SHARED_OBJECT = 18;
export const PROTOCOL_F_DEVICE_STATE = 19;

/** Requests of the front-end. */
export const GET_FEATURES = 1;
export const SET_FEATURES = 2;
export const SET_OWNER = 3;
export const RESET_OWNER = 4;
export const SET_MEM_TABLE = 5;
export const SET_LOG_BASE = 6;
export const SET_LOG_FD = 7;
export const SET_VRING_NUM = 8;
export const SET_VRING_ADDR = 9;
export const SET_VRING_BASE = 10;
export const GET_VRING_BASE = 11;
export const SET_VRING_KICK = 12;
export const SET_VRING_CALL = 13;
export const SET_VRING_ERR = 14;
export const GET_PROTOCOL_FEATURES = 15;
export const SET_PROTOCOL_FEATURES = 16;
export const GET_QUEUE_NUM = 17;
export const SET_VRING_ENABLE = 18;
export const SEND_RARP = 19;
export const NET_SET_MTU = 20;
export const SET_BACKEND_REQ_FD = 21;
export const IOTLB_MSG = 22;
export const SET_VRING_ENDIAN = 23;
export const GET_CONFIG = 24;
export const SET_CONFIG = 25;
export const CREATE_CRYPTO_SESSION = 26;
export const CLOSE_CRYPTO_SESSION = 27;
export const POSTCOPY_ADVISE = 28;
export const POSTCOPY_LISTEN = 29;
export const POSTCOPY_END = 30;
export const GET_INFLIGHT_FD = 31;
export const SET_INFLIGHT_FD = 32;
export const GPU_SET_SOCKET = 33;
export const RESET_DEVICE = 34;
export const VRING_KICK = 35;
export const GET_MAX_MEM_SLOTS = 36;
export const ADD_MEM_REG = 37;
export const REM_MEM_REG = 38;
export const SET_STATUS = 39;
export const GET_STATUS = 40;
export const GET_SHARED_OBJECT = 41;
export const SET_DEVICE_STATE_FD = 42;
export const CHECK_DEVICE_STATE = 43;

/** Requests of the back-end. */
export const BACKEND_IOTLB_MSG = 1;
export const BACKEND_CONFIG_CHANGE_MSG = 2;
export const BACKEND_VRING_HOST_NOTIFIER_MSG = 3;
export const BACKEND_VRING_CALL = 4;
export const BACKEND_VRING_ERR = 5;
export const BACKEND_SHARED_OBJECT_ADD = 6;
export const BACKEND_SHARED_OBJECT_REMOVE = 7;
export const BACKEND_SHARED_OBJECT_LOOKUP = 8;

/** Of `flags` in the header. */
export const VERSION = 1;
export const VERSION_MASK = 3;
export const FLAG_REPLY = 4;
export const FLAG_NEED_REPLY = 8;

/** Of the u64 of SET_VRING_KICK, CALL and ERR: the index, and "no descriptor came with this". */
export const VRING_INDEX_MASK = 0xff;
export const VRING_NOFD_MASK = 0x100;
/** Of `flags` in SET_VRING_ADDR. */
export const VRING_F_LOG = 0;

/** Bytes of a page in the dirty log. */
export const LOG_PAGE = 0x1000;

export const IOTLB_MISS = 1;
export const IOTLB_UPDATE = 2;
export const IOTLB_INVALIDATE = 3;
export const IOTLB_ACCESS_FAIL = 4;
export const IOTLB_READ = 1;
export const IOTLB_WRITE = 2;

/** `flags` of SET_CONFIG. */
export const CONFIG_WRITABLE = 0;
export const CONFIG_MIGRATION = 1;

/** SET_DEVICE_STATE_FD. */
export const STATE_SAVE = 0;
export const STATE_LOAD = 1;
export const STATE_PHASE_STOPPED = 0;

/** Regions of one SET_MEM_TABLE, and descriptors of one message. */
export const MAX_TABLE_REGIONS = 8;
export const MAX_DESCRIPTORS = 8;
/** Slots that we offer: what QEMU's x86 machines can have. */
export const MAX_MEM_SLOTS = 509;
export const HEADER_SIZE = 12;
/** Bytes of payload that any message may have; a configuration space is the largest. */
export const MAX_PAYLOAD = 4096;
/** Offset, size and flags before the bytes of GET_CONFIG and SET_CONFIG. */
export const CONFIG_HEADER_SIZE = 12;
