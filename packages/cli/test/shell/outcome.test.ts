import { execFileSync, spawnSync } from "node:child_process";
import { mkdirSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { packageFolder } from "@virtio/cli/paths";
import { runLines } from "@virtio/cli/shell/script";
import { afterAll, expect, test } from "vitest";
import { TemporaryFolder } from "./lib/images.ts";
import { inProcess } from "./lib/shell.ts";

const folder = new TemporaryFolder();
afterAll(() => folder.remove());
const disk = folder.write("disk.img", new Uint8Array(1 << 20));

/** The exit status of `-c`. */
async function outcome(commands: string): Promise<number> {
  const shell = await inProcess(["-drive", `file=${disk},format=raw`]);
  const status = await runLines(shell.shell, commands);
  await shell.close();
  return status;
}

test.each([
  ["true", 0],
  ["false", 1],
  ["virtio device 7; echo done", 1],
  ["ls virtio 3 /; true", 1],
  ["nothing; true", 1],
  ["echo 'open\ntrue", 1],
  ["false\ntrue", 1],
  ["exit 3", 3],
  ["false; exit 0", 0],
  // The script asks whether they fail.
  ["if false; then echo a; else echo b; fi", 0],
  ["if true; then false; true; fi", 1],
  ["false || true", 0],
  ["virtio device 7 && echo there; true", 0],
  ["false && true; true", 0],
  ["true && false; true", 1],
  ["while false; do true; done", 0],
  ["for i in 1 2; do false; true; done", 1],
  ["setenv s 'false; true'; run s", 1],
  ["setenv s 'false; true'; run s || true", 0],
  ["setenv s 'false; true'; if run s; then true; fi", 0],
] as const)("%j ends with %d", async (commands, status) => {
  expect(await outcome(commands)).toBe(status);
});

test("a target that cannot be reached is a status other than 0, also when the last command went well", () => {
  const program = join(packageFolder, "bin", "virtio.js");
  const argv = ["shell", "--vhost-user", `blk:${folder.file("nobody")}`, "-c", "virtio scan; echo done"];
  const { status, stdout } = spawnSync(process.execPath, [program, ...argv], { encoding: "utf8" });
  expect(stdout).toContain("done");
  expect(status).toBe(1);
  const fine = ["shell", "-drive", `file=${disk},format=raw`, "-c", "virtio scan; echo done"];
  expect(execFileSync(process.execPath, [program, ...fine], { encoding: "utf8" })).toBe("done\n");
});

test("symbolic links of a share are followed, with a limit, and never above its root", async () => {
  const share = folder.file("share");
  mkdirSync(join(share, "boot", "deep"), { recursive: true });
  writeFileSync(join(share, "boot", "kernel"), "the kernel");
  writeFileSync(folder.file("secret"), "not in the share");
  for (const [target, name] of [
    ["boot/kernel", "lnk"],
    ["/boot/kernel", "absolute"],
    ["../../secret", "up"],
    ["../../../boot/kernel", "above"],
    ["boot/deep", "directory"],
    ["two", "one"],
    ["one", "two"],
    ["boot/new", "dangling"],
    [`${"boot/../".repeat(400)}boot/kernel`, "long"],
    ["boot/kernel/", "through"],
  ] as const)
    symlinkSync(target, join(share, name));
  for (let i = 0; i < 41; i++) symlinkSync(i === 0 ? "lnk" : `c${i - 1}`, join(share, `c${i}`));
  const shell = await inProcess(["-virtfs", `local,path=${share},mount_tag=t,security_model=none`]);
  const load = async (path: string): Promise<string> => {
    const text = await shell.run(`load 9p 0 $loadaddr ${path}`);
    if (!/^\d+ bytes read/.test(text)) return text.split("\n")[0] ?? "";
    const { memory } = shell.shell;
    return Buffer.from(memory.readable(memory.start, Number.parseInt(text, 10))).toString();
  };
  for (const path of ["lnk", "absolute", "above", "directory/../kernel", "long", "c30", "/lnk"])
    expect([path, await load(path)]).toEqual([path, "the kernel"]);
  expect(await load("up")).toBe("no such file or directory");
  expect(await load("one")).toBe("too many symbolic links");
  expect(await load("c40")).toBe("too many symbolic links");
  expect(await load("dangling")).toBe("no such file or directory");
  expect(await load("lnk/x")).toMatch(/no such file or directory|that is no directory/);
  expect(await shell.run("size 9p 0 lnk; printenv filesize")).toBe("filesize=a\n");
  expect(await shell.run("ls 9p 0 directory")).toContain(" ..\n");
  // What a link leads to is written, and made.
  expect(await shell.run("save 9p 0 $loadaddr dangling 4")).toMatch(/^4 bytes written/);
  expect(await load("boot/new")).toHaveLength(4);
  await shell.close();
});
