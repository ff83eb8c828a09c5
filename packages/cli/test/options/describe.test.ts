import fc from "fast-check";
import { describe as group, expect, test } from "vitest";

import { parseArguments } from "@virtio/cli/options/arguments";
import { describe } from "@virtio/cli/options/describe";
import { deviceTypes } from "@virtio/cli/options/devices";
import { bootHelp, deviceHelp } from "@virtio/cli/options/help";
import { bootOptions } from "@virtio/cli/options/table";
import { UserError } from "@virtio/cli/user-error";

function machineOf(...argv: string[]): ReturnType<typeof describe>["machine"] {
  return describe(parseArguments(argv, bootOptions)).machine;
}

function errorOf(...argv: string[]): string {
  try {
    machineOf(...argv);
  } catch (error) {
    if (error instanceof UserError) return error.message;
    throw error;
  }
  return "";
}

group("options", () => {
  test("--log says what is logged", () => {
    const session = (...argv: string[]): unknown => describe(parseArguments(argv, bootOptions)).session;
    expect(session()).not.toHaveProperty("log");
    expect(session("--log", "virtio")).toMatchObject({ log: { registers: false, onlyHints: false } });
    expect(session("--log", "virtio,registers")).toMatchObject({
      log: { registers: true, onlyHints: false },
    });
    expect(session("--log", "hints")).toMatchObject({ log: { registers: false, onlyHints: true } });
    for (const text of ["registers", "virtio,", "qemu", "virtio,hints", "hints,registers"])
      expect(errorOf("--log", text)).toContain(`--log ${text}: `);
  });

  test("one dash or two, a space or =, are the same", () => {
    for (const argv of [["-m", "256"], ["--m", "256"], ["--m=256"], ["-m", "size=256M"], ["-m=0.25G"]]) {
      expect(machineOf(...argv).memorySize).toBe(2 ** 28);
    }
  });

  test("an unknown option, device or property names the nearest and lists all", () => {
    expect(errorOf("--dsk", "x")).toMatch(
      /Unknown option: "dsk"\. Did you mean "disk"\?\nKnown: .*blockdev, chardev/,
    );
    expect(errorOf("-device", "virtio-block-pci")).toMatch(
      /Did you mean "virtio-blk-pci"\?\nKnown: .*virtio-rng-device/,
    );
    expect(errorOf("-device", "virtio-rng-pci,dissable-legacy=on")).toMatch(
      /Did you mean "disable-legacy"\?/,
    );
    expect(errorOf("-chardev", "stdoi,id=a")).toMatch(
      /Unknown -chardev kind: "stdoi"\. Did you mean "stdio"\?/,
    );
    expect(errorOf("-netdev", "user,id=n")).toMatch(/no user-mode network/);
    expect(errorOf("-drive", "file=a.qcow2,format=qcow2")).toMatch(
      /Unknown -drive: format: "qcow2".*\nKnown: raw/,
    );
  });

  test("words that are no options, missing values and options given twice are errors", () => {
    expect(errorOf("disk.img")).toMatch("is no option");
    expect(errorOf("--disk")).toMatch("needs a value");
    expect(errorOf("--verbose=1")).toMatch("takes no value");
    expect(errorOf("-m", "1", "-m", "2")).toMatch("given twice");
    expect(errorOf("-m", "8")).toMatch("32 to 1920 MiB");
    expect(errorOf("-initrd", "x")).toMatch("needs -kernel");
    expect(errorOf("--run", "true", "--kernel", "k")).toMatch(/^--run needs .*--initrd/);
    expect(errorOf("--run", "true", "--kernel", "k", "--initrd", "i")).toBe("");
  });

  test("the help names every option, and each device every property", () => {
    const help = bootHelp();
    for (const option of bootOptions) expect(help).toMatch(new RegExp(`^  --?${option.name}\\b`, "m"));
    for (const type of deviceTypes) {
      for (const property of type.properties) expect(deviceHelp(type)).toContain(`  ${property.name}=`);
    }
  });

  test("anything at all ends in a description or a UserError", () => {
    const word = fc.oneof(
      fc.constantFrom(...bootOptions.map((option) => `-${option.name}`)),
      fc.constantFrom(...deviceTypes.map((type) => type.name)),
      fc.string(),
      fc.constantFrom(
        "id=a",
        "file=x,if=none,id=d",
        "virtio-blk-pci,drive=d",
        "virtconsole",
        "stdio,id=c",
        "local,path=/",
      ),
    );
    fc.assert(
      fc.property(fc.array(word, { maxLength: 8 }), (argv) => {
        errorOf(...argv);
      }),
      { numRuns: 500 },
    );
  });
});

group("devices", () => {
  test("a drive is plugged in by itself, unless a -device takes it or it says if=none", () => {
    const disks = (...argv: string[]): number =>
      machineOf(...argv).devices.filter((device) => device.kind === "blk").length;
    expect(disks("-drive", "file=x")).toBe(1);
    expect(disks("-drive", "file=x,if=none,id=d")).toBe(0);
    expect(disks("-drive", "file=x,id=d", "-device", "virtio-blk-pci,drive=d")).toBe(1);
    expect(disks("-device", "virtio-blk-pci,drive=d", "-drive", "file=x,if=none,id=d")).toBe(1);
    expect(errorOf("-drive", "file=x,if=virtio,id=d", "-device", "virtio-blk-pci,drive=d")).toMatch(
      "use if=none",
    );
    expect(errorOf("-device", "virtio-blk-pci,drive=d")).toMatch("no -drive or -blockdev with this id");
  });

  test("-blockdev raw over file, also as JSON", () => {
    const [disk] = machineOf(
      "-blockdev",
      "driver=file,node-name=f,filename=a,,b",
      "-blockdev",
      '{"driver":"raw","node-name":"d","file":"f","read-only":true}',
      "-device",
      "virtio-blk-device,drive=d,serial=S,packed=on,event_idx=off",
    ).devices.filter((device) => device.kind === "blk");
    expect(disk).toMatchObject({
      plug: { bus: "mmio" },
      serial: "S",
      // "raw" was said, so an image that looks like another format is taken.
      drive: { file: "a,b", readOnly: true, snapshot: false, raw: true },
      ring: { packed: true, eventIdx: false, indirect: true, inOrder: false },
    });
  });

  test("legacy, transitional and modern as QEMU says it", () => {
    const plug = (text: string): unknown =>
      machineOf("-device", text).devices.find((d) => d.kind === "entropy")?.plug;
    expect(plug("virtio-rng-pci")).toMatchObject({ mode: "transitional", vectors: 0 });
    expect(plug("virtio-rng-pci,disable-legacy=on,vectors=2")).toMatchObject({ mode: "modern", vectors: 2 });
    expect(plug("virtio-rng-pci,disable-modern=on")).toMatchObject({ mode: "legacy" });
    expect(plug("virtio-rng-pci-non-transitional,addr=0x0a")).toMatchObject({ mode: "modern", slot: 10 });
    expect(plug("virtio-rng-device")).toEqual({ bus: "mmio" });
    expect(errorOf("-device", "virtio-rng-pci,disable-legacy=on,disable-modern=on")).toMatch("leave nothing");
    expect(errorOf("-device", "virtio-rng-pci,addr=0x3")).toMatch("slots 0x8 to 0x1c");
  });

  test("ports go to the latest virtio-serial device, and a console takes number 0", () => {
    const devices = machineOf(
      "-chardev",
      "stdio,id=c",
      "-chardev",
      "null,id=n",
      "-device",
      "virtio-serial-pci,id=s",
      "-device",
      "virtserialport,chardev=n,name=org.test",
      "-device",
      "virtconsole,chardev=c",
    ).devices;
    expect(devices).toMatchObject([
      {
        label: "s",
        ports: [
          { number: 1, console: false, name: "org.test", chardev: { kind: "null" } },
          { number: 0, console: true, chardev: { kind: "stdio" } },
        ],
      },
    ]);
    expect(errorOf("-device", "virtserialport")).toMatch("add -device virtio-serial-pci");
    expect(errorOf("-device", "virtio-serial-pci", "-device", "virtserialport,nr=31")).toMatch(
      "ports 0 to 30",
    );
  });

  test("without a console there is one on this terminal, and not with -nodefaults", () => {
    expect(machineOf().devices).toMatchObject([{ kind: "console", ports: [{ chardev: { kind: "stdio" } }] }]);
    expect(machineOf("-nodefaults").devices).toEqual([]);
  });

  test("shares have the directory's name as their tag, and are mounted at /mnt/TAG", () => {
    const machine = machineOf("--share", "/srv/data/", "--share", "/srv:other");
    expect(machine.mounts).toEqual([
      { tag: "data", folder: "/mnt/data" },
      { tag: "other", folder: "/mnt/other" },
    ]);
    expect(errorOf("--share", "/srv:a b")).toMatch("cannot be a tag");
    expect(errorOf("--share", "/a/x", "--share", "/b/x")).toMatch('tag "x"');
  });

  test("ids are unique, and addresses of network devices differ", () => {
    const two = ["-netdev", "hubport,id=n,hubid=0", "-device", "virtio-net-pci,netdev=n"];
    const macs = machineOf(...two, ...two.slice(2)).devices.flatMap((d) => (d.kind === "net" ? [d.mac] : []));
    expect(macs).toEqual(["52:54:00:12:34:56", "52:54:00:12:34:57"]);
    const rng = ["-device", "virtio-rng-pci,id=r"];
    expect(errorOf(...rng, ...rng)).toMatch('two devices have the id "r"');
    expect(errorOf(...two.slice(0, 2), "-device", "virtio-net-pci,netdev=n,mac=01:00:00:00:00:00")).toMatch(
      "group",
    );
  });

  test("a stream to the other end, as QEMU spells it", () => {
    const net = (text: string): unknown =>
      machineOf("-netdev", text, "-device", "virtio-net-pci,netdev=n").devices.find((d) => d.kind === "net");
    expect(net("stream,id=n,server=on,addr.type=unix,addr.path=/tmp/a")).toMatchObject({
      netdev: { kind: "stream", server: true, address: { type: "unix", path: "/tmp/a" } },
    });
    expect(net("stream,id=n,addr.type=inet,addr.host=h,addr.port=12,reconnect-ms=100")).toMatchObject({
      netdev: { server: false, address: { type: "inet", host: "h", port: 12 }, reconnectMilliseconds: 100 },
    });
  });

  test("--sample is there only when nothing else is", () => {
    const sample = { disk: "/s.img", share: "/s" };
    const kinds = (...argv: string[]): string[] =>
      describe(parseArguments(["--sample", ...argv], bootOptions), sample).machine.devices.map((d) => d.kind);
    expect(kinds()).toEqual(["console", "blk", "9p", "entropy"]);
    expect(kinds("--disk", "x")).toEqual(["console", "blk"]);
  });
});
