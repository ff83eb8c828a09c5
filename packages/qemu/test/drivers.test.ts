import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { clause } from "@virtio/testkit/clause";
import { findProgram, needs } from "@virtio/testkit/needs";
import { BalloonDriver } from "virtio/drivers/balloon/driver";
import { GpuDriver } from "virtio/drivers/gpu/driver";
import { InputDriver } from "virtio/drivers/input/driver";
import { ScsiDriver } from "virtio/drivers/scsi/driver";
import { VIRTIO_BALLOON_CONFIG, VIRTIO_BALLOON_F_PAGE_POISON } from "virtio/spec/balloon";
import { VIRTIO_ID_BALLOON, VIRTIO_ID_GPU, VIRTIO_ID_INPUT, VIRTIO_ID_SCSI } from "virtio/spec/ids";
import { VIRTIO_SCSI_EVT_ASYNC_MEDIA_CHANGE } from "virtio/spec/scsi";
import { QemuMachine } from "../src/index.ts";
import { pattern } from "./matrix/test-driver.ts";
import { temporaryFolder } from "./temporary-folder.ts";

const PROGRAM = "qemu-system-x86_64";
const installed = findProgram(PROGRAM) !== undefined;
const folder = temporaryFolder();
const title = (text: string): string => needs(PROGRAM, "qemu-system-x86", text);

test.skipIf(!installed)(
  title("four request queues of a SCSI host at once, and its notifications"),
  async () => {
    const image = join(folder, "queues.img");
    writeFileSync(image, pattern(1 << 20, 1));
    const argv = [PROGRAM, "-M", "pc", "-device", "virtio-scsi-pci,num_queues=4,id=host"];
    argv.push("-blockdev", `driver=file,node-name=disk,filename=${image}`);
    argv.push("-device", "scsi-hd,bus=host.0,scsi-id=255,lun=16383,drive=disk");
    const qemu = await QemuMachine.start({ argv });
    try {
      const driver = await ScsiDriver.open(qemu.device(VIRTIO_ID_SCSI).open(), {
        depth: 16,
        transferSize: 8192,
      });
      const [unit] = await driver.scan();
      expect([unit?.target, unit?.lun]).toEqual([255, 16_383]);
      const whole = new Uint8Array(1 << 20);
      await unit?.read(0, whole);
      expect(Buffer.compare(whole, pattern(1 << 20, 1))).toBe(0);
      const asked = VIRTIO_SCSI_EVT_ASYNC_MEDIA_CHANGE;
      // QEMU knows the message and has no such events.
      expect(await driver.asyncNotifications({ target: 255, lun: 16_383 }, asked, false)).toBe(0);
      await driver.close();
    } finally {
      await qemu.close();
    }
  },
);

test.skipIf(!installed)(
  title("drivers of a machine that is killed end with an error, all of them"),
  async () => {
    const devices = ["virtio-scsi-pci", "virtio-keyboard-pci", "virtio-balloon-pci", "virtio-gpu-pci"];
    const argv = [PROGRAM, "-M", "pc", ...devices.flatMap((device) => ["-device", device])];
    const qemu = await QemuMachine.start({ argv });
    try {
      const scsi = await ScsiDriver.open(qemu.device(VIRTIO_ID_SCSI).open());
      const input = await InputDriver.open(qemu.device(VIRTIO_ID_INPUT).open());
      const balloon = await BalloonDriver.open(qemu.device(VIRTIO_ID_BALLOON).open());
      const gpu = await GpuDriver.open(qemu.device(VIRTIO_ID_GPU).open());
      const waiting = [scsi.events().next(), input.receive()];
      const gone = new Promise<Error>((resolve) => (qemu.onFailure = resolve));
      qemu.process.kill();
      const ends = await Promise.allSettled(waiting);
      expect(ends.map(({ status }) => status)).toEqual(["rejected", "rejected"]);
      expect(await gone).toBeInstanceOf(Error);
      const later = [
        scsi.scan(),
        scsi.resetTarget(0),
        input.setLed(1, true),
        balloon.adjust(),
        gpu.displays(),
        gpu.show(new Uint8Array(4), 1, 1),
        gpu.moveCursor({ x: 1, y: 1 }),
      ];
      for (const { status } of await Promise.allSettled(later)) expect(status).toBe("rejected");
    } finally {
      await qemu.close();
    }
  },
);

test.skipIf(!installed)(title("free pages are hinted to a migration, until it is over"), async () => {
  const argv = [PROGRAM, "-M", "pc", "-object", "iothread,id=io"];
  argv.push("-device", "virtio-balloon-pci,free-page-hint=on,iothread=io");
  const qemu = await QemuMachine.start({ argv });
  try {
    const transport = qemu.device(VIRTIO_ID_BALLOON).open();
    const gpa = transport.memory.allocate(8 << 20, 4096);
    const free = Array.from({ length: 8 }, (_, i) => ({ gpa: gpa + (i << 20), length: 1 << 20 }));
    let taken = 0;
    let finish = (): void => undefined;
    const finished = new Promise<void>((resolve) => (finish = resolve));
    const take = (): typeof free => {
      taken++;
      return free;
    };
    const driver = await BalloonDriver.open(transport, { hints: { take, done: () => finish() } });
    expect(taken).toBe(0);
    await qemu.qmp.execute("migrate", { uri: `exec:cat > ${join(folder, "state")}` });
    await finished;
    expect(taken).toBeGreaterThan(0);
    for (;;) {
      const { status } = (await qemu.qmp.execute("query-migrate")) as { status: string };
      if (status === "completed") break;
      expect(status).not.toBe("failed");
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    await driver.close();
  } finally {
    await qemu.close();
  }
});

test.skipIf(!installed).each([0xa5c3f00d, 0])(
  title(clause("drv.balloon.page-poison", "QEMU is told of the poison %i, and reported pages still hold it")),
  async (poison) => {
    const device = "virtio-balloon-pci,free-page-reporting=on";
    const qemu = await QemuMachine.start({ argv: [PROGRAM, "-M", "pc", "-device", device] });
    try {
      const transport = qemu.device(VIRTIO_ID_BALLOON).open();
      const { memory } = transport;
      const driver = await BalloonDriver.open(transport, { poison });
      expect(driver.session.has(VIRTIO_BALLOON_F_PAGE_POISON)).toBe(true);
      const [told] = new Uint32Array(
        driver.session.readConfig(VIRTIO_BALLOON_CONFIG.poison_val, 4).slice().buffer,
      );
      expect(told).toBe(poison);
      const poisoned = (gpa: number, length: number): boolean => {
        const bytes = qemu.memory.view(gpa, length);
        return bytes.every((byte, at) => byte === ((poison >>> (8 * (at & 3))) & 0xff));
      };
      // The balloon takes the first pages that are free.
      const page = memory.allocate(4096, 4096);
      memory.free(page, 4096);
      const { actual: whole } = (await qemu.qmp.execute("query-balloon")) as { actual: number };
      const changed = (pages: number): Promise<void> =>
        new Promise((resolve) => (driver.onChange = () => driver.actual === pages && resolve()));
      const inflated = changed(256);
      await qemu.qmp.execute("balloon", { value: whole - (1 << 20) });
      await inflated;
      qemu.memory.view(page, 4096).fill(0x77);
      const deflated = changed(0);
      await qemu.qmp.execute("balloon", { value: whole });
      await deflated;
      expect(poisoned(page, 4096)).toBe(true);
      // QEMU may only take away what would come back with the poison in it: zeroes.
      const gpa = memory.allocate(2 << 20, 2 << 20);
      memory.view(gpa, 2 << 20).fill(0x77);
      await driver.report([{ gpa, length: 2 << 20 }]);
      expect(poisoned(gpa, 2 << 20)).toBe(true);
      await driver.close();
    } finally {
      await qemu.close();
    }
  },
);
