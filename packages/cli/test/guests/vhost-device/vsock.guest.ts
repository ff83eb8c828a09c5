import type { ChildProcess } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer, connect, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { clause } from "@virtio/testkit/clause";
import type { VsockDriver } from "virtio/drivers/vsock/driver";
import { CID, HOST, SIBLING, all, openDriver, send, startDevices } from "./lib/device.ts";

const MIB = 1 << 20;

/** Our driver against the socket device of the vhost-device project; applications on the host speak through its sockets. */
describe("vsock on vhost-device-vsock", () => {
  let folder = "";
  let child: ChildProcess | undefined;
  let driver: VsockDriver | undefined;
  const path = (name: string): string => join(folder, name);

  beforeEach(async () => {
    folder = mkdtempSync(join(tmpdir(), "virtio-vsock-"));
    child = await startDevices(folder);
    driver = await openDriver(path("vhost0"));
  });

  afterEach(async () => {
    await driver?.close();
    child?.kill("SIGKILL");
    rmSync(folder, { recursive: true, force: true });
  });

  const opened = (): VsockDriver => {
    if (driver === undefined) throw new Error("not open");
    return driver;
  };

  test(
    clause(["drv.vsock.features", "drv.vsock.credit"], "8 MiB go to an echo of the host and come back"),
    { timeout: 30_000 },
    async () => {
      expect(opened().cid).toBe(CID);
      expect(opened().supports("stream")).toBe(true);
      const server = createServer((socket) => socket.pipe(socket));
      await new Promise<void>((resolve) => server.listen(path("uds0_1234"), resolve));
      const socket = await opened().connect({ cid: HOST, port: 1234 });
      const data = Buffer.alloc(8 * MIB, "0123456789abcdef!");
      const hash = createHash("sha256");
      const reading = (async () => {
        let got = 0;
        for await (const bytes of socket) {
          hash.update(bytes);
          got += bytes.length;
          // This device does not pass the end of one direction on.
          if (got >= data.length) break;
        }
        return got;
      })();
      await socket.write(data);
      expect(await reading).toBe(data.length);
      expect(hash.digest("hex")).toBe(createHash("sha256").update(data).digest("hex"));
      const start = Date.now();
      await socket.close();
      // The device has confirmed it, within less than the time that it has.
      expect(Date.now() - start).toBeLessThan(1500);
      server.close();
    },
  );

  test("a port where nobody listens refuses, or the device says nothing and we give up", async () => {
    const refused = opened().connect({ cid: HOST, port: 999 }, { signal: AbortSignal.timeout(500) });
    await expect(refused).rejects.toThrow();
  });

  test("the host is refused where we do not listen, and its end is one to us", async () => {
    await expect(hostConnect(path("uds0"), 999)).rejects.toThrow("the device refuses");
    const listener = opened().listen(5000);
    const peer = await hostConnect(path("uds0"), 5000);
    const socket = await listener.accept();
    peer.end("the last words");
    expect(Buffer.from((await socket?.read()) ?? []).toString()).toBe("the last words");
    expect(await socket?.read()).toBeUndefined();
    // This device says of both directions that they are over.
    await expect(socket?.write(Buffer.from("late"))).rejects.toMatchObject({ code: "closed" });
  });

  test("between two drivers: what each refuses, and the end of one direction only", async () => {
    const sibling = await openDriver(path("vhost1"));
    expect(sibling.cid).toBe(SIBLING);
    const refused = opened().connect({ cid: SIBLING, port: 1 });
    await expect(refused).rejects.toMatchObject({ code: "refused" });
    const listener = sibling.listen(6000);
    const here = await opened().connect({ cid: SIBLING, port: 6000 });
    const there = await listener.accept();
    if (there === undefined) throw new Error("nobody came");
    const [question, answer] = [Buffer.alloc(MIB, "question "), Buffer.alloc(MIB, "answer ")];
    const asking = send(here, question).then(() => here.end());
    expect((await all(there)).equals(question)).toBe(true);
    await asking;
    // That way is over, and the other one open.
    await expect(here.write(Buffer.from("more"))).rejects.toMatchObject({ code: "closed" });
    const answering = send(there, answer).then(() => there.end());
    expect((await all(here)).equals(answer)).toBe(true);
    await answering;
    await here.close();
    expect([here.isOpen, there.isOpen]).toEqual([false, false]);
    await sibling.close();
  });

  test(
    "the host connects to us, several at a time, and 8 MiB go to a slow reader",
    { timeout: 30_000 },
    async () => {
      const listener = opened().listen(5000);
      const peers = await Promise.all([1, 2, 3].map(() => hostConnect(path("uds0"), 5000)));
      const sockets = [await listener.accept(), await listener.accept(), await listener.accept()];
      expect(sockets.every((socket) => socket?.remote.cid === HOST)).toBe(true);
      for (const [i, peer] of peers.entries()) peer.write(`hello ${i}`);
      const said: string[] = [];
      for (const socket of sockets) said.push(Buffer.from((await socket?.read()) ?? []).toString());
      expect(said.sort()).toEqual(["hello 0", "hello 1", "hello 2"]);

      const peer = await hostConnect(path("uds0"), 5000);
      const socket = await listener.accept();
      const data = Buffer.alloc(8 * MIB, "slow reader ");
      peer.end(data);
      let got = 0;
      const hash = createHash("sha256");
      for (let bytes = await socket?.read(); bytes !== undefined; bytes = await socket?.read()) {
        if (got === 0) await wait(100);
        got += bytes.length;
        hash.update(bytes);
      }
      expect(got).toBe(data.length);
      expect(hash.digest("hex")).toBe(createHash("sha256").update(data).digest("hex"));
      listener.close();
      for (const each of peers) each.destroy();
    },
  );
});

/** Connects an application of the host to a port of the guest. */
async function hostConnect(path: string, port: number): Promise<Socket> {
  const socket = connect(path);
  socket.on("error", () => undefined);
  socket.write(`CONNECT ${port}\n`);
  await new Promise<void>((resolve, reject) => {
    socket.once("data", (bytes) => {
      if (/^OK \d+\n$/.test(bytes.toString())) resolve();
      else reject(new Error(`the device says ${bytes.toString()}`));
    });
    socket.once("close", () => reject(new Error("the device refuses")));
  });
  return socket;
}

function wait(milliseconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}
