/** Numbers of the spec's section "GPU Device": what the 2D mode needs. */

/** Virtqueue indices. */
export const VIRTIO_GPU_CONTROLQ = 0;
export const VIRTIO_GPU_CURSORQ = 1;

/** Feature bits. */
export const VIRTIO_GPU_F_VIRGL = 0;
export const VIRTIO_GPU_F_EDID = 1;
export const VIRTIO_GPU_F_RESOURCE_UUID = 2;
export const VIRTIO_GPU_F_RESOURCE_BLOB = 3;
export const VIRTIO_GPU_F_CONTEXT_INIT = 4;
export const VIRTIO_GPU_F_BLOB_ALIGNMENT = 5;

/** Bits of `events_read` and `events_clear`. */
export const VIRTIO_GPU_EVENT_DISPLAY = 1;

/** struct virtio_gpu_config: offsets in bytes, up to what exists without blobs. */
export const VIRTIO_GPU_CONFIG = {
  events_read: 0,
  events_clear: 4,
  num_scanouts: 8,
  num_capsets: 12,
} as const;

export const VIRTIO_GPU_MAX_SCANOUTS = 16;
/** Pixels of a cursor, each way: "it must be 64x64 in size". */
export const VIRTIO_GPU_CURSOR_PIXELS = 64;

/** `type` of a request. */
export const VIRTIO_GPU_CMD_GET_DISPLAY_INFO = 0x0100;
export const VIRTIO_GPU_CMD_RESOURCE_CREATE_2D = 0x0101;
export const VIRTIO_GPU_CMD_RESOURCE_UNREF = 0x0102;
export const VIRTIO_GPU_CMD_SET_SCANOUT = 0x0103;
export const VIRTIO_GPU_CMD_RESOURCE_FLUSH = 0x0104;
export const VIRTIO_GPU_CMD_TRANSFER_TO_HOST_2D = 0x0105;
export const VIRTIO_GPU_CMD_RESOURCE_ATTACH_BACKING = 0x0106;
export const VIRTIO_GPU_CMD_RESOURCE_DETACH_BACKING = 0x0107;
export const VIRTIO_GPU_CMD_GET_EDID = 0x010a;
export const VIRTIO_GPU_CMD_UPDATE_CURSOR = 0x0300;
export const VIRTIO_GPU_CMD_MOVE_CURSOR = 0x0301;

/** `type` of a response. */
export const VIRTIO_GPU_RESP_OK_NODATA = 0x1100;
export const VIRTIO_GPU_RESP_OK_DISPLAY_INFO = 0x1101;
export const VIRTIO_GPU_RESP_OK_EDID = 0x1104;
export const VIRTIO_GPU_RESP_ERR_UNSPEC = 0x1200;
export const VIRTIO_GPU_RESP_ERR_OUT_OF_MEMORY = 0x1201;
export const VIRTIO_GPU_RESP_ERR_INVALID_SCANOUT_ID = 0x1202;
export const VIRTIO_GPU_RESP_ERR_INVALID_RESOURCE_ID = 0x1203;
export const VIRTIO_GPU_RESP_ERR_INVALID_CONTEXT_ID = 0x1204;
export const VIRTIO_GPU_RESP_ERR_INVALID_PARAMETER = 0x1205;

/** Bits of `flags`. */
export const VIRTIO_GPU_FLAG_FENCE = 1;

/** Pixel formats: the order of the bytes in memory. */
export const VIRTIO_GPU_FORMAT_B8G8R8A8_UNORM = 1;
export const VIRTIO_GPU_FORMAT_B8G8R8X8_UNORM = 2;
export const VIRTIO_GPU_FORMAT_A8R8G8B8_UNORM = 3;
export const VIRTIO_GPU_FORMAT_X8R8G8B8_UNORM = 4;
export const VIRTIO_GPU_FORMAT_R8G8B8A8_UNORM = 67;
export const VIRTIO_GPU_FORMAT_X8B8G8R8_UNORM = 68;
export const VIRTIO_GPU_FORMAT_A8B8G8R8_UNORM = 121;
export const VIRTIO_GPU_FORMAT_R8G8B8X8_UNORM = 134;

/** struct virtio_gpu_ctrl_hdr: offsets in bytes. */
export const VIRTIO_GPU_CTRL_HDR = { type: 0, flags: 4, fence_id: 8, ctx_id: 16, ring_idx: 20 } as const;
export const VIRTIO_GPU_CTRL_HDR_SIZE = 24;

/** struct virtio_gpu_display_one: offsets in bytes. */
export const VIRTIO_GPU_DISPLAY_ONE = {
  "r.x": 0,
  "r.y": 4,
  "r.width": 8,
  "r.height": 12,
  enabled: 16,
  flags: 20,
} as const;
export const VIRTIO_GPU_DISPLAY_ONE_SIZE = 24;
export const VIRTIO_GPU_RESP_DISPLAY_INFO_SIZE = 408;

/** struct virtio_gpu_get_edid and its response: offsets in bytes. */
export const VIRTIO_GPU_GET_EDID = { scanout: 24 } as const;
export const VIRTIO_GPU_GET_EDID_SIZE = 32;
export const VIRTIO_GPU_RESP_EDID = { size: 24, edid: 32 } as const;
export const VIRTIO_GPU_RESP_EDID_SIZE = 1056;

/** Requests about resources: offsets in bytes. */
export const VIRTIO_GPU_RESOURCE_CREATE_2D = { resource_id: 24, format: 28, width: 32, height: 36 } as const;
export const VIRTIO_GPU_RESOURCE_CREATE_2D_SIZE = 40;
export const VIRTIO_GPU_RESOURCE_UNREF = { resource_id: 24 } as const;
export const VIRTIO_GPU_RESOURCE_UNREF_SIZE = 32;
export const VIRTIO_GPU_RESOURCE_ATTACH_BACKING = { resource_id: 24, nr_entries: 28 } as const;
export const VIRTIO_GPU_RESOURCE_ATTACH_BACKING_SIZE = 32;
export const VIRTIO_GPU_MEM_ENTRY = { addr: 0, length: 8 } as const;
export const VIRTIO_GPU_MEM_ENTRY_SIZE = 16;
export const VIRTIO_GPU_RESOURCE_DETACH_BACKING = { resource_id: 24 } as const;
export const VIRTIO_GPU_RESOURCE_DETACH_BACKING_SIZE = 32;

/** struct virtio_gpu_rect: offsets in bytes; in requests it follows the header. */
export const VIRTIO_GPU_RECT = { x: 0, y: 4, width: 8, height: 12 } as const;
export const VIRTIO_GPU_SET_SCANOUT = { "r.x": 24, scanout_id: 40, resource_id: 44 } as const;
export const VIRTIO_GPU_SET_SCANOUT_SIZE = 48;
export const VIRTIO_GPU_RESOURCE_FLUSH = { "r.x": 24, resource_id: 40 } as const;
export const VIRTIO_GPU_RESOURCE_FLUSH_SIZE = 48;
export const VIRTIO_GPU_TRANSFER_TO_HOST_2D = { "r.x": 24, offset: 40, resource_id: 48 } as const;
export const VIRTIO_GPU_TRANSFER_TO_HOST_2D_SIZE = 56;

/** struct virtio_gpu_update_cursor: offsets in bytes. */
export const VIRTIO_GPU_UPDATE_CURSOR = {
  "pos.scanout_id": 24,
  "pos.x": 28,
  "pos.y": 32,
  resource_id: 40,
  hot_x: 44,
  hot_y: 48,
} as const;
export const VIRTIO_GPU_UPDATE_CURSOR_SIZE = 56;
