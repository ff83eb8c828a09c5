import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { QemuMachine } from "@virtio/qemu";
import { findProgram, needs } from "@virtio/testkit/needs";
import { until } from "@virtio/testkit/until";
import { DriverSession } from "virtio/driver/session";
import { VIRTIO_ID_CRYPTO } from "virtio/spec/ids";
import { expect, test } from "vitest";
import { root } from "../built.ts";

/** A crypto device that keeps sessions and says what it is asked for; in a process of its own, for QEMU waits for it. */
const BACKEND = `
  import { serveVhostUser } from "@virtio/vhost-user";
  const hex = (key, value) => (value instanceof Uint8Array ? Buffer.from(value).toString("hex") : value);
  const device = {
    id: 20,
    name: "crypto",
    features: 0n,
    queues: [{ name: "data", maxSize: 64, serve: () => 0 }],
    createCryptoSession: (session) => (console.log(JSON.stringify({ session }, hex)), session.cipherKey.length === 32 ? 77 : -3),
    closeCryptoSession: (closed) => console.log(JSON.stringify({ closed })),
  };
  await serveVhostUser(device, { socket: process.env.SOCKET, label: "crypto" });
  console.log("ready");`;

const QEMU = "qemu-system-x86_64";
const CREATE = 0x002;
const DESTROY = 0x003;
const AES_CBC = 3;
const ENCRYPT = 1;
const CIPHER = 1;
const HEADER = 16;
const PARAMETERS = 56;

/** "Control Virtqueue": a cipher session with this key. */
function createRequest(key: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(HEADER + PARAMETERS + key.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, CREATE, true);
  view.setUint32(4, AES_CBC, true);
  [AES_CBC, key.length, ENCRYPT].forEach((value, i) => view.setUint32(HEADER + 4 * i, value, true));
  view.setUint32(HEADER + 48, CIPHER, true);
  bytes.set(key, HEADER + PARAMETERS);
  return bytes;
}

function destroyRequest(id: bigint): Uint8Array {
  const bytes = new Uint8Array(HEADER + PARAMETERS);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, DESTROY, true);
  view.setBigUint64(HEADER, id, true);
  return bytes;
}

test.skipIf(findProgram(QEMU) === undefined)(
  needs(
    QEMU,
    "qemu-system-x86",
    "QEMU hands a driver's crypto sessions to our back-end, and its ids to the driver",
  ),
  async () => {
    const folder = mkdtempSync(join(tmpdir(), "virtio-crypto-"));
    const socket = join(folder, "crypto");
    const backend = spawn(process.execPath, ["--input-type=module", "-e", BACKEND], {
      cwd: join(root, "packages/cli"),
      stdio: ["ignore", "pipe", "inherit"],
      env: { ...process.env, SOCKET: socket },
    });
    let said = "";
    backend.stdout.on("data", (bytes: Buffer) => (said += bytes.toString()));
    await once(backend.stdout, "data");
    const machine = await QemuMachine.start({
      argv: [
        QEMU,
        ..."-M q35 -object cryptodev-vhost-user,id=keys,chardev=c -chardev".split(" "),
        `socket,id=c,path=${socket}`,
        // With MSI-X vectors QEMU 7.2 crashes at DRIVER_OK, as it does with vhost-user network devices.
        ..."-device virtio-crypto-pci,cryptodev=keys,vectors=0".split(" "),
      ],
    });
    try {
      const transport = machine.device(VIRTIO_ID_CRYPTO).open();
      const session = await DriverSession.open(transport, { wanted: 0n });
      session.addQueue(0);
      const control = session.addQueue(1);
      session.ready();
      const memory = transport.memory;
      const ask = async (request: Uint8Array): Promise<DataView> => {
        const [from, to] = [memory.allocate(256, 16), memory.allocate(16, 16)];
        memory.view(from, request.length).set(request);
        await control.request([{ gpa: from, length: request.length }], [{ gpa: to, length: 16 }]);
        return new DataView(memory.view(to, 16).slice().buffer);
      };
      const key = Uint8Array.from({ length: 32 }, (_, i) => 3 * i);
      const created = await ask(createRequest(key));
      expect([created.getBigUint64(0, true), created.getUint32(8, true)]).toEqual([77n, 0]);
      const refused = await ask(createRequest(key.subarray(0, 16)));
      expect(refused.getUint32(8, true)).not.toBe(0);
      expect((await ask(destroyRequest(77n))).getUint8(0)).toBe(0);
      // One that nobody created: no reason to end the connection.
      await ask(destroyRequest(4711n));
      expect((await ask(createRequest(key))).getUint32(8, true)).toBe(0);
      await session.close();
    } finally {
      await machine.close();
      await until(
        () => said.split("closed").length >= 3,
        () => said,
      );
      const ended = once(backend, "exit");
      backend.kill("SIGKILL");
      await ended;
      rmSync(folder, { recursive: true });
    }
    const lines = said.trim().split("\n").slice(1);
    const wanted = { operation: CREATE, cipherAlgorithm: AES_CBC, operationType: CIPHER, direction: ENCRYPT };
    expect(lines.map((line): unknown => JSON.parse(line))).toMatchObject([
      {
        session: {
          ...wanted,
          cipherKey: Buffer.from(Array.from({ length: 32 }, (_, i) => 3 * i)).toString("hex"),
        },
      },
      { session: wanted },
      { closed: 77 },
      { session: wanted },
      // What is left when QEMU ends.
      { closed: 77 },
    ]);
  },
);
