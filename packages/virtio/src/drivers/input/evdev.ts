/** Event types and codes of Linux's input layer that the driver itself knows: no part of VIRTIO. */

export const EV_SYN = 0x00;
export const EV_KEY = 0x01;
export const EV_REL = 0x02;
export const EV_ABS = 0x03;
export const EV_LED = 0x11;
/** Types are below this. */
export const EV_CNT = 0x20;

export const SYN_REPORT = 0;
export const SYN_DROPPED = 3;

export const LED_NUML = 0;
export const LED_CAPSL = 1;
export const LED_SCROLLL = 2;
