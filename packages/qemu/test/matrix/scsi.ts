import { randomUUID } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect } from "vitest";
import { inquiry } from "virtio/drivers/scsi/cdb";
import { ScsiDriver } from "virtio/drivers/scsi/driver";
import type { ScsiEvent } from "virtio/drivers/scsi/events";
import { SENSE_DATA_PROTECT } from "virtio/drivers/scsi/error";
import { VIRTIO_ID_SCSI } from "virtio/spec/ids";
import { VIRTIO_SCSI_T_TMF_QUERY_TASK } from "virtio/spec/scsi";
import { pattern, type TestDriver } from "./test-driver.ts";

const DISK_BLOCKS = 2048;
const DISC_SECTORS = 64;

/** A disk as unit 3:5, a disc as unit 0:0, and a disk that comes and goes. */
export const scsi: TestDriver = {
  name: "scsi",
  deviceId: VIRTIO_ID_SCSI,
  device: "virtio-scsi",
  plug(id, { folder }) {
    writeFileSync(join(folder, `${id}.img`), pattern(DISK_BLOCKS * 512, 1));
    writeFileSync(join(folder, `${id}.iso`), pattern(DISC_SECTORS * 2048, 2));
    const node = (name: string, file: string): string[] => [
      "-blockdev",
      `driver=file,node-name=${id}-${name},filename=${join(folder, file)}`,
    ];
    return {
      properties: "",
      argv: [
        ...node("disk", `${id}.img`),
        ...node("disc", `${id}.iso`),
        "-blockdev",
        `driver=null-co,read-zeroes=on,size=1048576,node-name=${id}-spare`,
        "-device",
        `scsi-hd,bus=${id}.0,scsi-id=3,lun=5,drive=${id}-disk,serial=S${id}`,
        "-device",
        `scsi-cd,bus=${id}.0,scsi-id=0,lun=0,drive=${id}-disc`,
      ],
    };
  },
  async exercise(transport, id, { folder }, { qmp }) {
    const driver = await ScsiDriver.open(transport);
    const units = await driver.scan();
    expect(units.map(({ target, lun, inquiry: found }) => [target, lun, found.type, found.vendor])).toEqual([
      [0, 0, 5, "QEMU"],
      [3, 5, 0, "QEMU"],
    ]);
    const [disc, disk] = units;
    if (disc === undefined || disk === undefined) throw new Error("unreachable");
    expect(await disk.serial()).toBe(`S${id}`);
    expect(await disk.capacity()).toEqual({ blocks: DISK_BLOCKS, blockSize: 512 });
    const whole = new Uint8Array(DISK_BLOCKS * 512);
    const written = pattern(200 * 512, transport.name.length + Date.now());
    await disk.write(17, written);
    await disk.flush();
    await disk.read(0, whole);
    expect(Buffer.compare(whole.subarray(17 * 512, 217 * 512), written)).toBe(0);
    expect(Buffer.compare(readFileSync(join(folder, `${id}.img`)), whole)).toBe(0);

    expect(await disc.capacity()).toEqual({ blocks: DISC_SECTORS, blockSize: 2048 });
    const sectors = new Uint8Array(DISC_SECTORS * 2048);
    await disc.read(0, sectors);
    expect(Buffer.compare(sectors, pattern(DISC_SECTORS * 2048, 2))).toBe(0);
    // A write to a disc ends in sense data, a command to nobody in a response.
    await expect(disc.write(0, new Uint8Array(2048))).rejects.toMatchObject({
      response: 0,
      status: 2,
      sense: { key: SENSE_DATA_PROTECT },
    });
    await expect(driver.command({ target: 9, lun: 0 }, inquiry(36))).rejects.toMatchObject({ response: 3 });

    expect(await driver.taskManagement(VIRTIO_SCSI_T_TMF_QUERY_TASK, disk, 12_345)).toBe(false);
    await driver.resetUnit(disk);
    // The reset is a unit attention, which the next command of a user does not see.
    await disk.read(0, whole.subarray(0, 512));

    const events = driver.events();
    const next = async (kind: ScsiEvent["kind"]): Promise<ScsiEvent | undefined> => {
      for (;;) {
        const { value, done } = await events.next();
        if (done === true || value.kind === kind) return value ?? undefined;
      }
    };
    for (const blocks of [2 * DISK_BLOCKS, DISK_BLOCKS]) {
      await qmp.execute("block_resize", { "node-name": `${id}-disk`, size: blocks * 512 });
      expect(await next("changed")).toEqual({
        kind: "changed",
        unit: { target: 3, lun: 5 },
        asc: 0x2a,
        ascq: 9,
      });
      expect(await disk.capacity()).toEqual({ blocks, blockSize: 512 });
    }
    // QEMU lets go of a disk that was unplugged a little later than it says.
    const more = `${id}-${randomUUID()}`;
    const place = { bus: `${id}.0`, "scsi-id": 7, drive: `${id}-spare`, "share-rw": true };
    await qmp.execute("device_add", { driver: "scsi-hd", id: more, ...place });
    expect(await next("added")).toMatchObject({ unit: { target: 7, lun: 0 } });
    expect(await driver.unit({ target: 7, lun: 0 })?.capacity()).toEqual({ blocks: 2048, blockSize: 512 });
    await qmp.execute("device_del", { id: more });
    expect(await next("removed")).toMatchObject({ unit: { target: 7 } });
    expect(driver.unit({ target: 7, lun: 0 })).toBeUndefined();
    await driver.close();
  },
};
