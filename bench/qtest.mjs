/**
 * Register accesses of a QEMU machine over qtest, ours beside a client that awaits each answer on a `net.Socket`, in one
 * run, alternately; and our disk driver on QEMU's virtio-blk with nothing behind it. Needs `qemu-system-arm`.
 *
 *     node bench/qtest.mjs [--seconds 0.3] [--samples 7]
 */
import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { QemuMachine } from "@virtio/qemu";
import { BlkDriver } from "virtio/drivers/blk/driver";
import { VIRTIO_ID_BLK } from "virtio/spec/ids";
import { printTable } from "./lib/table.mjs";

const { values: options } = parseArgs({
  options: { seconds: { type: "string", default: "0.3" }, samples: { type: "string", default: "7" } },
});
const SECONDS = Number(options.seconds);
const SAMPLES = Number(options.samples);
const PROGRAM = "qemu-system-arm";
/** A register of the machine's interrupt controller that nobody minds. */
const REGISTER = 0x8000100;
const PIECE = 64;

/** What one would write first: a command, then its answer, again and again. */
class AwaitingClient {
  waiting = [];
  #text = "";

  static async start(folder) {
    const path = join(folder, "qtest.sock");
    const argv = ["-M", "virt", "-global", "cpu.start-powered-off=on", "-display", "none", "-nodefaults"];
    const client = new AwaitingClient();
    client.child = spawn(PROGRAM, [
      ...argv,
      "-qtest",
      `unix:${path},server=on,wait=off`,
      "-qtest-log",
      "none",
    ]);
    while (!existsSync(path)) await new Promise((resolve) => setTimeout(resolve, 10));
    client.socket = connect(path);
    client.socket.setEncoding("latin1");
    client.socket.on("data", (text) => client.#data(text));
    return client;
  }

  ask(command) {
    return new Promise((resolve) => {
      this.waiting.push(resolve);
      this.socket.write(`${command}\n`);
    });
  }

  close() {
    this.socket.destroy();
    this.child.kill();
  }

  #data(text) {
    const lines = (this.#text + text).split("\n");
    this.#text = lines.pop();
    for (const line of lines) this.waiting.shift()?.(line);
  }
}

/** Operations a second of `work`, which does `count` of them. */
async function rate(work, count) {
  const start = performance.now();
  let done = 0;
  while (performance.now() - start < SECONDS * 1000) {
    await work();
    done += count;
  }
  return (done * 1000) / (performance.now() - start);
}

const folder = mkdtempSync(join(tmpdir(), "virtio-bench-"));
const peer = await AwaitingClient.start(folder);
const argv = ["-M", "virt", "-blockdev", "driver=null-co,node-name=d,size=1073741824,read-zeroes=on"];
const machine = await QemuMachine.start({
  argv: [PROGRAM, ...argv, "-device", "virtio-blk-pci-non-transitional,drive=d,event_idx=on"],
});
const { qtest } = machine;
const read = `readl 0x${REGISTER.toString(16)}`;
const many = Array.from({ length: PIECE }, () => read);
const depths = [1, 32];

/** Reads of 4 KiB a second at each depth. */
async function diskRates(interrupts) {
  const disk = await BlkDriver.open(machine.device(VIRTIO_ID_BLK).open({ interrupts }), { depth: 32 });
  const buffers = Array.from({ length: 32 }, () => new Uint8Array(4096));
  const rates = [];
  for (const depth of depths) {
    const batch = () => Promise.all(buffers.slice(0, depth).map((buffer, i) => disk.read(8 * i, buffer)));
    rates.push(await rate(batch, depth));
  }
  await disk.close();
  return rates;
}

const rows = [
  {
    what: "register read, one by one",
    ours: () => rate(() => void qtest.readl(REGISTER), 1),
    theirs: () => rate(() => peer.ask(read), 1),
  },
  {
    what: `register reads, ${PIECE} in one piece`,
    ours: () => rate(() => void qtest.execute(many), PIECE),
    theirs: () => rate(() => Promise.all(many.map((command) => peer.ask(command))), PIECE),
  },
  {
    what: "register write",
    ours: () =>
      rate(() => {
        for (let i = 0; i < PIECE; i++) qtest.writel(REGISTER, 0);
        qtest.settle();
      }, PIECE),
    theirs: () => rate(() => peer.ask(`writel 0x${REGISTER.toString(16)} 0x0`), 1),
  },
];
const unit = { unit: "1/s", better: "more" };
const accesses = rows.map(({ what }) => ({ what, ...unit, ours: [], peer: [] }));
const disks = depths.map((depth) => ({ what: `4 KiB read, depth ${depth}`, ...unit, ours: [], peer: [] }));
try {
  for (let sample = 0; sample < SAMPLES; sample++) {
    for (const [i, row] of rows.entries()) {
      accesses[i].ours.push(await row.ours());
      accesses[i].peer.push(await row.theirs());
    }
    const [msix, intx] = [await diskRates("msix"), await diskRates("intx")];
    for (const [i, disk] of disks.entries()) {
      disk.ours.push(msix[i]);
      disk.peer.push(intx[i]);
    }
  }
} finally {
  peer.close();
  await machine.close();
  rmSync(folder, { recursive: true, force: true });
}
printTable("Registers of a QEMU machine, over qtest", "a client that awaits each answer", accesses);
printTable("Our disk driver on QEMU's virtio-blk-pci: MSI-X beside INTx", "INTx", disks);
