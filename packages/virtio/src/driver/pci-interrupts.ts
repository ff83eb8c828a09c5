import {
  PCI_COMMAND,
  PCI_COMMAND_INTX_DISABLE,
  PCI_INTERRUPT_LINE,
  PCI_MSIX_CONTROL,
  PCI_MSIX_CONTROL_ENABLE,
  PCI_MSIX_CONTROL_MASK_ALL,
  PCI_MSIX_ENTRY_ADDRESS,
  PCI_MSIX_ENTRY_ADDRESS_HIGH,
  PCI_MSIX_ENTRY_CONTROL,
  PCI_MSIX_ENTRY_DATA,
  PCI_MSIX_ENTRY_SIZE,
} from "../bus/pci/registers.ts";
import { VIRTIO_MSI_NO_VECTOR, VIRTIO_PCI_ISR_CONFIG, VIRTIO_PCI_ISR_QUEUE } from "../spec/pci.ts";
import type { MsixCapability } from "./pci-capabilities.ts";
import type { PciConfig } from "./pci-config.ts";
import type { InterruptAccess, InterruptMessage } from "./platform.ts";
import type { RegisterWindow } from "./register-window.ts";
import type { DeviceNotification } from "./types.ts";

type Notify = (notification: DeviceNotification) => void;

/** How a function's interrupts reach its driver. */
export interface PciInterrupts {
  /** Vector to write into `config_msix_vector`, or undefined without MSI-X. */
  readonly configVector: number | undefined;
  queueVector(queue: number): number | undefined;
  close(): void;
}

/** What an interrupt setup needs. */
export interface PciInterruptParts {
  readonly config: PciConfig;
  readonly interrupts: InterruptAccess;
  /** Reading it clears it. */
  readonly readIsr: () => number;
  readonly notify: Notify;
}

const USED: DeviceNotification = { queue: undefined, used: true, configuration: false };
const CONFIGURATION: DeviceNotification = { queue: undefined, used: false, configuration: true };
const BOTH: DeviceNotification = { queue: undefined, used: true, configuration: true };

/** INTx: the shared line, and the ISR status that tells what it was. */
export function connectIntx({ config, interrupts, readIsr, notify }: PciInterruptParts): PciInterrupts {
  config.write(PCI_COMMAND, 2, config.read(PCI_COMMAND, 2) & ~PCI_COMMAND_INTX_DISABLE);
  const disconnect = interrupts.connectLine(config.read(PCI_INTERRUPT_LINE, 1), () => {
    const isr = readIsr() & (VIRTIO_PCI_ISR_QUEUE | VIRTIO_PCI_ISR_CONFIG);
    if (isr === 0) return false;
    // "A driver MUST handle the case where the same interrupt is used to indicate both".
    notify(isr === VIRTIO_PCI_ISR_QUEUE ? USED : isr === VIRTIO_PCI_ISR_CONFIG ? CONFIGURATION : BOTH);
    return true;
  });
  return { configVector: undefined, queueVector: () => undefined, close: disconnect };
}

/**
 * MSI-X: vector 0 for configuration changes, one for each virtqueue if there are enough, else one for all of them, else
 * all on vector 0. Undefined when the machine has no messages.
 */
export function connectMsix(
  { config, interrupts, notify }: PciInterruptParts,
  { capability, size }: MsixCapability,
  table: RegisterWindow,
  queues: number,
): PciInterrupts | undefined {
  const wanted = size > queues ? queues + 1 : Math.min(size, 2);
  const messages: InterruptMessage[] = [];
  const release = (): void => {
    for (const message of messages.splice(0)) message.release();
  };
  const control = capability + PCI_MSIX_CONTROL;
  try {
    for (let vector = 0; vector < wanted; vector++) {
      const message = interrupts.allocateMessage?.(() => notify(notifications[vector] ?? BOTH));
      if (message === undefined) break;
      messages.push(message);
    }
    const count = messages.length > queues ? queues + 1 : Math.min(messages.length, 2);
    const notifications = meanings(count, queues);
    if (count === 0) return undefined;
    config.write(control, 2, PCI_MSIX_CONTROL_ENABLE | PCI_MSIX_CONTROL_MASK_ALL);
    messages.slice(0, count).forEach((message, vector) => programVector(table, vector, message));
    config.write(PCI_COMMAND, 2, config.read(PCI_COMMAND, 2) | PCI_COMMAND_INTX_DISABLE);
    config.write(control, 2, PCI_MSIX_CONTROL_ENABLE);
    return {
      configVector: 0,
      queueVector: (queue) => (count > queues ? queue + 1 : count - 1),
      close: () => {
        try {
          config.write(control, 2, 0);
        } finally {
          release();
        }
      },
    };
  } catch (error) {
    release();
    throw error;
  }
}

/** What each vector stands for. */
function meanings(count: number, queues: number): readonly DeviceNotification[] {
  if (count === 1 && queues > 0) return [BOTH];
  if (count === 2 && queues > 1) return [CONFIGURATION, USED];
  return [
    CONFIGURATION,
    ...Array.from({ length: queues }, (_, queue) => ({ queue, used: true, configuration: false })),
  ];
}

function programVector(table: RegisterWindow, vector: number, message: InterruptMessage): void {
  const entry = vector * PCI_MSIX_ENTRY_SIZE;
  table.write(entry + PCI_MSIX_ENTRY_ADDRESS, 4, message.address % 2 ** 32);
  table.write(entry + PCI_MSIX_ENTRY_ADDRESS_HIGH, 4, Math.floor(message.address / 2 ** 32));
  table.write(entry + PCI_MSIX_ENTRY_DATA, 4, message.data);
  table.write(entry + PCI_MSIX_ENTRY_CONTROL, 4, 0);
}

/**
 * Writes a vector and reads it back ("the driver MUST verify success by reading the Vector field value"). Throws when
 * the device could not map it.
 */
export function mapVector(
  write: (vector: number) => void,
  read: () => number,
  vector: number,
  what: string,
): void {
  write(vector);
  const mapped = read();
  if (mapped === vector) return;
  const answer = mapped === VIRTIO_MSI_NO_VECTOR ? "no vector" : `vector ${mapped}`;
  throw new Error(`MSI-X vector ${vector} for ${what}: the device answers with ${answer}`);
}
