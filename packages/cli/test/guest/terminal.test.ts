import { spawn } from "node:child_process";
import { setTimeout as delay } from "node:timers/promises";

import { expect, test } from "vitest";

import { findProgram } from "@virtio/cli/guest/command";
import { root } from "./virtio.ts";

const hasScript = findProgram("script") !== undefined;

test.runIf(hasScript)(
  "on a terminal: a shell with its size and job control; Ctrl-A X leaves and gives the terminal back",
  async () => {
    // `script` runs a command on a terminal of its own.
    const command =
      "stty cols 97 rows 31; node packages/cli/bin/virtio.js boot; echo left $?; stty -a | grep -o -- '[-]*icanon'";
    const child = spawn("script", ["-qfec", command, "/dev/null"], {
      cwd: root,
      env: { ...process.env, TERM: "xterm" },
    });
    let output = "";
    child.stdout.on("data", (bytes: Buffer) => (output += bytes.toString()));
    const closed = new Promise((resolve) => child.on("close", resolve));
    const until = async (text: string | RegExp): Promise<void> => {
      while (output.search(text) < 0) {
        if (child.exitCode !== null) throw new Error(output);
        await delay(20);
      }
      output = output.slice(output.search(text) + 1);
    };
    await until("virtio:~# ");
    child.stdin.write("stty size; tty\r");
    await until("31 97");
    await until("/dev/hvc0");
    child.stdin.write("sleep 1000\r");
    await until("sleep 1000");
    await delay(500);
    child.stdin.write("\u0003");
    await until("virtio:~# ");
    child.stdin.write("echo status $?\r");
    await until("status 130");
    child.stdin.write("\u0001?");
    await until(/Ctrl-A X +leave/);
    child.stdin.write("\u0001x");
    await until("left 0");
    await closed;
    expect(output).toMatch(/(^|[^-])icanon/);
  },
);
