import { EmbeddedMachine, KERNEL_PARAMETERS } from "@virtio/v86";
import type { CharacterBackend } from "virtio/backends/character";
import { fillTree } from "virtio/backends/fill-tree";
import { MemoryBlockBackend } from "virtio/backends/memory-block";
import { MemoryFileSystem } from "virtio/backends/memory-file-system";
import { ninePDevice } from "virtio/devices/9p/device";
import { BlkDevice } from "virtio/devices/blk/device";
import { ConsoleDevice } from "virtio/devices/console/device";
import { entropyDevice } from "virtio/devices/entropy/device";

/** What the page fetched. */
export interface GuestFiles {
  readonly kernel: Uint8Array;
  readonly initrd: Uint8Array;
  readonly wasm: Uint8Array;
}

const MEMORY = 128 << 20;
const DISK = 64 << 20;
/** Web Crypto gives at most this many bytes a call. */
const RANDOM_BYTES = 65_536;

/** What the page shows: bytes of the serial port until the console speaks, which begins with all that the kernel has said. */
export interface PageConsole extends CharacterBackend {
  serial(byte: number): void;
}

/** A machine with a disk in memory, a console, entropy, and a directory of the page. */
export async function makeMachine(files: GuestFiles, terminal: PageConsole): Promise<EmbeddedMachine> {
  const { kernel, initrd, wasm } = files;
  // The driver of hvc0 is a module: until it is loaded the kernel speaks on the serial port. The last one is /dev/console.
  const commandLine = `console=ttyS0 console=hvc0 ${KERNEL_PARAMETERS}`;
  const machine = await EmbeddedMachine.create({ memorySize: MEMORY, kernel, initrd, wasm, commandLine });
  machine.onSerial((byte) => terminal.serial(byte));
  const console0 = new ConsoleDevice({ ports: [{ kind: "console", backend: terminal }] });
  machine.plugPci(console0, { label: "console0" });
  machine.plugPci(new BlkDevice(new MemoryBlockBackend(DISK)), { label: "disk0" });
  machine.plugPci(entropyDevice(fillRandom), { label: "rng0" });
  machine.plugPci(ninePDevice({ tag: "page", fileSystem: pageDirectory() }), { label: "share0" });
  return machine;
}

function fillRandom(target: Uint8Array): void {
  for (let at = 0; at < target.length; at += RANDOM_BYTES) {
    const piece = new Uint8Array(Math.min(RANDOM_BYTES, target.length - at));
    target.set(crypto.getRandomValues(piece), at);
  }
}

function pageDirectory(): MemoryFileSystem {
  const fs = new MemoryFileSystem();
  fillTree(fs, { "hello.txt": "This file lives in the page.\n" });
  return fs;
}
