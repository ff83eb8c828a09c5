import "@xterm/xterm/css/xterm.css";
import type { StopReason } from "@virtio/v86";
import wasmUrl from "v86/build/v86.wasm?url";
import { fetchFile } from "./fetch-file.ts";
import { makeMachine } from "./guest.ts";
import { showQueues } from "./queue-table.ts";
import { PageTerminal } from "./terminal.ts";

declare global {
  interface Window {
    /** What the browser test looks at. */
    guestConsole?: PageTerminal;
  }
}

const endings: Readonly<Record<StopReason, string>> = {
  "power-off": "Powered off. Load the page again to start anew.",
  reset: "The guest restarted. Load the page again to start anew.",
  halt: "The guest halted. Load the page again to start anew.",
};

function element<T extends HTMLElement>(id: string, kind: new () => T): T {
  const found = document.getElementById(id);
  if (!(found instanceof kind)) throw new Error(`the page has no ${id}`);
  return found;
}

async function main(): Promise<void> {
  const status = element("status", HTMLElement);
  const progress = element("progress", HTMLProgressElement);
  const parts = [0, 0, 0];
  const load = (url: string, index: number): Promise<Uint8Array> =>
    fetchFile(url, (done) => {
      parts[index] = done;
      progress.value = parts.reduce((sum, part) => sum + part, 0) / parts.length;
    });
  try {
    const [kernel, initrd, wasm] = await Promise.all([
      load("./guest/vmlinux", 0),
      load("./guest/initrd", 1),
      load(wasmUrl, 2),
    ]);
    status.textContent = "Booting";
    const terminal = new PageTerminal(
      element("terminal", HTMLElement),
      () => (status.textContent = "Running"),
    );
    window.guestConsole = terminal;
    const machine = await makeMachine({ kernel, initrd, wasm }, terminal);
    machine.onStop = (reason) => (status.textContent = endings[reason]);
    showQueues(machine, element("queues", HTMLElement));
    machine.run();
    progress.hidden = true;
  } catch (error) {
    status.textContent = error instanceof Error ? error.message : String(error);
  }
}

void main();
