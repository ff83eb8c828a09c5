import type { EmbeddedMachine } from "@virtio/v86/machine";
import type { CharacterBackend, CharacterPort } from "virtio/backends/character";

/** The machine's first serial port as the port of a character backend. */
export class SerialTerminal implements CharacterPort {
  readonly #machine: EmbeddedMachine;
  readonly #backend: CharacterBackend;

  constructor(machine: EmbeddedMachine, backend: CharacterBackend) {
    this.#machine = machine;
    this.#backend = backend;
    backend.attach(this);
    // The port has no flow control: a byte that the terminal does not take is lost, as on a real line.
    machine.onSerial((byte) => this.#backend.write(Uint8Array.of(byte)));
  }

  receive(bytes: Uint8Array): number {
    this.#machine.sendSerial(bytes);
    return bytes.length;
  }

  ready(): void {
    // Nothing waits.
  }

  setOpen(): void {
    // A serial line is always there.
  }

  resize(): void {
    // A serial line does not know its size.
  }
}
