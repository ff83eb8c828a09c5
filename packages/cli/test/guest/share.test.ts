import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";

import { expect, test } from "vitest";

import { cString, i386Program, type SystemCall } from "@virtio/testkit/i386-program";
import { libc } from "@virtio/node/native/libc";
import { runCommand } from "@virtio/cli/guest/command";
import { homeFolder } from "@virtio/cli/paths";
import { host, runInGuest, temporaryFolder, Virtio } from "./virtio.ts";

const folder = temporaryFolder();

test("a tree of 2,000 files is copied both ways with equal checksums", async () => {
  const share = join(folder, "tree");
  for (let d = 0; d < 40; d++) {
    mkdirSync(join(share, "in", `d${d}`), { recursive: true });
    for (let f = 0; f < 50; f++)
      writeFileSync(join(share, "in", `d${d}`, `f${f}`), `${d}/${f}\n`.repeat(f * 7));
  }
  const sums = "find . -type f | sort | xargs md5sum | md5sum";
  const result = await runInGuest(
    `mkdir /tmp/t && cp -a /mnt/tree/in/. /tmp/t && (cd /tmp/t && ${sums}) && cp -a /tmp/t /mnt/tree/out`,
    ["--share", share],
  );
  expect([result.status, result.stderr]).toEqual([0, ""]);
  const sum = host("sh", "-c", `cd ${join(share, "in")} && ${sums}`);
  expect(result.stdout.toString()).toBe(sum);
  expect(host("sh", "-c", `cd ${join(share, "out")} && ${sums}`)).toBe(sum);
});

test("renames, links, modes and times; nothing outside is reached", async () => {
  const share = join(folder, "ops");
  mkdirSync(share);
  writeFileSync(join(folder, "secret"), "secret\n");
  symlinkSync("../secret", join(share, "out"));
  const result = await runInGuest(
    `cd /mnt/ops && echo one >a && mv a b && ln b c && ln -s b d && cat d && stat -c %h b &&
     mkdir x && mv b x/y && cat x/y && touch -d '2001-02-03 04:05:06' c && stat -c %Y c &&
     chmod 640 c && stat -c %a c && (cat out || echo no) 2>/dev/null && (cat ../ops/../../etc/hostname || true) 2>/dev/null`,
    ["--share", share],
  );
  expect(result.stdout.toString()).toBe("one\n2\none\n981173106\n640\nno\n");
  expect(readdirSync(share).sort()).toEqual(["c", "d", "out", "x"]);
  expect(readFileSync(join(share, "x/y"), "utf8")).toBe("one\n");
});

test("extended attributes, by the guest's own system calls", async () => {
  const share = join(folder, "attributes");
  mkdirSync(share);
  writeFileSync(join(share, "file"), "");
  const file = cString("/mnt/attributes/file");
  const [set, get, list, remove] = [226, 229, 232, 235];
  const room = { room: 64 };
  const name = cString("user.colour");
  const value = new TextEncoder().encode("blue");
  const program = (...calls: SystemCall[]): Uint8Array => i386Program(calls);
  const setIt = { number: set, arguments: [file, name, value, value.length, 0] };
  const getIt = { number: get, arguments: [file, name, room, 64], print: room };
  writeFileSync(
    join(share, "set"),
    program(setIt, getIt, { number: list, arguments: [file, room, 64], print: room }),
    { mode: 0o755 },
  );
  writeFileSync(join(share, "change"), program({ ...setIt, arguments: [file, name, name, 4, 2] }, getIt), {
    mode: 0o755,
  });
  writeFileSync(join(share, "remove"), program({ number: remove, arguments: [file, name] }, getIt), {
    mode: 0o755,
  });
  const hostValue = new Uint8Array(64);
  const onHost = (): string => {
    const path = cString(join(share, "file"));
    const length = libc("reading an attribute").getxattr(path, name, hostValue, hostValue.length);
    return length < 0 ? "none" : new TextDecoder().decode(hostValue.subarray(0, length));
  };

  const first = await runInGuest("cd /mnt/attributes; ./set && ./change", ["--share", share]);
  // "blue", the list of names, then the new value, which is the start of its own name.
  expect([first.status, first.stdout.toString()]).toEqual([0, "blueuser.colour\0user"]);
  expect(onHost()).toBe("user");
  const ENODATA = 61;
  const second = await runInGuest("/mnt/attributes/remove", ["--share", share]);
  expect([second.status, second.stdout.toString()]).toEqual([ENODATA, ""]);
  expect(onHost()).toBe("none");
});

test("--root: init and commands run from a directory; both sides see at once", async () => {
  const tree = join(folder, "root");
  for (const path of ["bin", "sbin", "etc"]) mkdirSync(join(tree, path), { recursive: true });
  const packages = join(homeFolder(), "apt/packages");
  const busybox = readdirSync(packages).find((name) => name.startsWith("busybox-static"));
  await runCommand("dpkg-deb", ["-x", join(packages, busybox ?? ""), join(folder, "busybox")]);
  copyFileSync(join(folder, "busybox/bin/busybox"), join(tree, "bin/busybox"));
  for (const name of ["sh", "cat", "ls", "echo", "sleep"]) symlinkSync("busybox", join(tree, "bin", name));
  symlinkSync("../bin/busybox", join(tree, "sbin/init"));
  const virtio = new Virtio(
    ["--root", tree, "--run", "ls -d /bin; cat; echo made >/made; until cat /host; do sleep 0.1; done"],
    "in\n",
  );
  while (!existsSync(join(tree, "made"))) await new Promise((resolve) => setTimeout(resolve, 50));
  writeFileSync(join(tree, "host"), "seen\n");
  const result = await virtio.done;
  expect([result.status, result.stdout.toString()]).toEqual([0, "/bin\nin\nseen\n"]);

  // Without a command its own init has the console; on no terminal the end of input is the end of its shell.
  writeFileSync(
    join(tree, "etc/inittab"),
    "::once:/bin/sh -c 'echo init is $$; cat /proc/1/comm; /sbin/init -q; /bin/busybox poweroff -f'\n",
  );
  const booted = new Virtio(["--root", tree], "");
  await booted.expect("init");
  const ended = await booted.done;
  expect(ended.status).toBe(0);
});
