import { parentPort, workerData } from "node:worker_threads";
import type { FileEntry } from "./types.ts";
import type { FileReport, FileWorkerData } from "./work.ts";
import { WorkerDisk } from "./worker-disk.ts";

/** What a library of a file system does. */
export interface LibraryFiles {
  list(path: string): Promise<FileEntry[]>;
  size(path: string): Promise<number>;
  read(path: string, position: number, length: number, piece: (bytes: Uint8Array) => void): Promise<number>;
  /** `moved` is told how many bytes are written so far. */
  write(path: string, position: number, source: Uint8Array, moved: (bytes: number) => void): Promise<number>;
  unmount(): Promise<void>;
}

/**
 * A worker that does one thing on one file system, and ends. Libraries run here because a broken file system can make
 * them run for ever, or abort: a thread can be ended.
 */
async function run({ type, channel, sectors, work }: FileWorkerData): Promise<number> {
  const disk = new WorkerDisk(channel, sectors, work.kind === "write");
  const mount =
    type === "ext4" ? (await import("./worker-ext.ts")).mountExt : (await import("./worker-fat.ts")).mountFat;
  const files = await mount(disk);
  report({ kind: "mounted" });
  switch (work.kind) {
    case "list": {
      const entries = await files.list(work.path);
      report({ kind: "entries", entries });
      return entries.length;
    }
    case "size":
      return files.size(work.path);
    case "read":
      return files.read(work.path, work.position, work.length, (bytes) => report({ kind: "piece", bytes }));
    case "write": {
      try {
        const wrote = (bytes: number): void => report({ kind: "wrote", bytes });
        return await files.write(work.path, work.position, work.source, wrote);
      } finally {
        // Also when it failed halfway: what was allocated must be known to be.
        await files.unmount();
        disk.flush();
      }
    }
  }
}

function report(message: FileReport): void {
  parentPort?.postMessage(message);
}

if (parentPort !== null) {
  run(workerData as FileWorkerData)
    .then((value) => report({ kind: "done", value }))
    // As the library says it: who hears of it knows its codes.
    .catch((error: unknown) =>
      report({ kind: "failed", message: error instanceof Error ? error.message : String(error) }),
    );
}
