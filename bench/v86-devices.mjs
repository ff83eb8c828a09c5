/**
 * Our devices beside v86's own, in one guest and one run, alternately: disk (v86: IDE), shared directory (v86: its 9p) and
 * console (v86: its virtio-console). Needs gcc, and `npm start` once.
 *
 *     npm run bench:v86 [disk] [9p] [console]
 */
import { benchMachine } from "./guest/machine.mjs";
import { printTable } from "./lib/table.mjs";

const SAMPLES = 5;
const parts = process.argv.slice(2);
const wanted = (part) => parts.length === 0 || parts.includes(part);
let guest;

if (wanted("disk") || wanted("9p")) {
  guest = await benchMachine("disk");
  if (wanted("disk"))
    printTable("Disk, 64 MiB in memory, O_DIRECT, I/O scheduler none for both", "v86's IDE", await disk());
  if (wanted("9p"))
    printTable("Shared directory, in memory, cache=none", "v86's 9p", await sharedDirectory());
  await guest.machine.destroy();
}
if (wanted("console")) {
  guest = await benchMachine("console");
  printTable("Console output", "v86's virtio-console", await consoleOutput());
}
process.exit(0);

/** Samples of both, taken alternately; the first of each is the compiler's. */
async function both(measure) {
  const ours = [];
  const peer = [];
  for (let i = 0; i <= SAMPLES; i++) {
    ours.push(await measure(true));
    peer.push(await measure(false));
  }
  return { ours: ours.slice(1), peer: peer.slice(1) };
}

async function disk() {
  const device = (ours) => (ours ? "/dev/vda" : "/dev/sda");
  const rate = (block, count, mode) => async (ours) => {
    const [done, time] = (await guest.run(`rr ${device(ours)} ${block} ${count} 64 ${mode}`))
      .split(" ")
      .map(Number);
    if (done !== count) throw new Error(`rr did ${done} of ${count}`);
    return (done / time) * 1e6;
  };
  const row = async (what, unit, block, count, mode, scale, aim) => {
    const { ours, peer } = await both(rate(block, count, mode));
    return {
      what,
      unit,
      ours: ours.map((v) => v * scale),
      peer: peer.map((v) => v * scale),
      better: "more",
      aim,
    };
  };
  return [
    await row("4 KiB random read", "requests/s", 4096, 2000, "r rand", 1, ">= 2x"),
    await row("4 KiB random write", "requests/s", 4096, 2000, "w rand", 1, ""),
    await row("1 MiB sequential read", "MiB/s", 1 << 20, 128, "r seq", 1, ">= 2.5x"),
    await row("1 MiB sequential write", "MiB/s", 1 << 20, 128, "w seq", 1, ""),
  ];
}

async function sharedDirectory() {
  const rows = [];
  for (const msize of [8192, 131072, 512000]) {
    const mount = (tag) =>
      `mount -t 9p -o trans=virtio,version=9p2000.L,msize=${msize},cache=none ${tag} /mnt/${tag}`;
    await guest.run(`mkdir -p /mnt/ours /mnt/host9p; ${mount("ours")}; ${mount("host9p")}`);
    await guest.run(
      "for d in ours host9p; do [ -e /mnt/$d/big ] || { dd if=/dev/zero of=/mnt/$d/big bs=1M count=128; mkdir /mnt/$d/small;" +
        " i=0; while [ $i -lt 1000 ]; do head -c 1024 /dev/zero >/mnt/$d/small/$i; i=$((i+1)); done; }; done 2>/dev/null",
    );
    const at = (ours) => `/mnt/${ours ? "ours" : "host9p"}`;
    const reads = await both(
      async (ours) => 128 / (await timed(`dd if=${at(ours)}/big of=/dev/null bs=1M 2>/dev/null`)),
    );
    rows.push({
      what: `read 128 MiB, msize ${msize}`,
      unit: "MiB/s",
      ...reads,
      better: "more",
      aim: ">= 1.5x",
    });
    const writes = await both(
      async (ours) => 16 / (await timed(`dd if=/dev/zero of=${at(ours)}/w bs=1M count=16 2>/dev/null`)),
    );
    rows.push({ what: `write 16 MiB, msize ${msize}`, unit: "MiB/s", ...writes, better: "more", aim: "" });
    const files = await both((ours) => timed(`cat ${at(ours)}/small/* >/dev/null`));
    rows.push({
      what: `read 1,000 files of 1 KiB, msize ${msize}`,
      unit: "s",
      ...files,
      better: "less",
      aim: ">= 2x",
    });
    await guest.run("umount /mnt/ours /mnt/host9p");
  }
  return rows;
}

async function consoleOutput() {
  await guest.run("head -c 4000000 /dev/zero | tr '\\0' x >/tmp/y");
  const before = guest.consoleBytes();
  await guest.run("echo which >/dev/hvc0; sleep 1");
  const [mine, theirs] =
    guest.consoleBytes() > before ? ["/dev/hvc0", "/dev/hvc1"] : ["/dev/hvc1", "/dev/hvc0"];
  // The terminal's settings are reset when the last one closes it.
  const raw = (tty) =>
    `(stty raw -echo; cat /tmp/y /tmp/y /tmp/y /tmp/y /tmp/y /tmp/y /tmp/y /tmp/y) <${tty} >${tty}`;
  const rates = await both(async (ours) => 32 / (await timed(raw(ours ? mine : theirs))));
  return [{ what: "32 MB to hvc", unit: "MB/s", ...rates, better: "more", aim: ">= 2x" }];
}

/** Seconds on the host's clock, shell and serial port included: the same for both. */
async function timed(command) {
  const start = performance.now();
  await guest.run(command);
  return (performance.now() - start) / 1000;
}
