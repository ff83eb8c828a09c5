import { readFileSync } from "node:fs";
import { openDescriptors } from "@virtio/vhost-user/native/descriptor";
import { findProgram, needs } from "@virtio/testkit/needs";
import { afterEach, describe, expect, test } from "vitest";
import { WindowAllocator } from "virtio/driver/pci-bars";
import { EntropyDriver } from "virtio/drivers/entropy/driver";
import { VIRTIO_ID_ENTROPY } from "virtio/spec/ids";
import { QemuError, QemuMachine, splitCommandLine, type QemuMachineOptions } from "../src/index.ts";

const X86 = "qemu-system-x86_64";
const ARM = "qemu-system-arm";
const without = { [X86]: findProgram(X86) === undefined, [ARM]: findProgram(ARM) === undefined };
const x86 = (title: string): string => needs(X86, "qemu-system-x86", title);
const arm = (title: string): string => needs(ARM, "qemu-system-arm", title);

const running: QemuMachine[] = [];
async function start(
  argv: readonly string[],
  options: Partial<QemuMachineOptions> = {},
): Promise<QemuMachine> {
  const machine = await QemuMachine.start({ ...options, argv });
  running.push(machine);
  return machine;
}
afterEach(async () => {
  const untold = running.splice(0).map(async (machine) => {
    // Who closes a machine is not told that it is gone.
    machine.onFailure = (error) => expect.fail(error.message);
    await machine.close();
  });
  await Promise.all(untold);
});

async function random(machine: QemuMachine): Promise<void> {
  const driver = await EntropyDriver.open(machine.device(VIRTIO_ID_ENTROPY).open());
  await driver.read(new Uint8Array(100));
  await driver.close();
}

const alive = (pid: number | undefined): boolean => {
  if (pid === undefined) return false;
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
};

/** What a process has used of processors, in hundredths of a second. */
function processorTime(pid: number | undefined): number {
  const stat = readFileSync(`/proc/${pid}/stat`, "latin1");
  // After the program's name in parentheses, which is field 2: utime and stime are fields 14 and 15.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return Number(fields[11]) + Number(fields[12]);
}

/** An entropy device that never has any. */
const NO_ENTROPY = [
  "-chardev",
  "null,id=c",
  "-object",
  "rng-egd,id=r,chardev=c",
  "-device",
  "virtio-rng-pci,rng=r",
];

describe("a start that fails", () => {
  test("of a program that is not there", async () => {
    await expect(start(["/nonexistent/qemu-system-arm", "-M", "virt"])).rejects.toThrow(
      /ENOENT|No such file/,
    );
  });

  test.skipIf(without[X86])(x86("quotes what QEMU says"), async () => {
    const failed = start([X86, "-M", "pc", "-device", "virtio-nonsense"]);
    await expect(failed).rejects.toThrow(QemuError);
    await expect(failed).rejects.toThrow(
      /exit status 1\): .*'virtio-nonsense' is not a valid device model name/,
    );
  });

  test.skipIf(without[ARM])(arm("names a machine that cannot be taken over"), async () => {
    const failed = start([ARM, "-M", "lm3s811evb"]);
    await expect(failed).rejects.toThrow(QemuError);
  });

  test.skipIf(without[X86])(x86("ends with the signal's reason, and leaves nothing behind"), async () => {
    const before = openDescriptors();
    await expect(start([X86, "-M", "pc"], { signal: AbortSignal.abort(new Error("no")) })).rejects.toThrow(
      "no",
    );
    const soon = AbortSignal.timeout(5);
    await expect(start([X86, "-M", "pc"], { signal: soon })).rejects.toThrow(/timeout|aborted/i);
    expect(openDescriptors()).toBe(before);
  });
});

describe("a machine that runs", () => {
  test.skipIf(without[X86])(x86("leaves no process, descriptor or file behind"), async () => {
    const before = openDescriptors();
    const machine = await start([X86, "-M", "pc", "-device", "virtio-rng-pci"]);
    const { pid } = machine.process;
    await random(machine);
    expect(alive(pid)).toBe(true);
    await machine.close();
    await machine.close();
    expect(alive(pid)).toBe(false);
    expect(openDescriptors()).toBe(before);
    expect(() => machine.devices()).toThrow(QemuError);
  });

  test.skipIf(without[X86])(
    x86("that is killed ends requests with an error, and later ones at once"),
    async () => {
      const machine = await start([X86, "-M", "pc", ...NO_ENTROPY]);
      const failed = new Promise<Error>((resolve) => (machine.onFailure = resolve));
      const driver = await EntropyDriver.open(machine.device(VIRTIO_ID_ENTROPY).open());
      const pending = driver.read(new Uint8Array(512));
      process.kill(machine.process.pid ?? 0, "SIGKILL");
      await expect(pending).rejects.toThrow(/QEMU has ended|the connection has ended/);
      expect(await failed).toBe(machine.failure);
      const started = performance.now();
      await expect(driver.read(new Uint8Array(512))).rejects.toThrow(/ended/);
      await expect(driver.close()).rejects.toThrow(/ended/);
      await expect(machine.qmp.execute("query-status")).rejects.toThrow(QemuError);
      expect(performance.now() - started).toBeLessThan(1000);
    },
  );

  test.skipIf(without[X86])(x86("that is closed gives out no devices, nor keeps its drivers"), async () => {
    const machine = await start([X86, "-M", "pc", ...NO_ENTROPY, "-device", "virtio-rng-pci"]);
    const [first, second] = machine.devices();
    if (first === undefined || second === undefined) throw new Error("QEMU has two entropy devices");
    const driver = await EntropyDriver.open(first.open());
    const pending = driver.read(new Uint8Array(512));
    let told = false;
    const forget = machine.platform.onLost?.(() => (told = true));
    const closing = machine.close();
    await expect(pending).rejects.toThrow("the machine was closed");
    expect(told).toBe(true);
    forget?.();
    // QEMU may still answer: nobody would hear of its end.
    expect(() => second.open()).toThrow(/the machine was closed/);
    expect(() => machine.devices()).toThrow(/the machine was closed/);
    expect(() => machine.platform.onLost?.(() => undefined)).toThrow(/the machine was closed/);
    await closing;
  });

  test.skipIf(without[X86])(x86("that hangs is given up after the timeout"), async () => {
    const machine = await start([X86, "-M", "pc", "-device", "virtio-rng-pci"], { timeout: 1500 });
    process.kill(machine.process.pid ?? 0, "SIGSTOP");
    expect(() => machine.qtest.inb(0x70)).toThrow(/no answer to inb 0x70 within 1500 ms/);
    await expect(machine.qmp.execute("query-status")).rejects.toThrow(/no answer|ended|closed/);
    await machine.close();
    expect(alive(machine.process.pid)).toBe(false);
  });

  test.skipIf(without[X86])(x86("is ended by its signal"), async () => {
    const stop = new AbortController();
    const machine = await start([X86, "-M", "pc", ...NO_ENTROPY], { signal: stop.signal });
    const driver = await EntropyDriver.open(machine.device(VIRTIO_ID_ENTROPY).open());
    const pending = driver.read(new Uint8Array(512));
    stop.abort(new Error("that is enough"));
    await expect(pending).rejects.toThrow("that is enough");
    await machine.close();
    expect(alive(machine.process.pid)).toBe(false);
  });

  test.skipIf(without[X86])(
    x86("with more memory than fits below 4 GiB has its pieces where they are"),
    async () => {
      const machine = await start([X86, "-M", "q35", "-m", "5G", "-device", "virtio-rng-pci"]);
      const above = machine.memoryMap.find(({ gpa }) => gpa >= 2 ** 32);
      expect(machine.memoryMap.reduce((sum, { length }) => sum + length, 0)).toBeGreaterThan(4.99 * 2 ** 30);
      const gpa = (above?.gpa ?? 0) + 0x1234;
      machine.memory.view(gpa, 4).set([1, 2, 3, 4]);
      expect(machine.qtest.readl(gpa)).toBe(0x04030201);
      machine.qtest.writel(gpa, 0x11223344);
      machine.qtest.settle();
      expect([...machine.memory.view(gpa, 4)]).toEqual([0x44, 0x33, 0x22, 0x11]);
      await random(machine);
    },
  );

  test.skipIf(without[X86])(
    x86("reaches devices behind bridges, with interrupts of either kind"),
    async () => {
      const machine = await start(
        splitCommandLine(
          `${X86} -M q35 -device pcie-root-port,id=root,chassis=1,slot=1 -device virtio-rng-pci,bus=root
           -device pcie-pci-bridge,id=bridge -device virtio-rng-pci-transitional,bus=bridge,addr=3`,
        ),
      );
      const devices = machine.devices();
      expect(devices.map(({ name }) => name)).toEqual(["pci 01:00.0", "pci 02:03.0"]);
      for (const device of devices) {
        const behind = device.name === "pci 02:03.0";
        const ways = behind ? (["modern", "legacy"] as const) : (["modern"] as const);
        for (const wanted of ways)
          for (const interrupts of ["msix", "intx"] as const) {
            const driver = await EntropyDriver.open(device.open({ interface: wanted, interrupts }));
            await driver.read(new Uint8Array(5000));
            await driver.close();
          }
      }
    },
  );

  test.skipIf(without[X86])(x86("serves two devices on one interrupt line at a time"), async () => {
    const machine = await start(
      splitCommandLine(`${X86} -M pc -device virtio-rng-pci,addr=4 -device virtio-rng-pci,addr=8`),
    );
    const transports = machine.devices().map((device) => device.open({ interrupts: "intx" }));
    const drivers = await Promise.all(transports.map((transport) => EntropyDriver.open(transport)));
    expect(drivers).toHaveLength(2);
    await Promise.all(drivers.map((driver) => driver.read(new Uint8Array(200_000))));
    await Promise.all(drivers.map((driver) => driver.close()));
    expect(machine.interrupts.delivered).toBeGreaterThan(10);
  });

  test.skipIf(without[ARM])(arm("has ports of 32 bits where a board has them: versatilepb"), async () => {
    const machine = await start([ARM, "-M", "versatilepb", "-device", "virtio-rng-pci-transitional"]);
    const device = machine.device(VIRTIO_ID_ENTROPY);
    // A port whose number is an address of the board's own memory map, as Linux before 2014 gave out.
    const port = 0x44000000;
    const ioWindow = new WindowAllocator({ base: port, length: 0x1000 });
    const driver = await EntropyDriver.open(
      device.open({ interface: "legacy", interrupts: "intx", ioWindow }),
    );
    await driver.read(new Uint8Array(5000));
    // It is where every port is, and not at the address that its number is: there is a window onto PCI memory.
    const features = machine.platform.bus.read("io", port, 4);
    expect(features).not.toBe(0);
    expect(machine.qtest.readl(0x43000000 + port)).toBe(features);
    expect(machine.qtest.readl(port)).not.toBe(features);
    await driver.close();
  });

  test.skipIf(without[ARM])(
    arm("describes itself by a device tree, and needs no processor time"),
    async () => {
      const machine = await start([ARM, "-M", "virt", "-device", "virtio-rng-device"]);
      expect(machine.type).toMatch(/^virt-/);
      expect(machine.layout.mmio).toHaveLength(32);
      expect(machine.deviceTree?.length).toBeGreaterThan(1000);
      expect(machine.devices().map(({ bus, deviceId }) => [bus, deviceId])).toEqual([
        ["mmio", VIRTIO_ID_ENTROPY],
      ]);
      await random(machine);
      const before = processorTime(machine.process.pid);
      await new Promise((resolve) => setTimeout(resolve, 500));
      expect(processorTime(machine.process.pid) - before).toBeLessThan(20);
    },
  );
});
