import { spawn, type ChildProcess } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { clause } from "@virtio/testkit/clause";
import { findProgram, needs } from "@virtio/testkit/needs";
import { HANG_MS, until } from "@virtio/testkit/until";
import { VhostUserTarget } from "@virtio/cli/shell/target/vhost-user";
import { VhostUserTransport } from "@virtio/vhost-user";
import { NetDriver } from "virtio/drivers/net/driver";
import {
  VIRTIO_F_EVENT_IDX,
  VIRTIO_F_IN_ORDER,
  VIRTIO_F_INDIRECT_DESC,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_VERSION_1,
  featureBits,
} from "virtio/spec/core";
import { VIRTIO_ID_NET } from "virtio/spec/ids";
import { TestShell } from "../../shell/lib/shell.ts";

const PROGRAM = "dpdk-testpmd";
const FRAMES = 1000;
/** Bytes of the shortest frame of Ethernet, and of the longest, without their check sum. */
const SIZES = [60, 1514] as const;
/** Frames under way in one direction: DPDK drops what finds no receive buffer, and the driver has 64 of them. */
const UNDER_WAY = 32;

const RINGS: readonly [string, bigint][] = [
  ["split rings", featureBits(VIRTIO_F_VERSION_1)],
  [
    "split rings with indirect descriptors and event index",
    featureBits(VIRTIO_F_VERSION_1, VIRTIO_F_INDIRECT_DESC, VIRTIO_F_EVENT_IDX),
  ],
  ["packed rings", featureBits(VIRTIO_F_VERSION_1, VIRTIO_F_RING_PACKED)],
  ["packed rings in order", featureBits(VIRTIO_F_VERSION_1, VIRTIO_F_RING_PACKED, VIRTIO_F_IN_ORDER)],
];

/** Two ports of DPDK's vhost library, and between them a program that passes each frame from one to the other. */
describe("net on DPDK's vhost", () => {
  let folder = "";
  let child: ChildProcess | undefined;
  let said = "";
  const socket = (port: number): string => join(folder, `${port}.sock`);

  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), "virtio-dpdk-"));
  });

  // It looks at its ports without a pause, so it must not stay a moment longer.
  afterEach(async () => {
    if (child?.exitCode === null && child.signalCode === null) {
      const ended = once(child, "exit");
      child.kill("SIGKILL");
      await ended;
    }
    rmSync(folder, { recursive: true, force: true });
  });

  async function start(): Promise<void> {
    const processors = /^Cpus_allowed_list:\s*(\S+)$/m.exec(readFileSync("/proc/self/status", "utf8"))?.[1];
    const ports = [0, 1].flatMap((port) => ["--vdev", `net_vhost${port},iface=${socket(port)}`]);
    // Neither huge pages nor files of its own, so no root; its two threads run wherever this process may.
    const environment = ["--no-huge", "--no-shconf", "--no-pci", "--no-telemetry", "-m", "256"];
    const threads = ["--lcores", `0@(${processors}),1@(${processors})`];
    const forwarding = ["--forward-mode=io", "--auto-start", "--total-num-mbufs=4096"];
    said = "";
    // It ends when its standard input does.
    child = spawn(PROGRAM, [...environment, ...threads, ...ports, "--", ...forwarding], {
      stdio: ["pipe", "pipe", "pipe"],
    });
    for (const stream of [child.stdout, child.stderr])
      stream?.setEncoding("utf8").on("data", (text: string) => (said += text));
    const { exitCode } = child;
    await until(
      () => (existsSync(socket(0)) && existsSync(socket(1))) || child?.exitCode !== exitCode,
      () => said,
    );
    if (child.exitCode !== null) throw new Error(`${PROGRAM}: ${said}`);
  }

  async function open(port: number, ring: bigint): Promise<NetDriver> {
    // A thread of its never sleeps, so on a busy machine the one that answers may wait long for a processor.
    const options = { socket: socket(port), deviceId: VIRTIO_ID_NET, timeout: HANG_MS };
    const transport = await VhostUserTransport.open(options);
    const driver = await NetDriver.open(transport, { ring });
    expect(driver.session.features & ring).toBe(ring);
    await transport.settled();
    return driver;
  }

  test.skipIf(findProgram(PROGRAM) === undefined).for(RINGS)(
    needs(
      PROGRAM,
      "dpdk-dev",
      clause("drv.net.rx", `${FRAMES} frames of many sizes each way between two drivers, byte for byte, %s`),
    ),
    { timeout: 2 * HANG_MS },
    async ([, ring]) => {
      await start();
      const drivers = [await open(0, ring), await open(1, ring)] as const;
      const [a, b] = drivers;
      await Promise.all([untilPassing(a, b), untilPassing(b, a)]);
      await Promise.all([pass(a, b), pass(b, a)]);
      for (const driver of drivers) await driver.close();
    },
  );

  test.skipIf(findProgram(PROGRAM) === undefined)(
    needs(PROGRAM, "dpdk-dev", clause("drv.net.tx", "the shell's network is one of its ports")),
    { timeout: 2 * HANG_MS },
    async () => {
      await start();
      const shell = new TestShell(new VhostUserTarget([{ socket: socket(0), deviceId: VIRTIO_ID_NET }]));
      expect(await shell.run("virtio list; virtio features net0")).toMatch(
        /net0 .*vhost-user \S+0\.sock[\s\S]* VERSION_1 +accepted/,
      );
      await shell.close();
    },
  );
});

/**
 * A port takes frames before the port on the other side gives any, and what it took meanwhile is dropped: sends until one has
 * come, and takes what comes late. Such frames have zeros alone.
 */
async function untilPassing(from: NetDriver, to: NetDriver): Promise<void> {
  const first = to.receive();
  const later = (): Promise<undefined> => new Promise((resolve) => setTimeout(() => resolve(undefined), 10));
  await until(async () => {
    await from.send(new Uint8Array(SIZES[0]));
    return (await Promise.race([first, later()])) !== undefined;
  }, "a frame on the other side");
}

async function pass(from: NetDriver, to: NetDriver): Promise<void> {
  const sent: Uint8Array[] = [];
  const send = (): Promise<void> => {
    const [shortest, longest] = SIZES;
    const frame = randomBytes(shortest + ((sent.length * 37) % (longest - shortest + 1)));
    // Never an early frame, and its place.
    frame.writeUInt16BE(1 + sent.length, 0);
    sent.push(frame);
    return from.send(frame);
  };
  for (let i = 0; i < UNDER_WAY; i++) await send();
  for (let received = 0; received < FRAMES;) {
    const frame = await to.receive();
    if (frame?.every((byte) => byte === 0)) continue;
    expect(
      Buffer.compare(frame ?? new Uint8Array(0), sent[received] ?? new Uint8Array(0)),
      `frame ${received}`,
    ).toBe(0);
    received++;
    if (sent.length < FRAMES) await send();
  }
}
