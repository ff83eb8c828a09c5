/** Linux in a page or a process, on our VIRTIO devices: see `EmbeddedMachine`. */
export type {
  MachineOptions,
  MmioPlugOptions,
  PciMode,
  PciPlugOptions,
  PlugOptions,
  PluggedDevice,
} from "./api.ts";
export type { StopReason } from "./internals.ts";
export { EmbeddedMachine } from "./machine.ts";
export { KERNEL_PARAMETERS } from "./boot.ts";
