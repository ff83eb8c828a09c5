import type { DeviceInstance } from "../device/instance.ts";

/**
 * The 8-bit `config_generation` of the PCI transport. Following the note of "Common configuration structure layout" it
 * steps when the driver reads configuration that changed, not at each change: 256 changes between two reads must not
 * look like none.
 */
export class ConfigGeneration {
  readonly #instance: DeviceInstance;
  #seen: number;
  value = 0;

  constructor(instance: DeviceInstance) {
    this.#instance = instance;
    this.#seen = instance.generation;
  }

  /** The driver reads device-specific configuration. */
  configRead(): void {
    if (this.#seen === this.#instance.generation) return;
    this.#seen = this.#instance.generation;
    this.value = (this.value + 1) & 0xff;
  }

  /** After a restore: a driver in the middle of reading must start again. */
  restore(value: number): void {
    this.#seen = this.#instance.generation;
    this.value = (value + 1) & 0xff;
  }
}
