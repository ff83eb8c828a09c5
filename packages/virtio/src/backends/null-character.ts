import type { CharacterBackend, CharacterPort } from "./character.ts";

/** Takes everything and says nothing: QEMU's `-chardev null`. */
export class NullCharacterBackend implements CharacterBackend {
  attach(port: CharacterPort | undefined): void {
    port?.setOpen(true);
  }

  write(bytes: Uint8Array): number {
    return bytes.length;
  }
}
