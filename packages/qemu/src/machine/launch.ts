import { choiceOption, flagOptions, textOption } from "virtio/check-option";
import { checkTimeout } from "../timeout-option.ts";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Mapping } from "@virtio/node/native/mapping";
import type { Descriptor } from "@virtio/vhost-user/native/descriptor";
import { createMemfd } from "@virtio/vhost-user/native/memfd";
import { UnixSocket } from "@virtio/vhost-user/native/unix-socket";
import { readCommand, type QemuCommand } from "../command-line.ts";
import { QemuError } from "../error.ts";
import { QemuProcess } from "../process.ts";
import { QmpClient, QmpError } from "../qmp/client.ts";
import { QtestClient } from "../qtest/client.ts";
import { BlockingSocket } from "../qtest/socket.ts";

export interface LaunchOptions {
  /** The command line as a user would type it: `["qemu-system-arm", "-M", "versatilepb", "-device", …]`. */
  readonly argv: readonly string[];
  /** How long QEMU may take for anything, in milliseconds from 1 to 2^31 - 1. Default 10 s. */
  readonly timeout?: number;
  /** Ends the start, and the machine when it runs. */
  readonly signal?: AbortSignal;
  /** Also the devices that QEMU adds by itself (a network card, a serial port). Default false. */
  readonly defaults?: boolean;
  /**
   * How QEMU's processors are kept from running. Distributions build QEMU without its `qtest` accelerator, so by default
   * processors are there and never start. With `qtest` there are none, and the machine's clock stands still but for
   * `clockStep`.
   */
  readonly accelerator?: "tcg" | "qtest";
}

/** A QEMU that runs, and what connects it to us. */
export interface Launched {
  readonly process: QemuProcess;
  readonly qmp: QmpClient;
  readonly qtest: QtestClient;
  /** All of its memory. */
  readonly memory: Mapping;
  /** Files for QEMU and from it; goes with the machine. */
  readonly folder: string;
}

/** Id of the memory back-end. */
export const MEMORY_ID = "virtio-memory";

const TIMEOUT = 10_000;
/** The first descriptor that a child is given beside its standard ones. */
const FIRST_DESCRIPTOR = 3;

/**
 * Starts QEMU and connects to it. Rejects with a QemuError that has QEMU's own words; on an option that cannot be with a RangeError or
 * TypeError that names it, before anything was started.
 */
export async function launch(options: LaunchOptions): Promise<Launched> {
  const { signal, timeout = TIMEOUT } = options;
  checkOptions(options);
  signal?.throwIfAborted();
  const command = readCommand(options.argv);
  const folder = mkdtempSync(join(tmpdir(), "virtio-qemu-"));
  const open: { close(): void }[] = [];
  let child: QemuProcess | undefined;
  try {
    const [qtestHere, qtestThere] = pair(open);
    const [qmpHere, qmpThere] = pair(open);
    const memfd = keep(open, createMemfd(MEMORY_ID, command.memory));
    const memory = Mapping.map(memfd.fd, 0, command.memory);
    open.push({ close: () => memory.unmap() });
    child = new QemuProcess(command.program, argumentsOf(command, options, folder), [
      qtestThere.fd,
      qmpThere.fd,
      memfd.fd,
    ]);
    const explain = wordsOf(child);
    for (const there of [qtestThere, qmpThere, memfd]) there.close();
    const stream = new Socket({ fd: qmpHere.descriptor.release(), readable: true, writable: true });
    const qmp = await orEnd(child, QmpClient.over(stream, { timeout, explain, ...(signal && { signal }) }));
    const qtest = new QtestClient(new BlockingSocket(qtestHere), { timeout, explain });
    return { process: child, qmp, qtest, memory, folder };
  } catch (error) {
    for (const one of open) one.close();
    child?.kill();
    await child?.close();
    rmSync(folder, { recursive: true, force: true });
    throw error;
  }
}

function checkOptions(options: LaunchOptions): void {
  checkTimeout("qemu", options);
  flagOptions("qemu", options, ["defaults"]);
  if (options.accelerator !== undefined)
    choiceOption("qemu: accelerator", options.accelerator, ["tcg", "qtest"]);
  for (const word of options.argv) textOption("qemu: word of argv", word);
}

function wordsOf(child: QemuProcess): () => string {
  return () => child.lastWords();
}

/** The tree that QEMU made for the machine, or undefined when it made none. */
export async function readDeviceTree({ qmp, folder }: Launched): Promise<Uint8Array | undefined> {
  const path = join(folder, "machine.dtb");
  try {
    await qmp.execute("dumpdtb", { filename: path });
  } catch (error) {
    if (error instanceof QmpError) return undefined;
    throw error;
  }
  return readFileSync(path);
}

function argumentsOf(command: QemuCommand, options: LaunchOptions, folder: string): string[] {
  const [qtest, qmp, memory] = [0, 1, 2].map((i) => FIRST_DESCRIPTOR + i);
  const backend = `memory-backend-file,id=${MEMORY_ID},size=${command.memory}`;
  const processors = options.accelerator === "qtest" ? [] : parked(command, folder);
  const defaults = options.defaults === true ? [] : ["-nodefaults"];
  const ours = [
    "-display none",
    `-accel ${options.accelerator ?? "tcg"}`,
    `-chardev socket,id=qtest,fd=${qtest} -qtest chardev:qtest -qtest-log none`,
    `-chardev socket,id=qmp,fd=${qmp} -mon chardev=qmp,mode=control`,
    `-object ${backend},mem-path=/proc/self/fd/${memory},share=on`,
    `-machine memory-backend=${MEMORY_ID}`,
  ].flatMap((part) => part.split(" "));
  return [...command.argv, ...defaults, ...ours, ...processors];
}

/** Keeps processors from running a single instruction, or, on a PC, from running more than a HLT. */
function parked(command: QemuCommand, folder: string): string[] {
  if (command.target === "x86_64" || command.target === "i386") {
    const path = join(folder, "halt.bin");
    writeFileSync(path, haltFirmware());
    return ["-bios", path];
  }
  const bios = command.target.startsWith("riscv") ? ["-bios", "none"] : [];
  return ["-global", "cpu.start-powered-off=on", ...bios];
}

const FIRMWARE_SIZE = 0x10000;
/** The first instruction of an x86 processor, from the end of its firmware. */
const RESET_VECTOR = 0x10;

/** `cli; hlt; jmp` back: an x86 bootstrap processor always starts, so it is given something to start with. */
function haltFirmware(): Uint8Array {
  const firmware = new Uint8Array(FIRMWARE_SIZE);
  firmware.set([0xfa, 0xf4, 0xeb, 0xfd], FIRMWARE_SIZE - RESET_VECTOR);
  return firmware;
}

function pair(open: { close(): void }[]): [UnixSocket, UnixSocket] {
  const sockets = UnixSocket.pair();
  open.push(...sockets);
  return sockets;
}

function keep(open: { close(): void }[], descriptor: Descriptor): Descriptor {
  open.push(descriptor);
  return descriptor;
}

/** The result, or how QEMU ended before there was one. */
async function orEnd<T>(child: QemuProcess, result: Promise<T>): Promise<T> {
  try {
    return await result;
  } catch (error) {
    if (!(error instanceof QemuError)) throw error;
    // A connection that ended is the first to be heard of, and the end of the process says more.
    const soon = new Promise<void>((resolve) => setTimeout(resolve, 200));
    await Promise.race([child.ended, soon]);
    throw child.how === undefined ? error : child.error();
  }
}
