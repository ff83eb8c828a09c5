import { spawn, type ChildProcess } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { needs } from "@virtio/testkit/needs";
import { until } from "@virtio/testkit/until";
import { DriverSession } from "virtio/driver/session";
import { VIRTIO_ID_FS } from "virtio/spec/ids";
import { VhostUserTransport } from "@virtio/vhost-user/frontend/transport";

/** QEMU's; the newer one is a package of its own. */
const program = ["/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd"].find((path) => existsSync(path));

/** `struct virtio_fs_config`: a tag of 36 bytes, and num_request_queues. The hypervisor has it, not the back-end. */
const config = new Uint8Array(44);
config.set(new TextEncoder().encode("tag"));
config[36] = 1;
const REQUESTQ = 1;

/** FUSE 7.31: lengths of its headers and of FUSE_INIT, and what of them is looked at. */
const IN_HEADER = 40;
const INIT_IN = 16;
const OUT_HEADER = 16;
const INIT_OUT = 64;
const FUSE_LOOKUP = 1;
const FUSE_INIT = 26;
const ROOT = 1;

let folder: string;
let child: ChildProcess | undefined;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "virtio-fs-"));
  mkdirSync(join(folder, "shared"));
  writeFileSync(join(folder, "shared", "hello"), "twelve bytes");
});
afterEach(() => {
  child?.kill("SIGKILL");
  rmSync(folder, { recursive: true });
});

/** It changes its root directory. */
const possible = program !== undefined && process.geteuid?.() === 0;

describe.skipIf(!possible)(needs("virtiofsd, as root", "qemu-system-common", "virtiofsd"), () => {
  test("its virtqueues carry FUSE_INIT and a look-up, as long as there is no driver of ours for them", async () => {
    const socket = join(folder, "socket");
    const argv = [`--socket-path=${socket}`, "-o", `source=${join(folder, "shared")}`];
    child = spawn(program ?? "", argv, { stdio: "ignore" });
    await until(() => existsSync(socket), "virtiofsd's socket");
    const transport = await VhostUserTransport.open({ socket, deviceId: VIRTIO_ID_FS, queues: 2, config });
    const session = await DriverSession.open(transport, { wanted: 0n });
    expect(new TextDecoder().decode(session.readConfig(0, 3))).toBe("tag");
    session.addQueue(0);
    const queue = session.addQueue(REQUESTQ);
    session.ready();
    await transport.settled();
    const { memory } = transport;
    const gpa = memory.allocate(4096, 4096);
    const ask = async (opcode: number, body: Uint8Array, room: number): Promise<DataView> => {
      const bytes = memory.view(gpa, 4096).fill(0);
      const header = new DataView(bytes.buffer, bytes.byteOffset, IN_HEADER);
      header.setUint32(0, IN_HEADER + body.length, true);
      header.setUint32(4, opcode, true);
      header.setUint32(8, 77, true);
      header.setUint32(16, ROOT, true);
      bytes.set(body, IN_HEADER);
      const written = await queue.request(
        [
          { gpa, length: IN_HEADER },
          { gpa: gpa + IN_HEADER, length: body.length },
        ],
        [
          { gpa: gpa + 2048, length: OUT_HEADER },
          { gpa: gpa + 2048 + OUT_HEADER, length: room },
        ],
      );
      const answer = new DataView(bytes.buffer, bytes.byteOffset + 2048, 2048);
      expect([answer.getUint32(0, true), answer.getInt32(4, true), answer.getUint32(8, true)]).toEqual([
        written,
        0,
        77,
      ]);
      return answer;
    };
    const init = new Uint8Array(INIT_IN);
    init.set([7, 0, 0, 0, 31]);
    const version = await ask(FUSE_INIT, init, INIT_OUT);
    expect(version.getUint32(OUT_HEADER, true)).toBe(7);
    // `struct fuse_entry_out`: 40 bytes, then `struct fuse_attr` with the size behind the inode number.
    const entry = await ask(FUSE_LOOKUP, new TextEncoder().encode("hello\0"), 128);
    expect(entry.getUint32(OUT_HEADER + 48, true)).toBe("twelve bytes".length);
    await session.close();
  });
});
