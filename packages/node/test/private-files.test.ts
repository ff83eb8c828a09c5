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
import { makePrivateFolder, writePrivateFile } from "@virtio/node/private-files";
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

test("folders are for their user alone; one that is there stays as it is", () => {
  chmodSync(folder, 0o755);
  makePrivateFolder(join(folder, "a/b"));
  expect([folder, join(folder, "a"), join(folder, "a/b")].map(modeOf)).toEqual(["755", "700", "700"]);
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
