import { describe, expect, test } from "vitest";

import { onlyAsks, readCommandLine, shellWords } from "@virtio/cli/qemu/command-line";
import type { QemuFacts } from "@virtio/cli/qemu/facts";
import { asksForKvm } from "@virtio/cli/qemu/kvm";
import { planQemu, processors } from "@virtio/cli/qemu/plan";
import { facts } from "./facts.ts";

interface Planned {
  readonly qemu: string;
  readonly serve: readonly string[];
  readonly notes: readonly string[];
}

/** What becomes of a command line; a backslash at the end of a line, and all white space, are between words. */
function planned(text: string, changes: Partial<QemuFacts> = {}, kvm = false): Planned {
  const argv = text
    .replaceAll("\\\n", " ")
    .split(/\s+/)
    .filter((word) => word !== "");
  const plan = planQemu({
    options: readCommandLine(argv),
    facts: { ...facts, ...changes },
    folder: "/s",
    kvm,
    foreignFormat: (file) => (file.endsWith(".qcow2") ? "qcow2" : undefined),
  });
  return {
    qemu: plan.argv.join(" "),
    serve: plan.devices.map((words) => words.join(" ")),
    notes: plan.notes,
  };
}

const memory =
  "-object memory-backend-memfd,id=vumem0,size=134217728,share=on -machine memory-backend=vumem0";
const link = (number: number): string => `-chardev socket,id=vu${number},path=/s/vu${number}.sock`;
const tapIsQemus = "left to QEMU: -netdev tap is QEMU's";

describe("command lines of U-Boot's documentation on VirtIO", () => {
  test("ARM, a disk and a network device on virtio-mmio", () => {
    const { qemu, serve, notes } = planned(`-nographic -machine virt -bios u-boot.bin \\
      -netdev tap,ifname=tap0,id=net0 -device virtio-net-device,netdev=net0 \\
      -drive if=none,file=test.img,format=raw,id=hd0 -device virtio-blk-device,drive=hd0`);
    expect(qemu).toBe(
      "-nographic -machine virt -bios u-boot.bin -netdev tap,ifname=tap0,id=net0 -device virtio-net-device,netdev=net0 " +
        `${link(0)} -device vhost-user-blk,chardev=vu0,num-queues=1 ${memory}`,
    );
    expect(serve).toEqual(["blk,num-queues=1 --socket /s/vu0.sock --drive file=test.img,format=raw"]);
    expect(notes).toEqual([
      `virtio-net-device,netdev=net0: ${tapIsQemus}`,
      "virtio-blk-device,drive=hd0: ours",
    ]);
  });

  test("x86, the same as PCI devices", () => {
    const { qemu, serve, notes } = planned(`-nographic -bios u-boot.rom \\
      -netdev tap,ifname=tap0,id=net0 -device virtio-net-pci,netdev=net0 \\
      -drive if=none,file=test.img,format=raw,id=hd0 -device virtio-blk-pci,drive=hd0`);
    expect(qemu).toBe(
      "-nographic -bios u-boot.rom -netdev tap,ifname=tap0,id=net0 -device virtio-net-pci,netdev=net0 " +
        `${link(0)} -device vhost-user-blk-pci,chardev=vu0,num-queues=1 ${memory}`,
    );
    expect(serve).toEqual(["blk,num-queues=1 --socket /s/vu0.sock --drive file=test.img,format=raw"]);
    expect(notes).toEqual([`virtio-net-pci,netdev=net0: ${tapIsQemus}`, "virtio-blk-pci,drive=hd0: ours"]);
  });

  test("ARM, one disk on virtio-mmio and one on PCI", () => {
    const { qemu, serve } = planned(`-nographic -machine virt -bios u-boot.bin \\
      -netdev tap,ifname=tap0,id=net0 -device virtio-net-pci,netdev=net0 \\
      -drive if=none,file=test0.img,format=raw,id=hd0 -device virtio-blk-device,drive=hd0 \\
      -drive if=none,file=test1.img,format=raw,id=hd1 -device virtio-blk-pci,drive=hd1`);
    expect(qemu).toBe(
      "-nographic -machine virt -bios u-boot.bin -netdev tap,ifname=tap0,id=net0 -device virtio-net-pci,netdev=net0 " +
        `${link(0)} -device vhost-user-blk,chardev=vu0,num-queues=1 ` +
        `${link(1)} -device vhost-user-blk-pci,chardev=vu1,num-queues=1 ${memory}`,
    );
    expect(serve).toEqual([
      "blk,num-queues=1 --socket /s/vu0.sock --drive file=test0.img,format=raw",
      "blk,num-queues=1 --socket /s/vu1.sock --drive file=test1.img,format=raw",
    ]);
  });

  test("x86, modern devices", () => {
    const { qemu } = planned(`-nographic -bios u-boot.rom \\
      -netdev tap,ifname=tap0,id=net0 -device virtio-net-pci,netdev=net0,disable-legacy=on,disable-modern=off \\
      -drive if=none,file=test.img,format=raw,id=hd0 -device virtio-blk-pci,drive=hd0,disable-legacy=on,disable-modern=off`);
    expect(qemu).toContain(
      `-device vhost-user-blk-pci,chardev=vu0,disable-legacy=on,disable-modern=off,num-queues=1 ${memory}`,
    );
  });
});

test("disable-legacy=true, as U-Boot's documentation writes it, is what QEMU takes: on our devices and on QEMU's", () => {
  const { qemu } = planned(
    "-global virtio-pci.disable-legacy=yes -device e1000,netdev=n,romfile=disable-legacy=true " +
      "-device virtio-keyboard-pci,disable-legacy=true,disable-modern=false " +
      "-drive if=none,file=test.img,format=raw,id=hd0 -device virtio-blk-pci,drive=hd0,disable-legacy=true",
  );
  expect(qemu).toContain("-global virtio-pci.disable-legacy=on ");
  expect(qemu).toContain("romfile=disable-legacy=true");
  expect(qemu).toContain("-device virtio-keyboard-pci,disable-legacy=on,disable-modern=false");
  expect(qemu).toContain("-device vhost-user-blk-pci,chardev=vu0,disable-legacy=on,");
});

describe("disks", () => {
  test("properties go to whom they belong, and some to both", () => {
    const { qemu, serve } = planned(
      "--drive id=d,if=none,file=a,,b.img,format=raw,cache=none,discard=unmap --device virtio-blk-pci-non-transitional," +
        "drive=d,id=boot,serial=S1,logical_block_size=4096,addr=0x8,bus=pci.0,bootindex=1,num-queues=3,packed=on," +
        "iommu_platform=on,config-wce=off,ioeventfd=on,multifunction=on,romfile=,nonsense=1,queue-size=512 -smp 4",
    );
    expect(qemu).toBe(
      `${link(0)} -device vhost-user-blk-pci-non-transitional,chardev=vu0,id=boot,addr=0x8,bus=pci.0,bootindex=1,` +
        `num-queues=3,packed=on,iommu_platform=on,config-wce=off,multifunction=on,romfile=,nonsense=1,queue-size=512 ` +
        `-smp 4 ${memory}`,
    );
    expect(serve).toEqual([
      "blk,id=boot,serial=S1,logical_block_size=4096,num-queues=3,config-wce=off,queue-size=512 --socket /s/vu0.sock " +
        "--drive file=a,,b.img,format=raw,cache=none,discard=unmap",
    ]);
  });

  test("a queue a processor on PCI, as QEMU's own", () => {
    expect(processors(readCommandLine(["-smp", "4,maxcpus=8"]))).toBe(4);
    expect(processors(readCommandLine(["-smp", "cores=2,threads=2"]))).toBe(4);
    expect(processors(readCommandLine(["-smp", "maxcpus=3"]))).toBe(3);
    expect(processors([])).toBe(1);
    const text = "-smp cpus=2 -drive if=none,id=d,file=x -device";
    expect(planned(`${text} virtio-blk-pci,drive=d`).qemu).toContain("num-queues=2");
    expect(planned(`${text} virtio-blk-device,drive=d`).qemu).toContain("num-queues=1");
  });

  test("NBD servers are ours to talk to", () => {
    const { serve, qemu } = planned(
      "-drive if=virtio,file=nbd://host/export -drive if=none,id=b,file.driver=nbd,file.server.type=unix,file.server.path=/n " +
        "-blockdev nbd,node-name=n,server.type=inet,server.host=h,server.port=1,export=e " +
        "-device virtio-blk-pci,drive=b -device virtio-blk-pci,drive=n",
    );
    expect(serve.map((words) => words.split(" --").at(-1))).toEqual([
      "drive file=nbd://host/export",
      "drive file.driver=nbd,file.server.type=unix,file.server.path=/n",
      "blockdev nbd,node-name=n,server.type=inet,server.host=h,server.port=1,export=e",
    ]);
    expect(qemu).not.toContain("nbd");
  });

  test("an iothread of several disks is ours, once; what else needs it keeps QEMU's", () => {
    const text =
      "-object iothread,id=io,poll-max-ns=0 -drive if=none,id=a,file=a -drive if=none,id=b,file=b " +
      "-device virtio-blk-pci,drive=a,iothread=io -device virtio-blk-pci,drive=b,iothread=io";
    const { qemu, serve } = planned(text);
    expect(serve).toEqual([
      "blk,iothread=io,num-queues=1 --socket /s/vu0.sock --drive file=a --object iothread,id=io,poll-max-ns=0",
      "blk,iothread=io,num-queues=1 --socket /s/vu1.sock --drive file=b",
    ]);
    expect(qemu).not.toContain("iothread");
    expect(planned(`${text} -device virtio-scsi-pci,iothread=io`).qemu).toContain("-object iothread,id=io");
    const unknown = planned("-drive if=none,id=a,file=a -device virtio-blk-pci,drive=a,iothread=io");
    expect(unknown.notes[0]).toContain("left to QEMU: ");
  });

  test("if=virtio, and what is virtio without it, come behind what was written", () => {
    const { qemu, serve } = planned(
      "-drive if=virtio,file=a.img -drive file=b.img,index=1 -hda c,d.img -device virtio-rng-pci -snapshot",
      { drivesAreVirtio: true },
    );
    const disk = (number: number): string =>
      `${link(number)} -device vhost-user-blk-pci,chardev=vu${number},num-queues=1`;
    expect(qemu).toBe(
      `${link(3)} -device vhost-user-rng-pci,chardev=vu3 -snapshot ${memory} ${disk(0)} ${disk(1)} ${disk(2)}`,
    );
    expect(serve).toEqual([
      "blk,num-queues=1 --socket /s/vu0.sock --drive file=a.img --snapshot",
      "blk,num-queues=1 --socket /s/vu1.sock --drive file=b.img --snapshot",
      "blk,num-queues=1 --socket /s/vu2.sock --drive file=c,,d.img --snapshot",
      "entropy --socket /s/vu3.sock",
    ]);
    expect(planned("-drive file=b.img -hda c.img").serve).toEqual([]);
  });

  test("-blockdev, also in JSON, with the nodes below", () => {
    const { qemu, serve } = planned(
      '-blockdev {"driver":"file","filename":"a.img","node-name":"f0"} -blockdev raw,file=f0,node-name=n0,read-only=on ' +
        '-device {"driver":"virtio-blk-pci","drive":"n0","id":"d0","addr":"5"}',
    );
    expect(qemu).toBe(
      `${link(0)} -device vhost-user-blk-pci,chardev=vu0,id=d0,addr=5,num-queues=1 ${memory}`,
    );
    expect(serve).toEqual([
      "blk,id=d0,num-queues=1 --socket /s/vu0.sock --blockdev file,filename=a.img,node-name=f0 " +
        "--blockdev raw,file=f0,node-name=n0,read-only=on",
    ]);
  });

  test.each([
    ["-drive if=none,id=d,file=a.qcow2 -device virtio-blk-pci,drive=d", "a.qcow2 is a qcow2 image"],
    ["-drive if=none,id=d,file=a,format=qcow2 -device virtio-blk-pci,drive=d", "Unknown -drive: format"],
    ["-drive if=none,id=d,file=fat:rw:x -device virtio-blk-pci,drive=d", "fat: is QEMU's protocol"],
    [
      "-drive if=none,id=d,file=a,throttling.iops-total=9 -device virtio-blk-pci,drive=d",
      "throttling.iops-total",
    ],
    ["-drive if=none,id=d,file=a -device virtio-blk-pci,drive=d -device scsi-hd,drive=d", '"d" has 2 users'],
    ["-drive id=d,file=a -device virtio-blk-pci,drive=d", "-drive id=d has no if=none"],
    ["-device virtio-blk-pci,drive=d", 'there is no -drive or -blockdev "d"'],
    ["-device virtio-blk-pci", "it has no drive="],
    [
      "-drive if=none,id=d,file=a -device virtio-blk-pci,drive=d,werror=stop",
      "vhost-user-blk-pci has no werror=",
    ],
    [
      "-drive if=none,id=d,file=a -device virtio-blk-ccw,drive=d",
      "this QEMU has no vhost-user device for it",
    ],
    ["-blockdev qcow2,node-name=d,file.filename=a -device virtio-blk-pci,drive=d", "qcow2"],
    ["-blockdev raw,node-name=d,file=d -device virtio-blk-pci,drive=d", "circle"],
    ["-drive if=virtio,file=a.qcow2", "a.qcow2 is a qcow2 image"],
    ["-drive if=virtio,file.driver=file,file.filename=a.qcow2", "a.qcow2 is a qcow2 image"],
    ["-drive if=virtio,file=a,serial=S", "serial= is a property of -device"],
    ["-device virtio-gpu-pci", "there is none of ours over vhost-user"],
    ["-device virtio-serial-pci", "this QEMU has no vhost-user device for it"],
    ["-device virtio-rng-pci,max-bytes=1024", "vhost-user-rng-pci has no max-bytes="],
    ["-device virtio-rng-pci,disable-legacy=off", "vhost-user-rng-pci has no disable-legacy="],
    ["-device virtio-rng-pci-transitional", "this QEMU has no vhost-user-rng-pci-transitional"],
    ["-object rng-egd,id=r,chardev=c -device virtio-rng-pci,rng=r", "rng-egd"],
    ["-netdev user,id=n -device virtio-net-pci,netdev=n", "-netdev user is QEMU's"],
    ["-netdev socket,id=n,mcast=230.0.0.1:1 -device virtio-net-pci,netdev=n", "this kind of -netdev socket"],
    [
      "-netdev stream,id=n,addr.type=fd,addr.str=3 -device virtio-net-pci,netdev=n",
      "this kind of -netdev stream",
    ],
  ])("%s is left as it is, and it is said why", (text, reason) => {
    const { qemu, serve, notes } = planned(text);
    expect(qemu).toBe(text);
    expect(serve).toEqual([]);
    expect(notes.length).toBeGreaterThan(0);
    expect(notes[0]).toContain("left to QEMU: ");
    expect(notes[0]).toContain(reason);
  });

  test("a QEMU or a machine without what is needed keeps everything", () => {
    const text = "-drive if=virtio,file=a.img";
    const drivers = new Map([...facts.drivers].filter(([name]) => !name.startsWith("vhost-user")));
    expect(planned(text, { drivers }).qemu).toBe(text);
    expect(planned(text, { memoryBackend: false }).notes).toEqual([
      "-drive if=virtio,file=a.img: left to QEMU: this machine's memory cannot be shared",
    ]);
  });

  test("-global of the device by name is one of its properties", () => {
    const { qemu, serve } = planned(
      "-global virtio-blk-pci.serial=G -global virtio-pci.disable-legacy=on -drive if=virtio,file=a",
    );
    expect(serve[0]).toContain("blk,serial=G,");
    expect(qemu).toContain("-global virtio-blk-pci.serial=G -global virtio-pci.disable-legacy=on");
  });
});

describe("networks and entropy", () => {
  test("stream, socket and hubport become vhost-user; without KVM there are no vectors", () => {
    const { qemu, serve } = planned(
      "-netdev stream,id=a,server=on,addr.type=unix,addr.path=/n.sock -device virtio-net-pci,netdev=a,mac=52:54:00:00:00:01 " +
        "-netdev socket,id=b,listen=:1234 -device virtio-net-device,netdev=b " +
        "-netdev socket,id=c,connect=h:5 -device virtio-net-pci,netdev=c,vectors=4,rx_queue_size=512",
    );
    const netdev = (id: string, number: number): string =>
      `${link(number)} -netdev vhost-user,id=${id},chardev=vu${number}`;
    expect(qemu).toBe(
      `${netdev("a", 0)} -device virtio-net-pci,netdev=a,mac=52:54:00:00:00:01,vectors=0 ` +
        `${netdev("b", 1)} -device virtio-net-device,netdev=b ` +
        `${netdev("c", 2)} -device virtio-net-pci,netdev=c,vectors=4,rx_queue_size=512 ${memory}`,
    );
    expect(serve).toEqual([
      "net,mac=52:54:00:00:00:01 --socket /s/vu0.sock --netdev stream,server=on,addr.type=unix,addr.path=/n.sock",
      "net --socket /s/vu1.sock --netdev stream,server=on,addr.type=inet,addr.host=0.0.0.0,addr.port=1234",
      "net,queue-size=512 --socket /s/vu2.sock --netdev stream,server=off,addr.type=inet,addr.host=h,addr.port=5",
    ]);
    const kvm = planned("-netdev hubport,id=a,hubid=0 -device virtio-net-pci,netdev=a", {}, true);
    expect(kvm.qemu).not.toContain("vectors");
    const newer = planned("-netdev hubport,id=a,hubid=0 -device virtio-net-pci,netdev=a", {
      version: "10.0.2",
    });
    expect(newer.qemu).not.toContain("vectors");
  });

  test("a hub is ours when all its ports are", () => {
    const port = (id: string, more = ""): string => `-netdev hubport,id=${id},hubid=7${more}`;
    const two = `${port("a")} ${port("b")} -device virtio-net-pci,netdev=a`;
    expect(planned(`${two} -device virtio-net-pci,netdev=b`).serve).toHaveLength(2);
    const mixed = planned(`${two} -device e1000,netdev=b`);
    expect(mixed.serve).toEqual([]);
    expect(mixed.notes).toEqual(["virtio-net-pci,netdev=a: left to QEMU: hub 7 is QEMU's"]);
    expect(planned(`-netdev user,id=u ${port("b", ",netdev=u")} ${two}`).serve).toEqual([]);
  });

  test("entropy: the object goes when nobody of QEMU's needs it", () => {
    const text =
      "-object rng-random,id=r,filename=/dev/urandom -device virtio-rng-pci,rng=r,disable-legacy=on";
    expect(planned(text)).toMatchObject({
      qemu: `${link(0)} -device vhost-user-rng-pci,chardev=vu0 ${memory}`,
      serve: ["entropy --socket /s/vu0.sock --object rng-random,filename=/dev/urandom"],
    });
    const twice = planned(`${text} -device virtio-rng-device,rng=r -device virtio-rng-ccw,rng=r`);
    expect(twice.serve).toHaveLength(2);
    expect(twice.qemu).toContain("-object rng-random,id=r");
  });

  test("our names are none of the user's", () => {
    const { qemu } = planned(
      "-chardev null,id=vu0 -object memory-backend-memfd,id=vumem0,size=1M -device virtio-rng-pci",
    );
    expect(qemu).toContain("-device vhost-user-rng-pci,chardev=vu1");
    expect(qemu).toContain("-machine memory-backend=vumem1");
  });
});

describe("guest memory", () => {
  const rng = "-device virtio-rng-pci";
  const ours = `${link(0)} -device vhost-user-rng-pci,chardev=vu0`;

  test.each([
    ["-m 1G", 1 << 30],
    ["-m size=256", 256 << 20],
    ["-m 64 -m 96M,slots=2,maxmem=1G", 96 << 20],
    ["-m slots=2,maxmem=1G", 128 << 20],
    ["-m 0", 128 << 20],
    ["-m 0.5G", 512 << 20],
  ])("%s", (text, size) => {
    expect(planned(`${text} ${rng}`).qemu).toBe(
      `${text} ${ours} -object memory-backend-memfd,id=vumem0,size=${size},share=on -machine memory-backend=vumem0`,
    );
  });

  test("-mem-path is where it stays, and shared", () => {
    expect(planned(`-mem-path /dev/hugepages -mem-prealloc ${rng}`).qemu).toBe(
      `-mem-prealloc ${ours} -object memory-backend-file,id=vumem0,size=134217728,mem-path=/dev/hugepages,share=on ` +
        "-machine memory-backend=vumem0",
    );
  });

  test("objects of the user's become shared, whether the machine, a node or a DIMM has them", () => {
    expect(planned(`-object memory-backend-ram,id=m,size=1G -machine q35,memory-backend=m ${rng}`).qemu).toBe(
      `-object memory-backend-memfd,id=m,size=1G,share=on -machine q35,memory-backend=m ${ours}`,
    );
    const numa = planned(
      '-object {"qom-type":"memory-backend-ram","id":"m","size":1073741824} -numa node,memdev=m ' +
        `-object memory-backend-file,id=n,size=1G,mem-path=/tmp/n -device pc-dimm,memdev=n ${rng}`,
    );
    expect(numa.qemu).toBe(
      "-object memory-backend-memfd,id=m,size=1073741824,share=on -numa node,memdev=m " +
        `-object memory-backend-file,id=n,size=1G,mem-path=/tmp/n,share=on -device pc-dimm,memdev=n ${ours}`,
    );
    expect(numa.notes).toContain("/tmp/n is written to: guest memory is shared");
    const shared = "-object memory-backend-memfd,id=m,size=1G -machine memory-backend=m";
    expect(planned(`${shared} ${rng}`).qemu).toBe(`${shared} ${ours}`);
  });

  test("nothing is shared when nothing is ours", () => {
    expect(planned("-m 64 -object memory-backend-ram,id=m,size=1G").qemu).toBe(
      "-m 64 -object memory-backend-ram,id=m,size=1G",
    );
  });

  test("-m that is no size is a mistake", () => {
    expect(() => planned(`-m lots ${rng}`)).toThrow("-m lots is no size");
  });
});

test("everything else stays as and where it was, also what looks like an option", () => {
  const text =
    "-append -device --kernel k -S -enable-kvm -name x -device e1000 disk.img --nodefaults -unknown";
  expect(planned(text).qemu).toBe(text);
  expect(readCommandLine(text.split(" ")).map(({ name, value }) => `${name}:${value}`)).toEqual([
    "append:-device",
    "kernel:k",
    "S:",
    "enable-kvm:",
    "name:x",
    "device:e1000",
    ":disk.img",
    "nodefaults:",
    "unknown:",
  ]);
});

test("what only asks QEMU is no command line to change", () => {
  const asks = (text: string): boolean => onlyAsks(readCommandLine(text.split(" ")));
  for (const text of [
    "-h",
    "--version",
    "-device help",
    "-machine help",
    "-device virtio-blk-pci,help",
    "-cpu ?",
  ])
    expect(asks(text), text).toBe(true);
  expect(asks("-device virtio-blk-pci -append help me")).toBe(false);
});

test.each([
  ["qemu-kvm", "", true],
  ["q", "-enable-kvm", true],
  ["q", "-accel kvm,dirty-ring-size=4096", true],
  ["q", "-accel tcg -accel kvm", false],
  ["q", "-M q35,accel=kvm:tcg", true],
  ["q", "-machine accel=tcg:kvm", false],
  ["q", "-m 64", false],
])("%s %s asks for KVM: %s", (program, text, wanted) => {
  expect(asksForKvm(program, readCommandLine(text.split(" ")))).toBe(wanted);
});

test("words for a shell", () => {
  expect(shellWords(["a=b,c", "it's", "x y"])).toBe("a=b,c 'it'\\''s' 'x y'");
});
