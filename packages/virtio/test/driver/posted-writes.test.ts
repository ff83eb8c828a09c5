import { clause } from "@virtio/testkit/clause";
import { InProcessMachine } from "@virtio/testkit/machine";
import { expect, test } from "vitest";
import type { VirtioDevice } from "virtio/device/device";
import { entropyDevice } from "virtio/devices/entropy/device";
import { openMmio } from "virtio/driver/mmio-transport";
import { openPci, type OpenPciOptions } from "virtio/driver/pci-open";
import type { BusAccess, PciPlatform } from "virtio/driver/platform";
import { DriverSession } from "virtio/driver/session";
import type { DriverTransport } from "virtio/driver/types";

/**
 * What a real bus may do: writes arrive when something is read, or at the end of the turn; and as on a processor,
 * interrupts are handled after what the device is doing, again and again while the line is asserted.
 */
function posting({ platform, interrupts }: InProcessMachine): PciPlatform {
  const posted: (() => void)[] = [];
  const arrive = (): void => {
    for (let write = posted.shift(); write !== undefined; write = posted.shift()) write();
  };
  const bus: BusAccess = {
    read: (space, address, size) => {
      arrive();
      return platform.bus.read(space, address, size);
    },
    write: (space, address, size, value) => {
      if (posted.push(() => platform.bus.write(space, address, size, value)) === 1) queueMicrotask(arrive);
    },
  };
  const connectLine = (line: number, handler: () => boolean): (() => void) =>
    interrupts.connectLine(line, () => {
      queueMicrotask(() => {
        while (interrupts.isAsserted(line) && handler()) arrive();
      });
      return false;
    });
  const allocateMessage: PciPlatform["interrupts"]["allocateMessage"] = (handler) =>
    interrupts.allocateMessage?.(() => queueMicrotask(handler));
  return { ...platform, bus, interrupts: { connectLine, allocateMessage } };
}

type Connect = (machine: InProcessMachine, device: VirtioDevice) => DriverTransport | undefined;

const pci =
  (options: OpenPciOptions): Connect =>
  (machine, device) => {
    const { memoryWindow, ioWindow } = machine;
    const { at } = machine.plugPci(device, { mode: "transitional" });
    return openPci(posting(machine), at, { memoryWindow, ioWindow, ...options });
  };
const mmio =
  (version: 1 | 2): Connect =>
  (machine, device) =>
    openMmio(posting(machine), machine.plugMmio(device, { version }).place);

test.each<[string, Connect]>([
  ["PCI with MSI-X", pci({})],
  ["PCI with INTx", pci({ interrupts: "intx" })],
  ["PCI, legacy", pci({ interface: "legacy" })],
  [clause("drv.mmio.interrupts", "MMIO"), mmio(2)],
  [clause("drv.mmio.interrupts", "MMIO, legacy"), mmio(1)],
])("no notification is lost when writes to registers arrive late: %s", async (_name, connect) => {
  const transport = connect(
    new InProcessMachine(),
    entropyDevice((target) => void target.fill(1)),
  );
  if (transport === undefined) throw new Error("no device was found");
  const session = await DriverSession.open(transport, { wanted: 0n });
  const queue = session.addQueue(0, 8);
  const buffer = { gpa: transport.memory.allocate(64, 16), length: 64 };
  session.ready();
  // Each request is sent while the interrupt of the one before it is handled, and is done before that is acknowledged.
  await new Promise<void>((resolve) => {
    const send = (left: number): void => {
      queue.post([], [buffer], () => (left === 0 ? resolve() : send(left - 1)));
      queue.kick();
    };
    send(20);
  });
  expect(queue.outstanding).toBe(0);
  await session.close();
});
