import { describe as group, expect, test } from "vitest";

import { parseArguments } from "@virtio/cli/options/arguments";
import { describeServe, type ServeDescription } from "@virtio/cli/serve/describe";
import { serveHelp } from "@virtio/cli/serve/help";
import { passedSockets, whyNotPassed } from "@virtio/cli/serve/socket-activation";
import { deviceWords, serveOptions } from "@virtio/cli/serve/table";
import { UserError } from "@virtio/cli/user-error";

const words = deviceWords.map(({ word }) => word);

/** No word of these tests has a space in it. */
function described(...texts: string[]): ServeDescription {
  const argv = texts.flatMap((text) => text.split(" "));
  return describeServe(parseArguments(argv, serveOptions, words));
}

function errorOf(...argv: string[]): string {
  try {
    described(...argv);
  } catch (error) {
    if (error instanceof UserError) return error.message;
    throw error;
  }
  return "";
}

group("what virtio serve is asked for", () => {
  test("several devices, each with its socket and what is behind it, without an id", () => {
    const { devices } = described(
      "blk,serial=S1,num-queues=2 --socket /a --drive file=a,,b.img,cache=writethrough",
      "blk --blk-file c,d.img --read-only --socket-path=/b",
      "net --netdev hubport,hubid=3 --socket-fd 5 net --netdev=hubport,hubid=3 --fd=6",
      "entropy --socket /c console --socket /d --chardev null",
      "9p,mount_tag=t --fsdev local,path=/srv --socket /e blk,drive=mine --socket /f",
      "blk --drive file=m.img,id=mine --socket /g",
    );
    expect(devices.map(({ socket }) => socket)).toEqual(["/a", "/b", 5, 6, "/c", "/d", "/e", "/f", "/g"]);
    expect(devices.map(({ description }) => description.label)).toEqual(
      "disk0 disk1 net0 net1 rng0 serial0 share0 disk2 disk3".split(" "),
    );
    expect(devices.map(({ description }) => description)).toMatchObject([
      { serial: "S1", queues: 2, drive: { file: "a,b.img", cache: "writethrough", readOnly: false } },
      { drive: { file: "c,d.img", readOnly: true } },
      { netdev: { hub: 3 }, mac: "52:54:00:12:34:56" },
      { netdev: { hub: 3 }, mac: "52:54:00:12:34:57" },
      { kind: "entropy" },
      { maxPorts: 1, ports: [{ number: 0, console: true, chardev: { kind: "null" } }] },
      { tag: "t", directory: { path: "/srv" } },
      { drive: { file: "m.img" } },
      { drive: { file: "m.img" } },
    ]);
  });

  test("what is the same for all devices may stand anywhere", () => {
    const plain = described("entropy --socket /a");
    expect(plain).toMatchObject({ session: { sealedMemory: false }, processPerDevice: false });
    const both = described("--process-per-device entropy --sealed-memory --socket /a --log virtio");
    expect(both).toMatchObject({
      session: { log: { registers: false }, sealedMemory: true },
      processPerDevice: true,
    });
  });

  test("a limit of what snapshots take is that of each disk that is one", () => {
    const { devices } = described(
      "blk --blk-file a --socket /a blk --drive file=b,snapshot=on --socket /b --snapshot-limit 2G",
    );
    const limits = devices.map(
      ({ description }) => description.kind === "blk" && description.drive.snapshotLimit,
    );
    expect(limits).toEqual([undefined, 2 ** 31]);
    expect(errorOf("blk --blk-file a --socket /a --snapshot-limit none")).toContain(
      "--snapshot-limit none is no size such as 512M or 4G",
    );
  });

  test("the front-end chooses whether the ring is packed, unless the device says no", () => {
    const ringOf = (word: string): boolean | undefined =>
      described(word, "--socket", "/a").devices[0]?.description.ring.packed;
    expect(ringOf("entropy")).toBe(true);
    expect(ringOf("entropy,packed=off")).toBe(false);
  });

  test("a console has the ports that are given", () => {
    const { devices } = described(
      "console --socket /a --chardev null,id=n --chardev ringbuf,id=r",
      "--device virtconsole,chardev=n --device virtserialport,chardev=r,name=org.x",
    );
    expect(devices[0]?.description).toMatchObject({
      ports: [
        { number: 0, console: true, chardev: { kind: "null" } },
        { number: 1, console: false, name: "org.x", chardev: { kind: "ringbuf" } },
      ],
    });
  });

  test("a shared directory, the short way: behind 9p, or by itself", () => {
    const { devices } = described(
      "9p --share /srv/a,b:one --socket /a --share /srv/two --socket /b entropy --socket /c",
      "--share /srv:three --socket /d 9p,mount_tag=mine --share /srv:four --socket /e",
      "9p,mount_tag=f --fsdev local,path=/srv --socket /f --share /srv:six --socket /g",
    );
    expect(devices.map(({ socket }) => socket)).toEqual(["/a", "/b", "/c", "/d", "/e", "/f", "/g"]);
    expect(devices.map(({ description }) => description)).toMatchObject([
      { kind: "9p", tag: "one", directory: { path: "/srv/a,b" }, ring: { packed: true } },
      { kind: "9p", tag: "two", directory: { path: "/srv/two" } },
      { kind: "entropy" },
      { kind: "9p", tag: "three" },
      { kind: "9p", tag: "mine" },
      { kind: "9p", tag: "f" },
      { kind: "9p", tag: "six" },
    ]);
    expect(errorOf("--share", "/srv/a+b", "--socket", "/a")).toMatch('"a+b" cannot be a tag');
    expect(errorOf("blk", "--share", "/srv", "--socket", "/a")).toMatch("blk needs --socket");
    expect(errorOf("9p", "--socket", "/a")).toMatch("9p needs --share DIR");
  });

  group("sockets that a service manager passed", () => {
    const sockets = [
      { fd: 3, name: "disk" },
      { fd: 4, name: "rng" },
      { fd: 5, name: "rng" },
    ];
    const at = (text: string, passed = sockets): unknown => {
      const given = parseArguments(text.split(" "), serveOptions, words);
      return describeServe(given, { sockets: passed, why: "" }).devices.map(({ socket }) => socket);
    };
    const refused = (text: string, passed = sockets): string => {
      try {
        return `accepted: ${JSON.stringify(at(text, passed))}`;
      } catch (error) {
        if (error instanceof UserError) return error.message;
        throw error;
      }
    };

    test("those that are not asked for by number or name are taken in order", () => {
      expect(at("blk --blk-file f entropy entropy")).toEqual([3, 4, 5]);
      expect(at("entropy --socket-fd rng entropy entropy --socket-fd rng")).toEqual([4, 3, 5]);
      expect(at("entropy --fd 5 entropy entropy --fd=disk")).toEqual([5, 4, 3]);
      expect(at("entropy --socket /a entropy --fd 9 blk --blk-file f entropy entropy")).toEqual([
        "/a",
        9,
        3,
        4,
        5,
      ]);
      expect(at("entropy --fd 3", [])).toEqual([3]);
    });

    test("too many, too few, twice the same, and names that nobody has", () => {
      expect(refused("entropy")).toBe("3 sockets were passed, and no device is at 4 (rng), 5 (rng)");
      expect(refused("entropy entropy entropy blk --blk-file f")).toBe(
        "blk needs --socket PATH or --socket-fd N: 3 were passed, and all are taken",
      );
      expect(refused("entropy --fd 7 entropy --fd 7", [])).toBe(
        "entropy and entropy are both at descriptor 7",
      );
      expect(refused("entropy --socket /a blk --blk-file f --socket /a", [])).toBe(
        "entropy and blk are both at /a",
      );
      expect(refused("entropy --fd rgn")).toBe(
        '--fd is the number of a descriptor, or one of disk, rng, rng, not "rgn"',
      );
      expect(refused("entropy --fd rng entropy --fd rng entropy --fd rng")).toMatch("or one of disk, not");
    });

    test("the environment is sd_listen_fds's", () => {
      const environment = { LISTEN_PID: "42", LISTEN_FDS: "2", LISTEN_FDNAMES: "a:b" };
      expect(passedSockets(environment, 42)).toEqual([
        { fd: 3, name: "a" },
        { fd: 4, name: "b" },
      ]);
      expect(passedSockets({ LISTEN_PID: "42", LISTEN_FDS: "1" }, 42)).toEqual([{ fd: 3, name: "unknown" }]);
      expect(passedSockets(environment, 43)).toEqual([]);
      expect(whyNotPassed(environment, 43)).toMatch("are for process 42, and this is 43");
      expect(whyNotPassed(environment, 42)).toBe("");
      expect(whyNotPassed({}, 42)).toBe("");
      expect(passedSockets({ LISTEN_FDS: "2" }, 42)).toEqual([]);
      for (const LISTEN_FDS of ["-1", "x", "99999", "1025", "1e3"])
        expect(() => passedSockets({ ...environment, LISTEN_FDS }, 42)).toThrow(UserError);
      expect(() => passedSockets({ ...environment, LISTEN_FDNAMES: "a" }, 42)).toThrow(
        "1 names for 2 sockets",
      );
    });
  });

  test("mistakes say what is known", () => {
    expect(errorOf()).toBe("Which device? Known: blk, net, console, entropy, 9p");
    expect(errorOf("blx", "--socket", "/a")).toMatch(/Did you mean "blk"\?\nKnown: 9p, blk, console/);
    expect(errorOf("blk", "--netdev", "hubport")).toMatch(/option of blk: "netdev".*\nKnown: .*drive/s);
    expect(errorOf("blk,serail=1", "--socket", "/a", "--blk-file", "f")).toMatch(/Did you mean "serial"/);
    expect(errorOf("blk,addr=8", "--socket", "/a", "--blk-file", "f")).toMatch(/Unknown property/);
    expect(errorOf("console", "--socket=/a", "--chardev=null", "--device", "virtio-blk-pci")).toMatch(
      /Known: virtconsole, virtserialport/,
    );
    expect(errorOf("--socket", "/a", "blk")).toMatch("belongs behind a device");
    expect(errorOf("blk", "--blk-file", "f")).toMatch("needs --socket PATH or --socket-fd N");
    expect(errorOf("blk", "--blk-file", "f", "--socket", "/a", "--fd", "3")).toMatch("--socket and --fd");
    expect(errorOf("blk", "--blk-file", "f", "--fd", "x")).toMatch("number of a descriptor");
    expect(errorOf("blk", "--socket", "/a")).toMatch("blk needs --drive file=FILE");
    expect(errorOf("blk", "--socket", "/a", "--blk-file", "f", "--drive", "file=g")).toMatch("takes one of");
    expect(errorOf("blk", "--socket", "/a", "--socket", "/b")).toMatch("given twice");
    expect(errorOf("console", "--socket=/a", "--chardev=null", "--chardev=null")).toMatch("for each");
  });

  test("the help has every device and every option", () => {
    const help = serveHelp();
    for (const word of words) expect(help).toContain(`  ${word} `);
    for (const { name } of serveOptions) expect(help).toContain(`  --${name}`);
  });
});
