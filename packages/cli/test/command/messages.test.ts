import { spawnSync } from "node:child_process";
import { readFileSync, readdirSync, writeFileSync } from "node:fs";
import { constants } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

import { describe, expect, test } from "vitest";

import { checkStateFile } from "@virtio/cli/boot/state-file";
import { makeHomeFolder } from "@virtio/cli/paths";
import { messageOf } from "@virtio/cli/user-error";
import { command, root } from "../built.ts";
import { temporaryFolder } from "../guest/folder.ts";

const folder = temporaryFolder();

function virtio(
  argv: readonly string[],
  environment: NodeJS.ProcessEnv = {},
): { status: number | null; stdout: string; stderr: string } {
  const env = { ...process.env, ...environment };
  return spawnSync(process.execPath, [command, ...argv], { cwd: root, env, encoding: "utf8", input: "" });
}

test("--version is the version of the package", () => {
  const { version } = JSON.parse(readFileSync(join(root, "packages/cli/package.json"), "utf8")) as {
    version: string;
  };
  expect(virtio(["--version"])).toMatchObject({ status: 0, stdout: `virtio ${version}\n`, stderr: "" });
});

test.each(["serve", "qemu"])(
  "%s without arguments shows its usage as an error, and on request as none",
  (name) => {
    const bare = virtio([name]);
    expect(bare).toMatchObject({ status: 1, stdout: "" });
    expect(bare.stderr).toMatch(new RegExp(`^Usage: virtio ${name} `));
    expect(virtio([name, "--help"])).toMatchObject({ status: 0, stdout: bare.stderr, stderr: "" });
  },
);

test("what the system says is a sentence that names the option, the name, and what to do", () => {
  const missing = join(folder, "missing");
  const cases: [string[], RegExp][] = [
    [["boot", "--disk", missing], /^virtio: disk0: disk '.*missing': no such file\n$/],
    [
      ["boot", "--kernel", missing],
      /^virtio: --kernel .*missing: no such file or directory; look at the name\n$/,
    ],
    [
      ["boot", "--restore", missing],
      /^virtio: --restore: .*missing: no such file or directory; look at the name\n$/,
    ],
    [["boot", "--restore", folder], /^virtio: --restore: .* is no file\n$/],
    [
      ["boot", "--kernel", "/dev/null", "--log", "virtio", "--log-file", `${missing}/log`],
      /^virtio: --log-file: .*missing\/log: no such file/,
    ],
    [
      ["boot", "--kernel", "/dev/null", "--share", missing],
      /^virtio: share0: cannot share '.*missing': no such directory\n$/,
    ],
    [
      ["serve", "blk", "--drive", `file=${missing}`, "--socket", join(folder, "s")],
      /^virtio: .*missing.*no such file/,
    ],
    [["setup", "--mirror", "nonsense"], /^virtio: --mirror "nonsense": an address such as/],
    [["setup", "--keyring", missing], /^virtio: --keyring needs --mirror URL\n$/],
  ];
  for (const [argv, message] of cases) {
    const { status, stderr } = virtio(argv);
    expect([status, stderr], argv.join(" ")).toEqual([1, expect.stringMatching(message)]);
    expect(stderr).not.toMatch(/\bE[A-Z]{3,}\b|errno|\n +at /);
  }
});

test("a VIRTIO_HOME that cannot be is a sentence that names it, at once", () => {
  const file = join(folder, "file");
  writeFileSync(file, "");
  const cases: [string, RegExp][] = [
    ["/proc/none", /^VIRTIO_HOME: \/proc\/none: no folder can be made here; name another place$/],
    ["/proc/none/a/b", /^VIRTIO_HOME: \/proc\/none: no folder can be made here; name another place$/],
    [file, /^VIRTIO_HOME: .*file is no folder; name another place$/],
    [join(file, "a"), /^VIRTIO_HOME: .*file\/a: that is no directory; name a directory$/],
    // Folders that are there, and take nothing from anybody.
    ["/proc", /^VIRTIO_HOME: \/proc: no files can be made here; name another place$/],
    ["/sys", /^VIRTIO_HOME: \/sys: [a-z -]*; [a-z ,]*$/],
  ];
  for (const [home, message] of cases) expect(() => makeHomeFolder(home), home).toThrow(message);
});

test.each(["setup", "setup arm64", "boot --run true", "boot --sample"])(
  "%s says that its VIRTIO_HOME cannot be",
  (words) => {
    const { status, stderr } = virtio(words.split(" "), { VIRTIO_HOME: "/proc" });
    const message = "virtio: VIRTIO_HOME: /proc: no files can be made here; name another place\n";
    expect([status, stderr]).toEqual([1, message]);
  },
);

test("what needs no folder needs no place for one", () => {
  expect(virtio(["boot", "--kernel", "/dev/null"], { VIRTIO_HOME: "/proc/none" }).stderr).not.toMatch("HOME");
});

test("a machine is not begun that could not be saved", () => {
  const cases: [string, RegExp][] = [
    [join(folder, "missing", "x"), /^--save: .*missing: no such file or directory; look at the name$/],
    [folder, /^--save: .*: that is a directory; name a file in it$/],
    ["/proc/state", /^--save: \/proc: no files can be made here$/],
    ["/dev/null", /^--save: \/dev\/null is no file$/],
  ];
  for (const [path, message] of cases) expect(() => checkStateFile(path), path).toThrow(message);
  // That there is no kernel would be seen next.
  const { status, stderr } = virtio(["boot", "--kernel", join(folder, "none"), "--save", "/proc/state"]);
  expect([status, stderr]).toEqual([1, "virtio: --save: /proc: no files can be made here\n"]);
});

test("no code of the system is shown, whichever it is", () => {
  for (const [code, number] of Object.entries(constants.errno)) {
    const error = Object.assign(new Error(`${code}: no text, open '/x'`), {
      code,
      errno: -number,
      syscall: "open",
      path: "/x",
    });
    expect(messageOf(error)).toMatch(/^(\/x: )?[a-z ,;-]+$/);
    expect(messageOf(new Error(`disk: connect ${code} 1.2.3.4:5`))).toMatch(/^disk: 1.2.3.4:5: [a-z ,;-]+$/);
    expect(messageOf(new Error(`bind /x: ${code}`))).toMatch(/^bind \/x: [a-z ,;-]+$/);
  }
});

describe.each(["darwin", "win32"])("on %s", (platform) => {
  const preload = join(folder, `${platform}.mjs`);
  // Loading koffi is an error there, as it is where it has no build.
  writeFileSync(
    preload,
    `import Module from "node:module";
Object.defineProperty(process, "platform", { value: "${platform}" });
const load = Module._load;
Module._load = (name, ...rest) => {
  if (name === "koffi") throw new Error("koffi was loaded");
  return load(name, ...rest);
};
`,
  );
  const environment = { NODE_OPTIONS: `--import ${pathToFileURL(preload).href}` };
  const disk = join(folder, "disk.img");
  writeFileSync(disk, Buffer.alloc(1 << 20));
  const socket = join(folder, "socket");

  test("what needs Linux is a sentence", () => {
    const sentence = new RegExp(
      `is not possible here: it needs Linux on x64, arm64, riscv64 or loong64, and this is ${platform} on `,
    );
    const cases = [
      ["serve", "blk", "--drive", `file=${disk}`, "--socket", socket],
      ["serve", "--share", folder, "--socket", socket, "--process-per-device"],
      ["qemu", "qemu-system-x86_64", "-drive", `if=virtio,format=raw,file=${disk}`],
      ["shell", "--vhost-user", `blk:${socket}`, "-c", "virtio info"],
    ];
    for (const argv of cases) {
      const { status, stdout, stderr } = virtio(argv, environment);
      expect([status, stdout + stderr], argv.join(" ")).toEqual([1, expect.stringMatching(sentence)]);
      expect(stderr).not.toMatch(/\n +at |koffi/);
    }
    const shared = virtio(["boot", "--kernel", "/dev/null", "--share", folder], environment);
    expect([shared.status, shared.stderr]).toEqual([
      1,
      expect.stringMatching(/^virtio: share0: sharing the directory .* is not possible: it needs Linux.*\n$/),
    ]);
  });

  test("what does not need it works, and does not load koffi", () => {
    const shown = virtio(["shell", "-drive", `file=${disk},format=raw`, "-c", "virtio info"], environment);
    expect([shown.status, shown.stdout, shown.stderr]).toEqual([
      0,
      expect.stringContaining("VirtIO Block Device"),
      "",
    ]);
    for (const argv of [
      ["--version"],
      ["boot", "--help"],
      ["serve", "--help"],
      ["qemu", "--help"],
      ["setup", "--help"],
    ])
      expect(virtio(argv, environment)).toMatchObject({ status: 0, stderr: "" });
  });
});

test("one place asks what system this is", () => {
  const sources = (path: string): string[] =>
    readdirSync(path, { recursive: true, encoding: "utf8" })
      .filter((name) => name.endsWith(".ts"))
      .map((name) => join(path, name));
  const asking = readdirSync(join(root, "packages"))
    .flatMap((name) => sources(join(root, "packages", name, "src")))
    .filter((path) => readFileSync(path, "utf8").includes("process.platform"));
  expect(asking).toEqual([join(root, "packages/node/src/native/platform.ts")]);
});
