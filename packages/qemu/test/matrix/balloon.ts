import { until } from "@virtio/testkit/until";
import { expect } from "vitest";
import { BalloonDriver } from "virtio/drivers/balloon/driver";
import { VIRTIO_BALLOON_F_PAGE_REPORTING } from "virtio/spec/balloon";
import { VIRTIO_ID_BALLOON } from "virtio/spec/ids";
import type { QemuMachine } from "../../src/index.ts";
import type { TestDriver } from "./test-driver.ts";

const MIB = 1 << 20;
const PAGES_A_MIB = MIB / 4096;

/** QEMU asks for memory, gets it, gives it back, and hears statistics. */
export const balloon: TestDriver = {
  name: "balloon",
  deviceId: VIRTIO_ID_BALLOON,
  device: "virtio-balloon",
  plug: () => ({ properties: ",deflate-on-oom=on,free-page-reporting=on", argv: [] }),
  async exercise(transport, id, _around, { qmp, memory }) {
    const whole = await balloonSize(qmp);
    await qmp.execute("balloon", { value: whole - 3 * MIB });
    const statistics = { free: 123 * MIB, total: 456 * MIB, majorFaults: 7, caches: 2 ** 40 };
    const driver = await BalloonDriver.open(transport, { statistics: () => statistics });
    expect(driver.target).toBe(3 * PAGES_A_MIB);
    await until(() => driver.actual === 3 * PAGES_A_MIB, "the balloon to be as large as QEMU wants it");
    const is = (size: number): Promise<void> =>
      until(async () => (await balloonSize(qmp)) === size, `QEMU to see ${size} bytes`);
    await is(whole - 3 * MIB);
    // A change is followed, up and down.
    for (const size of [5, 1]) {
      await qmp.execute("balloon", { value: whole - size * MIB });
      await until(() => driver.actual === size * PAGES_A_MIB, "the balloon to follow");
      await is(whole - size * MIB);
    }
    await expect(driver.inflate(1)).rejects.toThrow("more than the 256 wanted");
    await driver.deflate(10);
    await is(whole - MIB + 10 * 4096);
    expect(await driver.inflate(10)).toBe(10);

    const path = `/machine/peripheral/${id}`;
    await qmp.execute("qom-set", { path, property: "guest-stats-polling-interval", value: 1 });
    let stats: Record<string, number> = {};
    await until(async () => {
      const answer = await qmp.execute("qom-get", { path, property: "guest-stats" });
      const { stats: told, "last-update": updated } = answer as {
        stats: Record<string, number>;
        "last-update": number;
      };
      stats = told;
      return updated !== 0;
    }, "statistics");
    expect(stats).toMatchObject({
      "stat-free-memory": 123 * MIB,
      "stat-total-memory": 456 * MIB,
      "stat-major-faults": 7,
      "stat-disk-caches": 2 ** 40,
    });
    await qmp.execute("qom-set", { path, property: "guest-stats-polling-interval", value: 0 });

    // QEMU throws away what is reported, and it reads as zeroes.
    if (driver.session.has(VIRTIO_BALLOON_F_PAGE_REPORTING)) {
      const { memory: dma } = transport;
      const gpa = dma.allocate(2 * MIB, 2 * MIB);
      dma.view(gpa, 2 * MIB).fill(0xa5);
      await driver.report([{ gpa, length: 2 * MIB }]);
      expect(memory.view(gpa, 2 * MIB).every((byte) => byte === 0)).toBe(true);
      dma.free(gpa, 2 * MIB);
    }
    await qmp.execute("balloon", { value: whole });
    await until(() => driver.actual === 0, "the balloon to be empty");
    await driver.close();
  },
};

async function balloonSize(qmp: QemuMachine["qmp"]): Promise<number> {
  const { actual } = (await qmp.execute("query-balloon")) as { actual: number };
  return actual;
}
