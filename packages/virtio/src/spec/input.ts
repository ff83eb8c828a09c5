/** Numbers of the spec's section "Input Device". */

/** Virtqueue indices. */
export const VIRTIO_INPUT_EVENTQ = 0;
export const VIRTIO_INPUT_STATUSQ = 1;

/** `select` of struct virtio_input_config. */
export const VIRTIO_INPUT_CFG_UNSET = 0;
export const VIRTIO_INPUT_CFG_ID_NAME = 1;
export const VIRTIO_INPUT_CFG_ID_SERIAL = 2;
export const VIRTIO_INPUT_CFG_ID_DEVIDS = 3;
export const VIRTIO_INPUT_CFG_PROP_BITS = 0x10;
export const VIRTIO_INPUT_CFG_EV_BITS = 0x11;
export const VIRTIO_INPUT_CFG_ABS_INFO = 0x12;

/** struct virtio_input_config: offsets in bytes; the union starts where its string does. */
export const VIRTIO_INPUT_CONFIG = { select: 0, subsel: 1, size: 2, "u.string": 8 } as const;
export const VIRTIO_INPUT_CONFIG_SIZE = 136;

/** struct virtio_input_absinfo: offsets in bytes. */
export const VIRTIO_INPUT_ABSINFO = { min: 0, max: 4, fuzz: 8, flat: 12, res: 16 } as const;
export const VIRTIO_INPUT_ABSINFO_SIZE = 20;

/** struct virtio_input_devids: offsets in bytes. */
export const VIRTIO_INPUT_DEVIDS = { bustype: 0, vendor: 2, product: 4, version: 6 } as const;
export const VIRTIO_INPUT_DEVIDS_SIZE = 8;

/** struct virtio_input_event: offsets in bytes. */
export const VIRTIO_INPUT_EVENT = { type: 0, code: 2, value: 4 } as const;
export const VIRTIO_INPUT_EVENT_SIZE = 8;
