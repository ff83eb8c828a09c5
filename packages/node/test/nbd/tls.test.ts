import { execFileSync } from "node:child_process";
import { copyFileSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { findProgram } from "@virtio/testkit/needs";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { NbdBlockBackend } from "../../src/nbd/nbd-block.ts";
import { nbdkit, needsNbdkit, type RealServer, startNbdkit } from "./servers.ts";

const openssl = findProgram("openssl");
const there = nbdkit !== undefined && openssl !== undefined;
const title = (text: string): string => needsNbdkit(`${text}, certificates by openssl`);

let folder: string;
let socket: string;
let server: RealServer | undefined;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "virtio-nbd-"));
  socket = join(folder, "socket");
  if (there) makeCertificates();
});
afterAll(() => rmSync(folder, { recursive: true }));
afterEach(async () => {
  await server?.kill();
  server = undefined;
});

/** An authority, a server called `disk.example` and a client, in the files that QEMU, nbdkit and libnbd look for. */
function makeCertificates(): void {
  const run = (...argv: string[]): void => {
    execFileSync(openssl ?? "openssl", argv, { cwd: folder, stdio: "ignore" });
  };
  const key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc"];
  run(
    "req",
    "-x509",
    ...key,
    "-keyout",
    "ca.key",
    "-out",
    "ca-cert.pem",
    "-subj",
    "/CN=Test CA",
    "-days",
    "2",
  );
  for (const [name, subject] of [
    ["server", "disk.example"],
    ["client", "client.example"],
  ] as const) {
    run("req", ...key, "-keyout", `${name}-key.pem`, "-out", "request", "-subj", `/CN=${subject}`);
    writeFileSync(join(folder, "extensions"), `subjectAltName=DNS:${subject}\n`);
    const by = ["-CA", "ca-cert.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2"];
    run("x509", "-req", "-in", "request", ...by, "-extfile", "extensions", "-out", `${name}-cert.pem`);
  }
  for (const name of ["trusting", "unknown"]) mkdirSync(join(folder, name));
  copyFileSync(join(folder, "ca-cert.pem"), join(folder, "trusting", "ca-cert.pem"));
  run(
    "req",
    "-x509",
    ...key,
    "-keyout",
    "x",
    "-out",
    join("unknown", "ca-cert.pem"),
    "-subj",
    "/CN=Other",
    "-days",
    "2",
  );
}

function start(...more: string[]): void {
  server = startNbdkit(socket, "--tls=require", `--tls-certificates=${folder}`, ...more, "memory", "4M");
}

function open(parameters: string, openTimeout = 300, requestTimeout = 0): Promise<NbdBlockBackend> {
  return NbdBlockBackend.open(`nbds+unix:///?socket=${socket}${parameters}`, { openTimeout, requestTimeout });
}

describe.skipIf(!there)("nbds", () => {
  test(title("what is written comes back"), async () => {
    start();
    const disk = await open(`&tls-certificates=${join(folder, "trusting")}&tls-hostname=disk.example`);
    const bytes = new Uint8Array(1 << 20).map((_, i) => i % 241);
    await disk.write(512, bytes);
    const back = new Uint8Array(bytes.length);
    await Promise.all(
      Array.from({ length: 16 }, (_, i) => disk.read(512 + (i << 16), back.subarray(i << 16, (i + 1) << 16))),
    );
    expect(Buffer.compare(back, bytes)).toBe(0);
    await disk.close();
  });

  test(title("a server that wants to know who asks"), async () => {
    start("--tls-verify-peer");
    const name = "tls-hostname=disk.example";
    const disk = await open(`&tls-certificates=${folder}&${name}`);
    await disk.read(0, new Uint8Array(512));
    await disk.close();
    await expect(open(`&tls-certificates=${join(folder, "trusting")}&${name}`, 0)).rejects.toThrow();
  });

  test(title("a server that cannot say who it is, is refused"), async () => {
    start();
    const trusting = `&tls-certificates=${join(folder, "trusting")}`;
    await (await open(`${trusting}&tls-hostname=disk.example`)).close();
    await expect(open(trusting, 0)).rejects.toThrow(/localhost.*altnames|altnames.*localhost/);
    await expect(open("&tls-hostname=disk.example", 0)).rejects.toThrow(/certificate/);
    const other = `&tls-certificates=${join(folder, "unknown")}&tls-hostname=disk.example`;
    await expect(open(other, 0)).rejects.toThrow(/certificate/);
    await expect(open(`&tls-certificates=${folder}/nowhere`, 0)).rejects.toThrow(
      "nowhere has no ca-cert.pem",
    );
    await (await open("&tls-verify-peer=0")).close();
  });

  test(title("requestTimeout: one that is slow is waited for, one that hangs is not"), async () => {
    const tls = ["--tls=require", `--tls-certificates=${folder}`];
    server = startNbdkit(socket, "-t", "1", ...tls, "--filter=delay", "memory", "4M", "rdelay=500ms");
    const disk = await open("&tls-verify-peer=0", 10, 1);
    await Promise.all(Array.from({ length: 6 }, (_, i) => disk.read(i * 512, new Uint8Array(512))));
    server.signal("SIGSTOP");
    await expect(disk.read(0, new Uint8Array(512))).rejects.toThrow("has not answered for 1 s");
    await disk.close();
  });

  test(title("without TLS the way to it is said"), async () => {
    start();
    const plain = `nbd+unix:///?socket=${socket}`;
    await expect.poll(() => NbdBlockBackend.open(plain).catch(String)).toMatch(/it wants TLS: use nbds:\/\//);
  });
});
