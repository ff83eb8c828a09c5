import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";

import { checkLog } from "@virtio/testkit/no-hints";
import { root } from "../../guest/virtio.ts";
import { Console } from "./console.ts";

/** Of a server: resolves when it has ended; rejects when the guest's drivers got hints. */
const hintsOf = new WeakMap<Console, Promise<void>>();

/**
 * `virtio serve` as a process of its own, when its sockets are there. What it says of the guest's drivers is for `noHints`; a test that
 * gives it a `--log` looks there itself.
 */
export async function serve(argv: readonly string[]): Promise<Console> {
  const count = argv.filter((word) => word === "--socket").length;
  const folder = mkdtempSync(join(tmpdir(), "virtio-hints-"));
  const log = join(folder, "log");
  const logging = argv.includes("--log") ? [] : ["--log", "hints", "--log-file", log];
  const ours = ["packages/cli/bin/virtio.js", "serve", ...argv, ...logging];
  const server = new Console("virtio serve", process.execPath, ours, root);
  const hints = server.ended.then(() => {
    const text = existsSync(log) ? readFileSync(log, "utf8") : "";
    rmSync(folder, { recursive: true });
    checkLog(text);
  });
  // Of a server that is not stopped by these functions its test does not ask.
  hints.catch(() => undefined);
  hintsOf.set(server, hints);
  for (let index = 0; index < count; index++) await server.until(/serving at/, 30_000);
  return server;
}

/** After its end. Throws when the guest's drivers did what they must not. */
async function noHints(server: Console | undefined): Promise<void> {
  if (server !== undefined) await hintsOf.get(server);
}

/** Ends it as a service manager does. Throws when a driver of the guest got a hint. */
export async function stop(server: Console): Promise<void> {
  server.child.kill("SIGTERM");
  const status = await server.finish(20_000);
  if (status !== 0) throw server.error(`ended with ${String(status)}`);
  // Node.js', of something that was not let go of.
  if (/Warning: /.test(server.tail)) throw server.error("said something that a user must not see");
  await noHints(server);
}

/** An export of an image by `qemu-nbd`, when its socket is there. */
export async function serveNbd(image: string, socket: string): Promise<Console> {
  rmSync(socket, { force: true });
  const options = ["-f", "raw", "-t", "-e", "8", "--discard=unmap", "-k", socket];
  const server = new Console("qemu-nbd", "qemu-nbd", [...options, image]);
  for (const deadline = Date.now() + 30_000; !existsSync(socket); await delay(10))
    if (Date.now() > deadline) throw server.error("made no socket");
  return server;
}

/** A server that can be killed and started again with the same socket. */
export class DiskServer {
  readonly #serve: () => Promise<Console>;
  #server: Console | undefined;
  #said = "";
  /** How often it was killed. */
  kills = 0;

  /** @param start gives the process when its socket is there */
  constructor(start: () => Promise<Console>) {
    this.#serve = start;
  }

  async start(): Promise<void> {
    this.#server = await this.#serve();
  }

  /** Kills and starts it, with some seconds of life and some tenths of a second of death, until something is done. */
  async killUntil<T>(done: Promise<T>): Promise<T> {
    let over = false;
    const end = (): void => {
      over = true;
    };
    done.then(end, end);
    for (;;) {
      await Promise.race([done, delay(1000 + 3000 * Math.random())]);
      if (over) return done;
      this.kill();
      await this.#server?.ended;
      await noHints(this.#server);
      this.#said = this.said;
      this.kills++;
      await delay(500 * Math.random());
      await this.start();
    }
  }

  async stop(): Promise<void> {
    if (this.#server !== undefined) await stop(this.#server);
  }

  kill(): void {
    this.#server?.kill();
  }

  /** What all of them said. */
  get said(): string {
    return `${this.#said}\n${this.#server?.tail ?? ""}`.slice(-4000).trim();
  }
}
