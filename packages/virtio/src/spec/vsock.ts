/** Numbers of the spec's section "Socket Device". */

/** Virtqueue indices. */
export const VIRTIO_VSOCK_RX = 0;
export const VIRTIO_VSOCK_TX = 1;
export const VIRTIO_VSOCK_EVENT_QUEUE = 2;

/** Feature bits. */
export const VIRTIO_VSOCK_F_STREAM = 0;
export const VIRTIO_VSOCK_F_SEQPACKET = 1;
export const VIRTIO_VSOCK_F_NO_IMPLIED_STREAM = 2;

/** struct virtio_vsock_config: offsets in bytes. */
export const VIRTIO_VSOCK_CONFIG = { guest_cid: 0 } as const;
export const VIRTIO_VSOCK_CONFIG_SIZE = 8;

/** "Well-known CID for the host"; 0, 1 and 0xffffffff are nobody's. */
export const VIRTIO_VSOCK_CID_HOST = 2;
/** The first that a guest can have. */
export const VIRTIO_VSOCK_CID_FIRST = 3;
export const VIRTIO_VSOCK_CID_RESERVED = 0xffff_ffff;

/** struct virtio_vsock_hdr: offsets in bytes. */
export const VIRTIO_VSOCK_HDR = {
  src_cid: 0,
  dst_cid: 8,
  src_port: 16,
  dst_port: 20,
  len: 24,
  type: 28,
  op: 30,
  flags: 32,
  buf_alloc: 36,
  fwd_cnt: 40,
} as const;
export const VIRTIO_VSOCK_HDR_SIZE = 44;

/** `op`. */
export const VIRTIO_VSOCK_OP_INVALID = 0;
export const VIRTIO_VSOCK_OP_REQUEST = 1;
export const VIRTIO_VSOCK_OP_RESPONSE = 2;
export const VIRTIO_VSOCK_OP_RST = 3;
export const VIRTIO_VSOCK_OP_SHUTDOWN = 4;
export const VIRTIO_VSOCK_OP_RW = 5;
export const VIRTIO_VSOCK_OP_CREDIT_UPDATE = 6;
export const VIRTIO_VSOCK_OP_CREDIT_REQUEST = 7;

/** `type`. */
export const VIRTIO_VSOCK_TYPE_STREAM = 1;
export const VIRTIO_VSOCK_TYPE_SEQPACKET = 2;

/** `flags` of VIRTIO_VSOCK_OP_SHUTDOWN, as bit numbers. */
export const VIRTIO_VSOCK_SHUTDOWN_F_RECEIVE = 0;
export const VIRTIO_VSOCK_SHUTDOWN_F_SEND = 1;

/** `flags` of VIRTIO_VSOCK_OP_RW of seqpacket sockets, as bits. */
export const VIRTIO_VSOCK_SEQ_EOM = 1;
export const VIRTIO_VSOCK_SEQ_EOR = 2;

/** struct virtio_vsock_event: its one field and what it can be. */
export const VIRTIO_VSOCK_EVENT_SIZE = 4;
export const VIRTIO_VSOCK_EVENT_TRANSPORT_RESET = 0;
