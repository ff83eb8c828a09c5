import { MemoryBlockBackend } from "virtio/backends/memory-block";
import { DeviceInstance } from "virtio/device/instance";
import { BlkDevice } from "virtio/devices/blk/device";
import { RegionMemory } from "virtio/memory/region-memory";
import { virtioMmio } from "virtio/transport/mmio/registers";

/** What your emulator has already: its RAM, and an interrupt input. */
export interface YourMachine {
  readonly ram: Uint8Array;
  setInterrupt(line: number, asserted: boolean): void;
}

/** A 64 MiB disk as memory-mapped registers. Map `length` bytes of it wherever your guest looks for virtio-mmio. */
export function plugDisk(machine: YourMachine, line: number): ReturnType<typeof virtioMmio> {
  const memory = new RegionMemory([{ gpa: 0, bytes: machine.ram }]);
  const disk = new BlkDevice(new MemoryBlockBackend(64 << 20));
  const instance = new DeviceInstance(disk, { label: "disk0", memory });
  return virtioMmio(instance, { interrupt: { set: (asserted) => machine.setInterrupt(line, asserted) } });
}

// In your bus: value = disk.read(address - base, size); disk.write(address - base, size, value);
