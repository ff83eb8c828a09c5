import { mkdirSync } from "node:fs";
import { Writable } from "node:stream";
import { WriteStream } from "node:tty";
import { expect, test, vi } from "vitest";
import { terminalTransfer } from "@virtio/cli/shell/progress";
import { TemporaryFolder } from "./lib/images.ts";
import { inProcess } from "./lib/shell.ts";

/** A terminal that keeps what is written to it. */
function terminal(): { stream: WriteStream; text: () => string } {
  let text = "";
  const sink = new Writable({
    write(chunk: Buffer, _encoding, done) {
      text += chunk.toString();
      done();
    },
  });
  const stream: WriteStream = Object.assign(Object.create(WriteStream.prototype) as WriteStream, {
    isTTY: true,
    write: (chunk: string) => sink.write(chunk),
  });
  return { stream, text: () => text };
}

test("a transfer that takes a while has a bar, a short one has none", () => {
  vi.useFakeTimers({ toFake: ["performance"] });
  try {
    const { stream, text } = terminal();
    const start = terminalTransfer(stream);
    const short = start("load a", 100);
    short.progress(50);
    short.progress(100);
    short.end();
    expect(text()).toBe("");
    const long = start("load b", 1000);
    vi.advanceTimersByTime(600);
    long.progress(500);
    long.progress(1000);
    long.end();
    expect(text()).toMatch(/load b \[#{10}\.{10}\] {2}50%.*load b \[#{20}\] 100%/s);
  } finally {
    vi.useRealTimers();
  }
});

test("commands tell how far they are, piece by piece", async () => {
  const folder = new TemporaryFolder();
  mkdirSync(folder.file("share"));
  const seen: [string, number, number][] = [];
  const shell = await inProcess(
    [
      "-drive",
      `file=${folder.write("d.img", new Uint8Array(4 << 20))},format=raw`,
      "-virtfs",
      `local,path=${folder.file("share")},mount_tag=t`,
    ],
    {
      transfer: (title, total) => ({
        progress: (done) => void seen.push([title, done, total]),
        end: () => void seen.push(["end", 0, 0]),
      }),
    },
  );
  await shell.run("virtio read 100000 0 1800");
  const title = "virtio read: device 0 block # 0, count 6144 ... ";
  expect(seen).toEqual([...[1, 2, 3].map((megabytes) => [title, megabytes << 20, 3 << 20]), ["end", 0, 0]]);
  seen.length = 0;
  await shell.run("save 9p 0 100000 file 200000; load 9p 0 100000 file");
  expect(seen).toEqual([
    ["save file", 1 << 20, 2 << 20],
    ["save file", 2 << 20, 2 << 20],
    ["end", 0, 0],
    ...Array.from({ length: seen.length - 4 }, (_, i) => ["load file", seen[i + 3]?.[1], 2 << 20]),
    ["end", 0, 0],
  ]);
  expect(seen.at(-2)).toEqual(["load file", 2 << 20, 2 << 20]);
  await shell.close();
  folder.remove();
});
