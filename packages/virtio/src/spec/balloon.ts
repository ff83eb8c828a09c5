/** Numbers of the spec's section "Traditional Memory Balloon Device". */

/** Virtqueue indices, as the spec lists them. What does not exist is not counted by every device; see the driver. */
export const VIRTIO_BALLOON_INFLATEQ = 0;
export const VIRTIO_BALLOON_DEFLATEQ = 1;
export const VIRTIO_BALLOON_STATSQ = 2;
export const VIRTIO_BALLOON_FREE_PAGE_VQ = 3;
export const VIRTIO_BALLOON_REPORTING_VQ = 4;

/** Feature bits. */
export const VIRTIO_BALLOON_F_MUST_TELL_HOST = 0;
export const VIRTIO_BALLOON_F_STATS_VQ = 1;
export const VIRTIO_BALLOON_F_DEFLATE_ON_OOM = 2;
export const VIRTIO_BALLOON_F_FREE_PAGE_HINT = 3;
export const VIRTIO_BALLOON_F_PAGE_POISON = 4;
export const VIRTIO_BALLOON_F_PAGE_REPORTING = 5;

/** Bytes of a page of the balloon, "historical, and independent of the guest page size". */
export const VIRTIO_BALLOON_PAGE_BYTES = 4096;

/** struct virtio_balloon_config: offsets in bytes. */
export const VIRTIO_BALLOON_CONFIG = {
  num_pages: 0,
  actual: 4,
  free_page_hint_cmd_id: 8,
  poison_val: 12,
} as const;
export const VIRTIO_BALLOON_CONFIG_SIZE = 16;

/** Reserved values of `free_page_hint_cmd_id`. */
export const VIRTIO_BALLOON_CMD_ID_STOP = 0;
export const VIRTIO_BALLOON_CMD_ID_DONE = 1;

/** struct virtio_balloon_stat: offsets in bytes. */
export const VIRTIO_BALLOON_STAT = { tag: 0, val: 2 } as const;
export const VIRTIO_BALLOON_STAT_SIZE = 10;

/** `tag` of struct virtio_balloon_stat. */
export const VIRTIO_BALLOON_S_SWAP_IN = 0;
export const VIRTIO_BALLOON_S_SWAP_OUT = 1;
export const VIRTIO_BALLOON_S_MAJFLT = 2;
export const VIRTIO_BALLOON_S_MINFLT = 3;
export const VIRTIO_BALLOON_S_MEMFREE = 4;
export const VIRTIO_BALLOON_S_MEMTOT = 5;
export const VIRTIO_BALLOON_S_AVAIL = 6;
export const VIRTIO_BALLOON_S_CACHES = 7;
export const VIRTIO_BALLOON_S_HTLB_PGALLOC = 8;
export const VIRTIO_BALLOON_S_HTLB_PGFAIL = 9;
