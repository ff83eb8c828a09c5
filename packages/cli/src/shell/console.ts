import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { createInterface } from "node:readline";
import type { Readable, Writable } from "node:stream";
import { makePrivateFolder, writePrivateFile } from "@virtio/node/private-files";
import { homeFolder } from "../paths.ts";
import { complete } from "./complete.ts";
import { Exit } from "./errors.ts";
import { LineRunner } from "./script.ts";
import type { Shell } from "./shell.ts";

const PROMPT = "=> ";
/** Of a command that goes on. */
const MORE = "> ";
/** Lines kept. */
const HISTORY = 500;

export interface Terminal {
  readonly stdin: Readable;
  readonly stdout: Writable;
}

/** Reads lines from a terminal until Ctrl-D or `exit`; gives the exit status. */
export async function runConsole(shell: Shell, { stdin, stdout }: Terminal): Promise<number> {
  shell.print(`${shell.target.title}. help lists the commands, Ctrl-D leaves.\n`);
  const runner = new LineRunner(shell, true);
  const file = join(homeFolder(), "shell-history");
  const lines = createInterface({
    input: stdin,
    output: stdout,
    terminal: true,
    history: readHistory(file),
    historySize: HISTORY,
    removeHistoryDuplicates: true,
    completer: (line: string) => complete(shell, line),
  });
  lines.on("history", (history) => writeHistory(file, history));
  const queue: string[] = [];
  let running = false;
  let status: number | undefined;
  const { promise, resolve, reject } = withResolvers();
  const ask = (): void => {
    lines.setPrompt(runner.open ? MORE : PROMPT);
    lines.prompt();
  };
  const next = async (): Promise<void> => {
    if (running) return;
    running = true;
    try {
      for (let line = queue.shift(); line !== undefined && status === undefined; line = queue.shift())
        await runner.line(line);
      if (status === undefined) ask();
    } catch (error) {
      if (!(error instanceof Exit)) return reject(error);
      ({ status } = error);
      lines.close();
    } finally {
      running = false;
    }
  };
  lines.on("line", (line) => {
    queue.push(line);
    void next();
  });
  lines.on("SIGINT", () => {
    queue.length = 0;
    if (shell.interrupt()) return;
    runner.clear();
    stdout.write("<INTERRUPT>\n");
    // What was typed so far goes.
    lines.write(null, { ctrl: true, name: "e" });
    lines.write(null, { ctrl: true, name: "u" });
    ask();
  });
  lines.on("close", () => {
    shell.interrupt();
    if (status === undefined) stdout.write("\n");
    resolve();
  });
  ask();
  await promise;
  return status ?? shell.status;
}

/** Promise.withResolvers, which Node 20 has not. */
function withResolvers(): { promise: Promise<void>; resolve: () => void; reject: (error: unknown) => void } {
  let resolve: () => void = () => undefined;
  let reject: (error: unknown) => void = () => undefined;
  const promise = new Promise<void>((yes, no) => {
    resolve = yes;
    reject = no;
  });
  return { promise, resolve, reject };
}

function readHistory(file: string): string[] {
  try {
    return readFileSync(file, "utf8").split("\n").filter(Boolean).slice(0, HISTORY);
  } catch {
    return [];
  }
}

/** Without it nothing is lost but the history. */
function writeHistory(file: string, history: readonly string[]): void {
  try {
    makePrivateFolder(dirname(file));
    writePrivateFile(file, `${history.slice(0, HISTORY).join("\n")}\n`);
  } catch {
    return;
  }
}
