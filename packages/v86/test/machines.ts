import { readV86Wasm } from "@virtio/v86/node";
import { host } from "@virtio/v86/globals";
import { V86Core } from "@virtio/v86/internals";
import type { PortEntry } from "@virtio/v86/v86-shape";
import { V86 } from "v86/build/libv86.mjs";
import type { PortMachine } from "./raw-driver.ts";

const MEMORY = 32 << 20;

/** Our board without a guest: the test is its processor. */
export async function openCore(): Promise<{ core: V86Core; machine: PortMachine }> {
  const core = await V86Core.open({ wasm: await readV86Wasm(), memorySize: MEMORY });
  const machine: PortMachine = {
    readPort: (port, size) => core.readPort(port, size),
    writePort: (port, size, value) => core.writePort(port, size, value),
    get ram() {
      return new Uint8Array(core.buffer, core.ramOffset, core.memorySize);
    },
  };
  return { core, machine };
}

interface OwnCpu {
  readonly wasm_memory: { readonly buffer: ArrayBuffer };
  readonly mem8: Uint8Array;
  readonly io: { readonly ports: readonly PortEntry[] };
  read32s(address: number): number;
}

interface OwnEmulator {
  readonly v86: { readonly cpu: OwnCpu };
  add_listener(event: string, listener: (value: Uint8Array) => void): void;
  destroy(): Promise<void>;
}

export interface OwnMachine extends PortMachine {
  readonly cpu: OwnCpu;
  /** What the guest sent to v86's own console. */
  readonly consoleOutput: Uint8Array[];
  destroy(): Promise<void>;
}

/** v86 as it is, with its own virtio devices: 9p (which answers with the request) in slot 6, console in slot 12. */
export async function openV86(): Promise<OwnMachine> {
  const wasm = await readV86Wasm();
  const emulator = new V86({
    memory_size: MEMORY,
    autostart: false,
    disable_keyboard: true,
    disable_mouse: true,
    disable_speaker: true,
    net_device: { type: "none" },
    virtio_console: true,
    filesystem: { handle9p: (request: Uint8Array, reply: (answer: Uint8Array) => void) => reply(request) },
    wasm_fn: async (imports: object) => (await host.WebAssembly.instantiate(wasm, imports)).instance.exports,
  }) as OwnEmulator;
  await new Promise<void>((resolve) => emulator.add_listener("emulator-loaded", () => resolve()));
  const { cpu } = emulator.v86;
  const consoleOutput: Uint8Array[] = [];
  emulator.add_listener("virtio-console0-output-bytes", (bytes) => consoleOutput.push(bytes));
  const entry = (port: number): PortEntry => cpu.io.ports[port] ?? failPort(port);
  return {
    cpu,
    consoleOutput,
    readPort(port, size) {
      const { device, read8, read16, read32 } = entry(port);
      return (size === 1 ? read8 : size === 2 ? read16 : read32).call(device, port) >>> 0;
    },
    writePort(port, size, value) {
      const { device, write8, write16, write32 } = entry(port);
      (size === 1 ? write8 : size === 2 ? write16 : write32).call(device, value | 0);
    },
    get ram() {
      return new Uint8Array(cpu.wasm_memory.buffer, cpu.mem8.byteOffset, MEMORY);
    },
    destroy: () => emulator.destroy(),
  };
}

function failPort(port: number): never {
  throw new Error(`no port ${port}`);
}
