import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { findProgram, needs } from "@virtio/testkit/needs";
import { until } from "@virtio/testkit/until";

const NAME = "qemu-storage-daemon";
export const storageDaemon: string | undefined = findProgram(NAME);

/** A title that tells how to get it. */
export function needsStorageDaemon(title: string): string {
  return needs(NAME, "qemu-system-common", title);
}

export interface StorageDaemon {
  signal(name: NodeJS.Signals): void;
  /** Resolves when it is gone. */
  kill(): Promise<void>;
}

/** QEMU's own vhost-user back-end, serving a raw file. Resolves when it takes connections. */
export async function serveFile(
  file: string,
  socket: string,
  exportOptions: string = "",
): Promise<StorageDaemon> {
  // It writes this when its exports listen. The socket's file is there before: a connection may still be refused then.
  const listens = `${socket}.pid`;
  const child = spawn(
    storageDaemon ?? NAME,
    [
      "--blockdev",
      `driver=file,node-name=file,filename=${file}`,
      "--export",
      `type=vhost-user-blk,id=disk,node-name=file,addr.type=unix,addr.path=${socket},writable=on${exportOptions}`,
      "--pidfile",
      listens,
    ],
    { stdio: ["ignore", "ignore", "pipe"] },
  );
  let said = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => (said += text));
  const ended = new Promise<void>((resolve) => child.once("close", () => resolve()));
  await until(() => {
    if (child.exitCode !== null) throw new Error(`${NAME}: ${said}`);
    return existsSync(listens);
  }, `${NAME} that listens`);
  return {
    signal: (name) => void child.kill(name),
    kill: async () => {
      child.kill("SIGKILL");
      await ended;
    },
  };
}
