import { pciAddressText } from "virtio/driver/platform";
import { RegionMemory } from "virtio/memory/region-memory";
import type { VirtioDevice } from "virtio/device/device";
import { InProcessMachine } from "@virtio/testkit/machine";
import type { Target, TargetDevice } from "@virtio/cli/shell/target/types";

const RAM = { start: 0x100000, size: 1 << 20 };

/** Devices of the test, in the machine of the test. */
export class LyingTarget implements Target {
  readonly title = "devices that lie";
  readonly banks = [RAM];
  readonly memory = new RegionMemory([{ gpa: RAM.start, bytes: new Uint8Array(RAM.size) }]);
  readonly ram = RAM;
  readonly failure = undefined;
  onFailure: ((error: Error) => void) | undefined;
  readonly #devices: readonly TargetDevice[];

  constructor(devices: readonly VirtioDevice[]) {
    const machine = new InProcessMachine();
    this.#devices = devices.map((device) => {
      const plugged = machine.plugPci(device);
      const { at } = plugged;
      const place = { bus: "pci", platform: machine.platform, at } as const;
      return { name: `pci ${pciAddressText(at)}`, deviceId: device.id, place, open: () => plugged.open() };
    });
  }

  devices(): Promise<readonly TargetDevice[]> {
    return Promise.resolve(this.#devices);
  }

  close(): Promise<void> {
    return Promise.resolve();
  }
}
