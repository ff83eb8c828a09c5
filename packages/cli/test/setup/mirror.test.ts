import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { createServer, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync } from "node:zlib";

import fc from "fast-check";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";

import { compareVersions, findPackages } from "@virtio/cli/guest/archive-index";
import { unpackDeb } from "@virtio/cli/guest/deb";
import { MirrorArchive, type MirrorOptions } from "@virtio/cli/guest/mirror";
import { Progress } from "@virtio/cli/guest/progress";
import { findProgram, needs } from "@virtio/testkit/needs";

const gpg = findProgram("gpg");
const gpgv = findProgram("gpgv");
const hasGpg = gpg !== undefined && gpgv !== undefined;
const title = (text: string): string => needs("gpg", "gnupg gpgv", text);

const sha256 = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex");
const kernel = Buffer.from("!<arch>\nkernel");
const busybox = Buffer.from("!<arch>\nbusybox");
const kernelName = "linux-image-6.1.0-9-686";
const busyboxVersion = "1:1.35.0-4";

function stanza(name: string, version: string, path: string, bytes: Uint8Array, depends = ""): string {
  return (
    `Package: ${name}\nVersion: ${version}\nArchitecture: i386\n${depends === "" ? "" : `Depends: ${depends}\n`}` +
    `Filename: ${path}\nSize: ${bytes.length}\nSHA256: ${sha256(bytes)}\nDescription: a test\n more\n`
  );
}

const index = [
  stanza("linux-image-686", "6.1.8-1", "pool/k8.deb", kernel, "linux-image-6.1.0-8-686 (= 6.1.8-1)"),
  stanza("linux-image-686", "6.1.10-1", "pool/k9.deb", kernel, `${kernelName} (= 6.1.10-1), other`),
  stanza(kernelName, "6.1.10-1", "pool/kernel.deb", kernel),
  stanza("busybox-static", busyboxVersion, "pool/busybox.deb", busybox),
].join("\n");
const packages = gzipSync(index);
const indexPath = "main/binary-i386/Packages.gz";

function release(more = "", codename = "bookworm"): string {
  return `Origin: Test\nSuite: oldstable\nCodename: ${codename}\n${more}SHA256:\n ${sha256(packages)} ${packages.length} ${indexPath}\n`;
}

/** What the mirror has, by path; a function answers by itself. */
type Files = Map<string, Uint8Array | ((response: ServerResponse) => void)>;

let home = "";
let files: Files = new Map();
let server: Server;
let url = "";
let keyring = "";
let folder = "";

function sign(text: string): Buffer {
  const argv = ["--homedir", home, "--batch", "--clearsign", "--output", "-"];
  const { status, stdout, stderr } = spawnSync(gpg ?? "", argv, { input: text });
  if (status !== 0) throw new Error(stderr.toString());
  return stdout;
}

beforeAll(async () => {
  // The agent's socket is in it, and its path may not be long.
  home = mkdtempSync(join(tmpdir(), "gpg-"));
  if (hasGpg) {
    const make = ["--passphrase", "", "--quick-gen-key", "test@test.invalid", "ed25519", "sign", "never"];
    for (const argv of [make, ["--export", "--output", join(home, "keys.gpg")]]) {
      const result = spawnSync(gpg, ["--homedir", home, "--batch", ...argv]);
      if (result.status !== 0) throw new Error(result.stderr.toString());
    }
  }
  keyring = join(home, "keys.gpg");
  server = createServer((request, response) => {
    const found = files.get(decodeURIComponent((request.url ?? "").replace("/debian/", "")));
    if (found === undefined) response.writeHead(404).end();
    else if (typeof found === "function") found(response);
    else response.end(found);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/debian`;
});

afterAll(() => {
  server.closeAllConnections();
  server.close();
  if (hasGpg) spawnSync("gpgconf", ["--homedir", home, "--kill", "all"]);
  rmSync(home, { recursive: true, force: true });
});

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "mirror-"));
  files = new Map<string, Uint8Array | ((response: ServerResponse) => void)>([
    [`dists/bookworm/${indexPath}`, packages],
    ["pool/kernel.deb", kernel],
    ["pool/busybox.deb", busybox],
  ]);
  if (hasGpg) files.set("dists/bookworm/InRelease", sign(release()));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

async function fetchAll(options: Partial<MirrorOptions> = {}, suite = "bookworm"): Promise<string[]> {
  const archive = new MirrorArchive(folder, "i386", { url, keyring, ...options });
  await archive.update(suite);
  const name = await archive.resolve("linux-image-686", /^linux-image-\d.*-686$/);
  return archive.download([name, "busybox-static"], new Progress());
}

describe.skipIf(!hasGpg)("a signed mirror", () => {
  test(title("gives the packages that its index names, the newest kernel"), async () => {
    const paths = await fetchAll();
    expect(paths.map((path) => readFileSync(path))).toEqual([kernel, busybox]);
    expect(readdirSync(join(folder, "packages")).sort()).toEqual([
      "busybox-static_1%3A1.35.0-4_i386.deb",
      `${kernelName}_6.1.10-1_i386.deb`,
    ]);
  });

  test(title("is followed where it redirects to, and asked by hash where it says so"), async () => {
    files.set("dists/bookworm/InRelease", sign(release("Acquire-By-Hash: yes\n")));
    files.delete(`dists/bookworm/${indexPath}`);
    files.set(`dists/bookworm/main/binary-i386/by-hash/SHA256/${sha256(packages)}`, packages);
    files.set("pool/kernel.deb", (response) =>
      response.writeHead(302, { location: `${url}/elsewhere` }).end(),
    );
    files.set("elsewhere", kernel);
    expect((await fetchAll()).map((path) => readFileSync(path))).toEqual([kernel, busybox]);
  });

  const changed = Buffer.from(kernel);
  changed[10] = 0;
  const hostile: [string, () => void, RegExp][] = [
    [
      "an index that was changed after it was signed",
      () => {
        const text = sign(release()).toString().replace("Origin: Test", "Origin: Evil");
        files.set("dists/bookworm/InRelease", Buffer.from(text));
      },
      /InRelease is not trusted: it was changed/,
    ],
    [
      "an index without a signature",
      () => files.set("dists/bookworm/InRelease", Buffer.from(release())),
      /InRelease is not trusted: it has no good signature/,
    ],
    [
      "an index of another release",
      () => files.set("dists/bookworm/InRelease", sign(release("", "trixie"))),
      /is the index of "oldstable, trixie", not of bookworm/,
    ],
    [
      "an index that is out of date",
      () =>
        files.set("dists/bookworm/InRelease", sign(release("Valid-Until: Sat, 01 Jan 2022 00:00:00 UTC\n"))),
      /out of date: it was valid until 2022/,
    ],
    [
      "a list of packages that was changed",
      () => files.set(`dists/bookworm/${indexPath}`, Buffer.from(packages).fill(1, 20, 30)),
      /Packages.gz is not what the index names: SHA-256/,
    ],
    [
      "a package that was changed",
      () => files.set("pool/kernel.deb", changed),
      /kernel.deb is not what the index/,
    ],
    [
      "a package that is cut off",
      () => files.set("pool/kernel.deb", kernel.subarray(0, -1)),
      /kernel.deb has 13 bytes instead of 14: it is cut off/,
    ],
    [
      "a package that is cut off in the middle of the connection",
      () =>
        files.set("pool/kernel.deb", (response) => {
          response.writeHead(200, { "content-length": kernel.length });
          response.write(kernel.subarray(0, 5), () => response.destroy());
        }),
      /the server ended the connection in the middle/,
    ],
    [
      "a package that does not end",
      () =>
        files.set("pool/kernel.deb", (response) => {
          const more = (): void => void (response.destroyed || response.write(Buffer.alloc(1000), more));
          more();
        }),
      /longer than the 14 bytes it may have/,
    ],
    [
      "a package that is gone",
      () => files.delete("pool/kernel.deb"),
      /does not exist, though the mirror's index/,
    ],
    [
      "a server that redirects for ever",
      () =>
        files.set("pool/kernel.deb", (r) => r.writeHead(302, { location: `${url}/pool/kernel.deb` }).end()),
      /redirect/,
    ],
    [
      "a server that fails",
      () => files.set("dists/bookworm/InRelease", (response) => response.writeHead(503).end()),
      /the server says 503/,
    ],
    [
      "a server that hangs",
      () => files.set("pool/busybox.deb", (response) => void response.writeHead(200).write("!")),
      /the server sent nothing for 0.3 seconds/,
    ],
    [
      "no archive at all",
      () => files.clear(),
      /InRelease does not exist: --mirror names the folder of a Debian archive with "dists" in it/,
    ],
  ];
  test.each(hostile)(title("%s is refused, and leaves no package behind"), async (text, prepare, message) => {
    prepare();
    // Only where nothing comes at all: on a busy machine something may be late.
    const patience = text === "a server that hangs" ? { patience: 300 } : {};
    await expect(fetchAll(patience)).rejects.toThrow(message);
    expect(existsSync(join(folder, "packages"))).toBe(false);
    expect(readdirSync(folder)).toEqual([]);
  });

  test(title("signed by a key that is not in the keyring is refused"), async () => {
    const other = mkdtempSync(join(tmpdir(), "gpg-"));
    try {
      const make = ["--passphrase", "", "--quick-gen-key", "other@test.invalid", "ed25519", "sign", "never"];
      for (const argv of [make, ["--export", "--output", join(other, "keys.gpg")]])
        spawnSync(gpg ?? "", ["--homedir", other, "--batch", ...argv]);
      const refused = fetchAll({ keyring: join(other, "keys.gpg") });
      await expect(refused).rejects.toThrow(/signed by none of the keys in/);
    } finally {
      spawnSync("gpgconf", ["--homedir", other, "--kill", "all"]);
      rmSync(other, { recursive: true, force: true });
    }
  });
});

describe("a mirror whose signature cannot be checked", () => {
  const check = "there is no gpgv here";
  const pins = {
    [`${kernelName} 6.1.10-1`]: sha256(kernel),
    [`busybox-static ${busyboxVersion}`]: sha256(busybox),
  };
  const armour = (text: string): Buffer =>
    Buffer.from(
      `-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n\n${text}\n-----BEGIN PGP SIGNATURE-----\n\nx\n-----END PGP SIGNATURE-----\n`,
    );
  beforeEach(() => files.set("dists/bookworm/InRelease", armour(release())));

  test("gives packages whose hashes are known here", async () => {
    const paths = await fetchAll({ check, pins });
    expect(paths.map((path) => readFileSync(path))).toEqual([kernel, busybox]);
  });

  test("gives no others, and says why and what to do", async () => {
    await expect(fetchAll({ check, pins: {} })).rejects.toThrow(
      /cannot be checked: there is no gpgv here.*linux-image-6.1.0-9-686 6.1.10-1 is not among those known.*--kernel/s,
    );
    const wrong = { ...pins, [`busybox-static ${busyboxVersion}`]: sha256(kernel) };
    await expect(fetchAll({ check, pins: wrong })).rejects.toThrow(/busybox-static is not the known one/);
    expect(readdirSync(folder)).toEqual([]);
  });
});

test("an address that is none, a host that is not there, a keyring that is not there", async () => {
  for (const bad of ["nonsense", "ftp://host/debian", "http://me:secret@host/debian", "http://host/?q"])
    expect(() => new MirrorArchive(folder, "i386", { url: bad })).toThrow(/an address such as/);
  expect(() => new MirrorArchive(folder, "i386", { url, keyring: "/nowhere" })).toThrow(
    /--keyring \/nowhere: /,
  );
  const closed = createServer();
  await new Promise<void>((resolve) => closed.listen(0, "127.0.0.1", resolve));
  const { port } = closed.address() as AddressInfo;
  await new Promise((resolve) => closed.close(resolve));
  const nobody = fetchAll({ url: `http://127.0.0.1:${port}/debian`, check: "x" });
  await expect(nobody).rejects.toThrow(/nothing listens at this address/);
});

test("versions are ordered as Debian orders them", () => {
  const ordered = [
    "1.0~rc1",
    "1.0",
    "1.0-1",
    "1.0-1+b1",
    "1.0-2",
    "1.0-10",
    "1.0a-1",
    "1.0+x-1",
    "1.1",
    "1.10",
    "1:0.1",
  ];
  const dpkg = findProgram("dpkg");
  for (const [i, a] of ordered.entries())
    for (const [j, b] of ordered.entries()) {
      expect(Math.sign(compareVersions(a, b)), `${a} ${b}`).toBe(Math.sign(i - j));
      if (dpkg !== undefined && i === j - 1)
        expect(spawnSync(dpkg, ["--compare-versions", a, "lt", b]).status, `${a} ${b}`).toBe(0);
    }
});

test("an index that names files outside of the archive gives none of them", () => {
  const outside = fc.constantFrom(
    "../../etc/passwd",
    "/etc/passwd",
    "pool/../../x",
    "pool/a?b",
    "pool\\x",
    "",
  );
  fc.assert(
    fc.property(outside, (path) => {
      expect(findPackages(stanza("busybox-static", "1", path, busybox), () => true).size).toBe(0);
    }),
  );
});

const dpkgDeb = findProgram("dpkg-deb");
describe("packages without dpkg", () => {
  test.skipIf(dpkgDeb === undefined).each(["xz", "gzip", "none"])(
    needs("dpkg-deb", "dpkg", "a package compressed with %s has the files that dpkg-deb unpacks"),
    (compression) => {
      const tree = join(folder, "tree");
      const long = join(tree, "usr/share", "long".repeat(30), "deep".repeat(30));
      mkdirSync(join(tree, "DEBIAN"), { recursive: true });
      mkdirSync(long, { recursive: true });
      writeFileSync(
        join(tree, "DEBIAN/control"),
        "Package: x\nVersion: 1\nArchitecture: all\nMaintainer: x\nDescription: x\n",
      );
      writeFileSync(join(long, "file"), Buffer.alloc(300_000, "abc"));
      writeFileSync(join(tree, "empty"), "");
      spawnSync("ln", ["-s", "usr/share", join(tree, "link")]);
      const deb = join(folder, "x.deb");
      const built = spawnSync(dpkgDeb ?? "", [`-Z${compression}`, "--root-owner-group", "-b", tree, deb]);
      expect(built.stderr.toString()).toBe("");
      const [ours, theirs] = [join(folder, "ours"), join(folder, "theirs")];
      mkdirSync(ours);
      unpackDeb(readFileSync(deb), ours);
      spawnSync(dpkgDeb ?? "", ["-x", deb, theirs]);
      const difference = spawnSync("diff", ["-r", "--no-dereference", ours, theirs], { encoding: "utf8" });
      expect([difference.status, difference.stdout]).toEqual([0, ""]);
    },
  );

  test("one that is damaged in any way is an error, and never leaves its folder", () => {
    const header = (name: string, size: number): Buffer =>
      Buffer.from(
        `${name.padEnd(16)}${"0".padEnd(12)}${"0".padEnd(6)}${"0".padEnd(6)}${"100644".padEnd(8)}${String(size).padEnd(10)}\`\n`,
      );
    const entry = (name: string, type: string, data = "", link = ""): Buffer => {
      const block = Buffer.alloc(512);
      block.write(name, 0);
      block.write(data.length.toString(8).padStart(11, "0"), 124);
      block.write(type, 156);
      block.write(link, 157);
      return Buffer.concat([block, Buffer.from(data), Buffer.alloc((512 - (data.length % 512)) % 512)]);
    };
    const deb = (...entries: Buffer[]): Buffer => {
      const tar = Buffer.concat([...entries, Buffer.alloc(1024)]);
      return Buffer.concat([Buffer.from("!<arch>\n"), header("data.tar", tar.length), tar]);
    };
    const target = join(folder, "in");
    const unpack = (bytes: Uint8Array) => (): void => unpackDeb(bytes, target);
    expect(unpack(deb(entry("../out", "0", "x")))).toThrow(/outside of this package/);
    expect(unpack(deb(entry("l", "2", "", "../.."), entry("l/out", "0", "x")))).toThrow(
      /outside of this package/,
    );
    expect(unpack(deb(entry("f", "0", "x")).subarray(0, -1100))).toThrow(/cut off/);
    expect(unpack(Buffer.from("no"))).toThrow(/no Debian package/);
    expect(unpack(Buffer.from("!<arch>\n"))).toThrow(/no files/);
    const good = deb(entry("a", "0", "hello"), entry("b", "5"));
    fc.assert(
      fc.property(fc.nat(good.length - 1), fc.nat(255), (at, byte) => {
        const bytes = Buffer.from(good);
        bytes[at] = byte;
        rmSync(target, { recursive: true, force: true });
        mkdirSync(target);
        try {
          unpackDeb(bytes, target);
        } catch (error) {
          expect(error).toBeInstanceOf(Error);
        }
        expect(readdirSync(folder)).toEqual(["in"]);
      }),
      { numRuns: 300 },
    );
  });
});
