import type { StandardPciFunction } from "../../bus/pci/function.ts";
import { VIRTIO_MSI_NO_VECTOR, VIRTIO_PCI_ISR_CONFIG, VIRTIO_PCI_ISR_QUEUE } from "../../spec/pci.ts";

/** ISR status and MSI-X vectors: how notifications of the device reach the driver. */
export class PciInterrupts {
  readonly #fn: StandardPciFunction;
  readonly #queueVectors: Uint16Array;
  #configVector = VIRTIO_MSI_NO_VECTOR;
  #isr = 0;

  constructor(fn: StandardPciFunction, queues: number) {
    this.#fn = fn;
    this.#queueVectors = new Uint16Array(queues).fill(VIRTIO_MSI_NO_VECTOR);
  }

  /** MSI-X vectors of the function. */
  get vectors(): number {
    return this.#fn.msix?.size ?? 0;
  }

  get isr(): number {
    return this.#isr;
  }

  get configVector(): number {
    return this.#configVector;
  }

  /** "MSI-X Vector Configuration": a vector that does not exist is refused by reading back as NO_VECTOR. */
  set configVector(vector: number) {
    this.#configVector = this.#valid(vector);
  }

  queueVector(queue: number): number {
    return this.#queueVectors[queue] ?? VIRTIO_MSI_NO_VECTOR;
  }

  setQueueVector(queue: number, vector: number): void {
    if (queue < this.#queueVectors.length) this.#queueVectors[queue] = this.#valid(vector);
  }

  /** "Used Buffer Notifications" */
  usedBuffer(queue: number): void {
    if (!this.#fn.msixEnabled) return this.#raise(VIRTIO_PCI_ISR_QUEUE);
    const vector = this.queueVector(queue);
    if (vector !== VIRTIO_MSI_NO_VECTOR) this.#fn.msix?.trigger(vector);
  }

  /**
   * "Notification of Device Configuration Changes". The ISR bit is set with MSI-X too: "ISR status capability" asks for
   * it without that condition.
   */
  configurationChange(): void {
    this.#raise(VIRTIO_PCI_ISR_CONFIG);
    if (!this.#fn.msixEnabled || this.#configVector === VIRTIO_MSI_NO_VECTOR) return;
    this.#fn.msix?.trigger(this.#configVector);
  }

  /** The driver's read: it clears the status and takes the interrupt away. */
  readIsr(): number {
    const isr = this.#isr;
    this.#isr = 0;
    this.#fn.setInterrupt(false);
    return isr;
  }

  /** "The device MUST have all queue and configuration change events are unmapped upon reset." */
  reset(): void {
    this.#isr = 0;
    this.#fn.setInterrupt(false);
    this.#configVector = VIRTIO_MSI_NO_VECTOR;
    this.#queueVectors.fill(VIRTIO_MSI_NO_VECTOR);
  }

  saveVectors(): number[] {
    return Array.from(this.#queueVectors);
  }

  /** Vectors that this function does not have become NO_VECTOR. */
  restore(isr: number, configVector: number, queueVectors: readonly number[]): void {
    this.#isr = isr & (VIRTIO_PCI_ISR_QUEUE | VIRTIO_PCI_ISR_CONFIG);
    this.#configVector = this.#valid(configVector);
    queueVectors.forEach((vector, queue) => this.setQueueVector(queue, vector));
  }

  #raise(bit: number): void {
    this.#isr |= bit;
    this.#fn.setInterrupt(true);
  }

  #valid(vector: number): number {
    return vector < this.vectors ? vector : VIRTIO_MSI_NO_VECTOR;
  }
}
