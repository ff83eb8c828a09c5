/** Numbers of the spec's sections "Split Virtqueues" and "Packed Virtqueues". */

export const VIRTQ_DESC_F_NEXT = 1;
export const VIRTQ_DESC_F_WRITE = 2;
export const VIRTQ_DESC_F_INDIRECT = 4;
/** Packed only. */
export const VIRTQ_DESC_F_AVAIL = 0x80;
/** Packed only. */
export const VIRTQ_DESC_F_USED = 0x8000;

/** Split, driver area. */
export const VIRTQ_AVAIL_F_NO_INTERRUPT = 1;
/** Split, device area. */
export const VIRTQ_USED_F_NO_NOTIFY = 1;

/** Packed, both event suppression structures. */
export const RING_EVENT_FLAGS_ENABLE = 0;
export const RING_EVENT_FLAGS_DISABLE = 1;
export const RING_EVENT_FLAGS_DESC = 2;

/** Bytes of one descriptor, split and packed. */
export const VIRTQ_DESC_SIZE = 16;
/** The largest Queue Size of either format. */
export const VIRTQ_MAX_SIZE = 32768;
