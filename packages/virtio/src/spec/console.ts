/** Numbers of the spec's section "Console Device". */

/** Feature bits. */
export const VIRTIO_CONSOLE_F_SIZE = 0;
export const VIRTIO_CONSOLE_F_MULTIPORT = 1;
export const VIRTIO_CONSOLE_F_EMERG_WRITE = 2;

/** Virtqueue indices of port 0 and of the control queues; port n > 0 has 2n + 2 and 2n + 3. */
export const VIRTIO_CONSOLE_RECEIVEQ_PORT0 = 0;
export const VIRTIO_CONSOLE_TRANSMITQ_PORT0 = 1;
export const VIRTIO_CONSOLE_CONTROL_RECEIVEQ = 2;
export const VIRTIO_CONSOLE_CONTROL_TRANSMITQ = 3;

/** `event` of struct virtio_console_control. */
export const VIRTIO_CONSOLE_DEVICE_READY = 0;
export const VIRTIO_CONSOLE_DEVICE_ADD = 1;
export const VIRTIO_CONSOLE_DEVICE_REMOVE = 2;
export const VIRTIO_CONSOLE_PORT_READY = 3;
export const VIRTIO_CONSOLE_CONSOLE_PORT = 4;
export const VIRTIO_CONSOLE_RESIZE = 5;
export const VIRTIO_CONSOLE_PORT_OPEN = 6;
export const VIRTIO_CONSOLE_PORT_NAME = 7;

/** struct virtio_console_config: offsets in bytes. */
export const VIRTIO_CONSOLE_CONFIG = { cols: 0, rows: 2, max_nr_ports: 4, emerg_wr: 8 } as const;
export const VIRTIO_CONSOLE_CONFIG_SIZE = 12;

/** struct virtio_console_control: offsets in bytes. */
export const VIRTIO_CONSOLE_CONTROL = { id: 0, event: 4, value: 6 } as const;
export const VIRTIO_CONSOLE_CONTROL_SIZE = 8;

/** struct virtio_console_resize: le16 cols, le16 rows. */
export const VIRTIO_CONSOLE_RESIZE_SIZE = 4;

/** The virtqueue index of a port's receiveq; its transmitq is the next one. */
export function consolePortQueue(port: number): number {
  return port === 0 ? VIRTIO_CONSOLE_RECEIVEQ_PORT0 : 2 * port + 2;
}
