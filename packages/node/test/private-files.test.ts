import {
  chmodSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { FileCharacterBackend, SocketCharacterBackend } from "@virtio/node";
import { checkPrivateFile, makePrivateFolder, writePrivateFile } from "@virtio/node/private-files";
import { afterEach, beforeEach, expect, test } from "vitest";

let folder: string;
let umask: number;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "virtio-private-"));
  // What is made is private even for who forbids nothing.
  umask = process.umask(0);
});
afterEach(() => {
  process.umask(umask);
  rmSync(folder, { recursive: true });
});

const modeOf = (path: string): string => (statSync(path).mode & 0o777).toString(8);

test("a file is for its user alone, replaces a symbolic link and writes through none", () => {
  const [target, path] = [join(folder, "precious"), join(folder, "state")];
  writeFileSync(target, "precious");
  symlinkSync(target, path);
  // What was predictable in the name of the file that is written first.
  symlinkSync(target, `${path}.new`);
  symlinkSync(target, `${path}.${process.pid}`);
  writePrivateFile(path, "head\n", new Uint8Array([65, 66]));
  expect(readFileSync(path, "latin1")).toBe("head\nAB");
  expect(modeOf(path)).toBe("600");
  expect(readFileSync(target, "latin1")).toBe("precious");
  expect(readdirSync(folder).sort()).toEqual(
    ["precious", "state", "state.new", `state.${process.pid}`].sort(),
  );
});

test("what was there stays when the new one cannot be whole, and nothing is left behind", () => {
  const path = join(folder, "state");
  mkdirSync(path);
  expect(() => writePrivateFile(path, "x")).toThrow(/EISDIR|ENOTEMPTY|EEXIST/);
  expect(readdirSync(folder)).toEqual(["state"]);
  expect(() => writePrivateFile(join(folder, "none", "state"), "x")).toThrow("ENOENT");
});

test("where no file can be written is known before there is something to write", () => {
  const [file, link] = [join(folder, "file"), join(folder, "link")];
  writeFileSync(file, "precious");
  symlinkSync(file, link);
  for (const path of [file, link, join(folder, "new")]) expect(() => checkPrivateFile(path)).not.toThrow();
  for (const [path, message] of [
    [folder, `${folder}: EISDIR`],
    [join(folder, "none", "state"), `${join(folder, "none")}: ENOENT`],
    [join(file, "state"), "ENOTDIR"],
    ["/proc/state", "/proc: no files can be made here"],
    // A rename would put a file in its place, for every process of the system.
    ["/dev/null", "/dev/null is no file"],
  ] as const) {
    expect(() => checkPrivateFile(path), path).toThrow(message);
    expect(() => writePrivateFile(path, "x"), path).toThrow(message);
  }
  expect(readdirSync(folder).sort()).toEqual(["file", "link"]);
  expect(readFileSync(file, "latin1")).toBe("precious");
});

test("folders are for their user alone; one that is there stays as it is", () => {
  chmodSync(folder, 0o755);
  makePrivateFolder(join(folder, "a/b"));
  expect([folder, join(folder, "a"), join(folder, "a/b")].map(modeOf)).toEqual(["755", "700", "700"]);
});

test("a folder that cannot be made is an error that names it, also where mkdir finds nothing for ever", () => {
  const file = join(folder, "file");
  writeFileSync(file, "");
  // The system says ENOENT in /proc though the parent is there; Node's own recursive mkdir then never returns.
  for (const [path, message] of [
    ["/proc/none", "/proc/none: no folder can be made here"],
    ["/proc/none/a/b", "/proc/none: no folder can be made here"],
    [file, `${file} is no folder`],
    [join(file, "a"), "ENOTDIR"],
  ] as const)
    expect(() => makePrivateFolder(path), path).toThrow(message);
  const again = join(folder, "a");
  for (let i = 0; i < 2; i++) makePrivateFolder(again);
  expect(modeOf(again)).toBe("700");
});

test("what a guest writes goes to a file for this user, through a socket that others cannot connect to", async () => {
  const [file, path] = [join(folder, "out"), join(folder, "socket")];
  new FileCharacterBackend(file, false).close();
  expect(modeOf(file)).toBe("600");
  const socket = await SocketCharacterBackend.open({ address: { path }, server: true });
  expect(modeOf(path)).toBe("660");
  expect(process.umask(0)).toBe(0);
  socket.close();
});
