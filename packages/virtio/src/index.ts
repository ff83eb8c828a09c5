/**
 * VIRTIO devices and drivers. What most programs need, in one place; every other public module has its own path, such as
 * `virtio/bus/pci/host` or `virtio/spec/net`.
 *
 * A device: `new DeviceInstance(device, { label, memory })`, given to `virtioMmio` or `virtioPciFunction`. A driver: `openPci`
 * or `openMmio`, given to a driver's `open`.
 */
export { VirtioFault, type FaultDetail } from "./fault.ts";
export type { Gpa, GuestMemory, Segment } from "./memory/guest-memory.ts";
export { RegionMemory, type MemoryRegion } from "./memory/region-memory.ts";
export { SegmentReader, SegmentWriter } from "./memory/cursor.ts";
export type { DescriptorChain, DeviceQueue, DriverQueue, QueueConfig } from "./virtqueue/types.ts";

export type {
  ConfigSpace,
  DeviceContext,
  MaybePromise,
  QueueSpec,
  RunningQueue,
  VirtioDevice,
} from "./device/device.ts";
export { DeviceInstance } from "./device/instance.ts";
export type { InstanceOptions } from "./device/options.ts";
export type { DeviceInstanceState } from "./device/state.ts";
export { DEFAULT_CORE_FEATURES } from "./device/features.ts";
export type { VirtioObserver } from "./device/observer.ts";
export type { Scheduler } from "./device/scheduler.ts";
export { TextLog } from "./device/text-log.ts";

export type { AccessSize, InterruptLine, IoHandler, MsiTarget, PciFunction, PciSlot } from "./bus/types.ts";
export { virtioMmio, type VirtioMmio } from "./transport/mmio/registers.ts";
export { virtioPciFunction, type VirtioPciFunction } from "./transport/pci/function.ts";

export { ninePDevice } from "./devices/9p/device.ts";
export { BlkDevice } from "./devices/blk/device.ts";
export { ConsoleDevice } from "./devices/console/device.ts";
export { entropyDevice } from "./devices/entropy/device.ts";
export { NetDevice } from "./devices/net/device.ts";

export type { BlockBackend } from "./backends/block.ts";
export type { CharacterBackend, CharacterPort } from "./backends/character.ts";
export type { EntropySource } from "./backends/entropy.ts";
export type { FileSystem } from "./backends/file-system.ts";
export type { NetBackend, NetPort } from "./backends/net.ts";
export { MemoryBlockBackend } from "./backends/memory-block.ts";
export { MemoryFileSystem } from "./backends/memory-file-system.ts";
export { OverlayBlockBackend } from "./backends/overlay-block.ts";

export type { DriverTransport } from "./driver/types.ts";
export { DriverSession } from "./driver/session.ts";
export { openMmio } from "./driver/mmio-transport.ts";
export { openPci } from "./driver/pci-open.ts";
export { findVirtioFunctions } from "./driver/pci-discovery.ts";
export { BalloonDriver } from "./drivers/balloon/driver.ts";
export { BlkDriver } from "./drivers/blk/driver.ts";
export { ConsoleDriver } from "./drivers/console/driver.ts";
export { EntropyDriver } from "./drivers/entropy/driver.ts";
export { GpuDriver } from "./drivers/gpu/driver.ts";
export { InputDriver } from "./drivers/input/driver.ts";
export { NetDriver } from "./drivers/net/driver.ts";
export { NinePDriver } from "./drivers/9p/driver.ts";
export { ScsiDriver } from "./drivers/scsi/driver.ts";
export { VsockDriver } from "./drivers/vsock/driver.ts";
