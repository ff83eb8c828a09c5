/**
 * Linux resets a device that has its requests in hand, and goes on: over MMIO and the legacy interface of PCI it does not wait for
 * the end of a reset. Its driver is unbound and bound again, again and again.
 */
import { createHash, randomBytes } from "node:crypto";
import type { BlockBackend } from "virtio/backends/block";
import { MemoryBlockBackend } from "virtio/backends/memory-block";
import type { VirtioDevice } from "virtio/device/device";
import type { VirtioObserver } from "virtio/device/observer";
import { DEFAULT_CORE_FEATURES } from "virtio/device/features";
import { BlkDevice } from "virtio/devices/blk/device";
import { entropyDevice } from "virtio/devices/entropy/device";
import { VIRTIO_F_RING_PACKED, featureBits } from "virtio/spec/core";
import type { MmioPlugOptions, PciPlugOptions, PluggedDevice } from "@virtio/v86";
import { clause } from "@virtio/testkit/clause";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { TestGuest, guestMissing, needsGuest } from "./guest.ts";
import { LateSource, MARK, lifeOf } from "./late-source.ts";

const PACKED = DEFAULT_CORE_FEATURES | featureBits(VIRTIO_F_RING_PACKED);
const ROUNDS = 5;
/** Requests answered too late, of each device, in the storm of resets. */
const LATE_ANSWERS = 12;
const DRIVER_OK = 4;
const CURRENT = "/sys/class/misc/hw_random/rng_current";
/** Marks that Linux may have of the source before. */
const LEFTOVER = 4;

type Way = { readonly name: string; readonly polls?: boolean } & (
  { readonly pci: Omit<PciPlugOptions, "label"> } | { readonly mmio: Omit<MmioPlugOptions, "label"> }
);

const WAYS: readonly Way[] = [
  { name: "MMIO", mmio: {} },
  { name: "MMIO, packed", mmio: { features: PACKED } },
  { name: "MMIO, legacy", mmio: { version: 1 } },
  { name: "PCI, legacy", pci: { mode: "legacy" } },
  // Linux is told to prefer the legacy interface.
  { name: "PCI, transitional, by its legacy interface", pci: { mode: "transitional" } },
  { name: "PCI, modern", pci: {}, polls: true },
];

/** Where Linux has what is plugged in. */
interface Placed {
  readonly way: Way;
  readonly device: PluggedDevice;
  /** Linux's name of the virtio device. */
  name: string;
}

interface Rng extends Placed {
  readonly source: LateSource;
}

interface Disk extends Placed {
  readonly backend: GatedDisk;
}

/** As a device type that cannot take requests back: its reset is over when they have ended. */
function resetsSlowly(device: VirtioDevice, source: LateSource): VirtioDevice {
  return {
    ...device,
    reset() {
      const old = source.held.slice();
      void device.reset?.();
      if (old.length === 0) return undefined;
      return source.until(() => !source.held.some((request) => old.includes(request)));
    },
  };
}

/** Bytes of a request of the load. */
const PIECE = 65_536;
/** Bytes that are only read, and, behind them, those that are written. */
const KNOWN = 1 << 20;
const WRITTEN = 1 << 20;
const DISK_SIZE = KNOWN + WRITTEN;
/** Pieces where the readers of the load begin. */
const READ = [0, 4, 8];

/** A disk whose requests all take a while, and wait while its gate is closed. */
class GatedDisk implements BlockBackend {
  readonly readOnly = false;
  readonly asynchronous = true;
  readonly size = DISK_SIZE;
  readonly contents: Buffer = randomBytes(DISK_SIZE);
  /** Begun and not ended. */
  busy = 0;
  readonly #inner = new MemoryBlockBackend(this.contents);
  #gate: Promise<void> | undefined;
  #open: (() => void) | undefined;
  #changes: (() => void)[] = [];

  close(): void {
    this.#gate = new Promise((resolve) => (this.#open = resolve));
  }

  open(): void {
    this.#gate = undefined;
    this.#open?.();
  }

  read(offset: number, target: Uint8Array): Promise<void> {
    return this.#later(() => this.#inner.read(offset, target));
  }

  write(offset: number, source: Uint8Array): Promise<void> {
    return this.#later(() => this.#inner.write(offset, source));
  }

  flush(): Promise<void> {
    return this.#later(() => undefined);
  }

  bytes(offset: number, length: number): Buffer {
    const bytes = Buffer.alloc(length);
    this.#inner.read(offset, bytes);
    return bytes;
  }

  async isBusy(requests: number): Promise<void> {
    while (this.busy < requests) await new Promise<void>((resolve) => this.#changes.push(resolve));
  }

  async #later(work: () => void): Promise<void> {
    this.busy++;
    for (const change of this.#changes.splice(0)) change();
    await this.#gate;
    await new Promise((resolve) => setTimeout(resolve, 3 * Math.random()));
    work();
    this.busy--;
  }
}

/**
 * `virtio_dev_remove` of Linux says once, when a device is unbound, that its status is not 0 though the driver has reset it: over MMIO and
 * the legacy interface Linux does not wait for that, and the status of a device whose reset is under way is DEVICE_NEEDS_RESET.
 */
function withoutStatusWarning(messages: string): string {
  return messages.replaceAll(/^.*\[ cut here \][^]*?\[ end trace .*$/gm, (warning) =>
    /WARNING: .* virtio_dev_remove\+/.test(warning) ? "" : warning,
  );
}

const md5 = (bytes: Uint8Array): string => createHash("md5").update(bytes).digest("hex");

describe.skipIf(guestMissing)(needsGuest("Linux rebinds a driver while requests are in flight"), () => {
  let guest: TestGuest;
  /** Two of each way: one that is reset at once, and one whose reset takes as long as its requests. */
  const rngs: Rng[] = [];
  const disks: Disk[] = [];
  /** Answers at once, and is what Linux reads of its own accord. */
  let prompt: Placed;

  /** A device with a reset that takes its time was unbound. */
  let warnsOnce = false;

  const observer: VirtioObserver = {
    status: (device, _from, to) => {
      if (to === 0) rngs.find((rng) => rng.device.label === device.label)?.source.reset();
    },
  };

  beforeAll(async () => {
    guest = await TestGuest.create({ observer });
    prompt = plug(
      entropyDevice((target) => void target.fill(1)),
      { name: "", pci: {} },
      "prompt",
    );
    for (const [index, way] of WAYS.entries()) {
      for (const slow of [false, true]) {
        const source = new LateSource();
        const device = entropyDevice(source.fill);
        const label = `rng${index}${slow ? "slow" : ""}`;
        rngs.push({ ...plug(slow ? resetsSlowly(device, source) : device, way, label), source });
      }
      const backend = new GatedDisk();
      disks.push({ ...plug(new BlkDevice(backend), way, `disk${index}`), backend });
    }
    await guest.boot();
    await guest.sh("modprobe virtio_pci force_legacy=1; modprobe virtio_mmio");
    await guest.sh("modprobe virtio_rng; modprobe virtio_blk; sleep 0.2", 60_000);
    const mmio = guest.machine.devices.filter(({ address }) => address.startsWith("mmio"));
    for (const placed of [prompt, ...rngs, ...disks]) {
      const { address } = placed.device;
      const place = address.startsWith("pci ")
        ? `pci0000:00/0000:${address.slice(4)}`
        : `platform/LNRO0005:${mmio.indexOf(placed.device).toString(16).padStart(2, "0")}`;
      placed.name = await guest.sh(`basename /sys/devices/${place}/virtio*`);
    }
    await guest.sh(`echo virtio_rng.0 > ${CURRENT}`);
    for (const { name } of rngs) await guest.sh(unbind(name));
    for (const { source } of rngs) source.prompt = false;
    await guest.sh("dmesg -c > /dev/null");
  });
  afterAll(() => guest.machine.destroy());

  afterEach(async () => {
    const said = await guest.sh("dmesg -c");
    const all = warnsOnce ? withoutStatusWarning(said) : said;
    expect(all).not.toMatch(/bug|warn|fail|error|trace|oops|stuck/i);
    for (const { device } of [...rngs, ...disks])
      expect(device.instance.counters.map(({ faults }) => faults)).toEqual([0]);
  });

  function plug(device: VirtioDevice, way: Way, label: string): Placed {
    const plugged =
      "pci" in way
        ? guest.machine.plugPci(device, { ...way.pci, label })
        : guest.machine.plugMmio(device, { ...way.mmio, label });
    return { way, device: plugged, name: "" };
  }

  /** Whether these bytes are anywhere in guest memory but in the window of the VGA. */
  function isInMemory(bytes: Buffer): boolean {
    const { memory } = guest.machine;
    return [
      [0, 0xa0000],
      [0xc0000, (128 << 20) - 0xc0000],
    ].some(([gpa = 0, length = 0]) => {
      const view = memory.view(gpa, length);
      return Buffer.from(view.buffer, view.byteOffset, view.length).includes(bytes);
    });
  }

  const bind = (name: string): string => `echo ${name} > /sys/bus/virtio/drivers/virtio_rng/bind`;
  const unbind = (name: string): string => `echo ${name} > /sys/bus/virtio/drivers/virtio_rng/unbind`;

  /**
   * Reads from the only one that is bound beside `prompt`, which answers all it is asked; the lives that the bytes are from. Afterwards
   * Linux has `prompt` again for /dev/hwrng: while it waits for a source, it takes no other, nor gives one up.
   */
  async function read(source: LateSource): Promise<number[]> {
    source.prompt = true;
    while (source.answer());
    await guest.sh(`echo virtio_rng.1 > ${CURRENT}`);
    const hex = await guest.sh(
      `dd if=/dev/hwrng bs=${MARK} count=${LEFTOVER + 2} 2> /dev/null | od -An -v -tx1 | tr -d ' \\n'`,
    );
    await guest.sh(`echo virtio_rng.0 > ${CURRENT}`);
    source.prompt = false;
    const bytes = Buffer.from(hex, "hex").subarray(LEFTOVER * MARK);
    return [0, MARK].map((at) => lifeOf(bytes.subarray(at, at + MARK)));
  }

  /** Unbinds a device whose request, if it has one, is answered before. */
  async function end(name: string, source: LateSource): Promise<void> {
    source.prompt = true;
    while (source.answer());
    await guest.sh(unbind(name));
    source.prompt = false;
  }

  async function rebindsInFlight(index: number, slow: boolean): Promise<void> {
    const { way, device, name, source } = rngs[index] ?? expect.unreachable();
    await guest.sh(bind(name));
    source.resetsInFlight = source.answeredLate = 0;
    for (let round = 0; round < ROUNDS; round++) {
      const { life } = source;
      await source.until(() => source.held.at(-1)?.life === life);
      const rebinding = guest.sh(`${unbind(name)}; ${bind(name)}`);
      await source.until(() => source.life > life);
      if (slow && way.polls === true) {
        // Linux waits until the status reads 0, which it does not yet.
        expect(device.instance.status).not.toBe(0);
      } else {
        // Linux goes on and has set the device up again.
        await rebinding;
        expect(device.instance.status & DRIVER_OK).toBe(DRIVER_OK);
        expect(source.life).toBe(life + 1);
      }
      // All that is from before comes now.
      while (source.held[0] !== undefined && source.held[0].life !== source.life) source.answer();
      await rebinding;
      await source.until(() => source.held.at(-1)?.life === life + 1);
      expect(isInMemory(LateSource.tooLate)).toBe(false);
      expect(await read(source)).toEqual([life + 1, life + 1]);
      expect(isInMemory(LateSource.inTime)).toBe(true);
      await end(name, source);
      await guest.sh(bind(name));
    }
    expect(source.resetsInFlight).toBeGreaterThanOrEqual(ROUNDS);
    expect(source.answeredLate).toBeGreaterThanOrEqual(ROUNDS);
    expect(isInMemory(LateSource.tooLate)).toBe(false);
    await end(name, source);
  }

  test.each(WAYS.map(({ name }, index) => ({ index, name })))(
    clause("dev.core.reset", "no entropy of before the reset arrives after it: $name"),
    ({ index }) => rebindsInFlight(2 * index, false),
  );

  test.each(WAYS.map((way, index) => ({ index, title: way.name })))(
    "a slow disk, taken away from Linux under load and given back: $title",
    async ({ index }) => {
      const { device, name, backend } = disks[index] ?? expect.unreachable();
      const driver = "/sys/bus/virtio/drivers/virtio_blk";
      const known = md5(backend.bytes(0, KNOWN));
      let path = `/dev/${await guest.sh(`ls /sys/bus/virtio/devices/${name}/block`)}`;
      await guest.sh(`dd if=${path} of=/tmp/known bs=64k count=${KNOWN / PIECE} iflag=direct 2> /dev/null`);
      // Again and again in one way; the others differ only in how the device is reset.
      const rounds = index === 0 ? 3 : 1;
      for (let round = 1; round <= rounds; round++) {
        await guest.sh(`head -c ${WRITTEN} /dev/zero | tr '\\0' '\\00${round}' > /tmp/new`);
        const before = backend.bytes(KNOWN, WRITTEN);
        backend.close();
        const load = [
          ...READ.map((at) => `dd if=${path} of=/tmp/read${at} bs=64k skip=${at} count=8 iflag=direct`),
          ...[0, 8].map(
            (at) =>
              `dd if=/tmp/new of=${path} bs=64k skip=${at} seek=${KNOWN / PIECE + at} count=8 oflag=direct`,
          ),
        ];
        await guest.sh(load.map((command) => `${command} 2> /dev/null &`).join(" "));
        await backend.isBusy(load.length);
        await guest.sh(`echo ${name} > ${driver}/unbind & sleep 0.1`);
        // The driver of Linux 6.1 waits for its requests before it resets.
        expect(device.instance.status & DRIVER_OK).toBe(DRIVER_OK);
        expect(backend.busy).toBe(load.length);
        backend.open();
        await guest.sh("wait");
        expect(device.instance.status & DRIVER_OK).toBe(0);
        await guest.sh(`echo ${name} > ${driver}/bind`);
        path = `/dev/${await guest.sh(`ls /sys/bus/virtio/devices/${name}/block`)}`;
        for (const at of READ)
          await guest.sh(
            `tail -c +${at * PIECE + 1} /tmp/known | head -c $(wc -c < /tmp/read${at}) | cmp - /tmp/read${at}`,
          );
        expectSectors(backend.bytes(KNOWN, WRITTEN), before, round);
        await guest.sh(`dd if=/tmp/new of=${path} bs=64k seek=${KNOWN / PIECE} oflag=direct 2> /dev/null`);
        const sums = `for skip in 0 ${KNOWN / PIECE}; do dd if=${path} bs=64k skip=$skip count=${KNOWN / PIECE} iflag=direct 2> /dev/null | md5sum; done`;
        const written = md5(Buffer.alloc(WRITTEN, round));
        expect((await guest.sh(sums)).split(/\s+-\s*/)).toEqual([known, written, ""]);
        expect(md5(backend.bytes(KNOWN, WRITTEN))).toBe(written);
      }
    },
  );

  // After those that Linux must have nothing to say of: what it says of these, it says once.
  test.each(WAYS.map(({ name }, index) => ({ index, name })))(
    clause("dev.core.status", "a device whose reset takes as long as its requests works as well: $name"),
    ({ index }) => {
      warnsOnce = true;
      return rebindsInFlight(2 * index + 1, true);
    },
  );

  test(
    clause("dev.core.reset", "a storm of resets of all devices at once, with answers that come at any time"),
    async () => {
      for (const { name, source } of rngs) {
        source.byItself = true;
        source.resetsInFlight = source.answeredLate = 0;
        await guest.sh(bind(name));
      }
      const rebinding = rngs.map(({ name }) => `${unbind(name)}; ${bind(name)}`).join("; ");
      // A life that waits for the requests of former ones has none of its own, so that not each reset counts.
      while (rngs.some(({ source }) => source.answeredLate < LATE_ANSWERS)) await guest.sh(rebinding, 60_000);
      for (const { source } of rngs) {
        source.byItself = false;
        expect(source.resetsInFlight).toBeGreaterThanOrEqual(LATE_ANSWERS);
      }
      for (const { name, source } of rngs) await end(name, source);
      expect(isInMemory(LateSource.tooLate)).toBe(false);
      for (const { name, source } of rngs) {
        await guest.sh(bind(name));
        expect(await read(source)).toEqual([source.life, source.life]);
        await end(name, source);
      }
    },
  );
});

/** Each sector is as before, or was written whole. */
function expectSectors(now: Buffer, before: Buffer, written: number): void {
  const whole = Buffer.alloc(512, written);
  for (let at = 0; at < now.length; at += 512) {
    const sector = now.subarray(at, at + 512);
    if (!sector.equals(whole)) expect(sector.equals(before.subarray(at, at + 512)), `at ${at}`).toBe(true);
  }
}
