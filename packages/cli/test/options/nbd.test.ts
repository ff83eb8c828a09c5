import { describe as group, expect, test } from "vitest";

import { parseArguments } from "@virtio/cli/options/arguments";
import { describe } from "@virtio/cli/options/describe";
import { bootOptions } from "@virtio/cli/options/table";
import { UserError } from "@virtio/cli/user-error";

function drivesOf(...argv: string[]): unknown[] {
  const { devices } = describe(parseArguments(argv, bootOptions)).machine;
  return devices.flatMap((device) => (device.kind === "blk" ? [device.drive] : []));
}

function errorOf(...argv: string[]): string {
  try {
    drivesOf(...argv);
  } catch (error) {
    if (error instanceof UserError) return error.message;
    throw error;
  }
  return "";
}

const inet = { address: { host: "h", port: 10809 }, exportName: "x" };
const unix = { address: { path: "/s,k" }, exportName: "a b" };

group("an export of an NBD server", () => {
  test.each<[string[], object]>([
    [["--disk", "nbd://h/x"], { target: inet }],
    [["--disk", "nbd+unix:///a%20b?socket=/s,,k"], { target: unix }],
    [
      ["--disk", "nbd://h/x,reconnect-delay=5,open-timeout=6,request-timeout=7,connections=4"],
      { target: inet, reconnectDelay: 5, openTimeout: 6, requestTimeout: 7, connections: 4 },
    ],
    [
      ["-drive", "file=nbd://h:10809/x,if=virtio,file.reconnect-delay=9"],
      { target: inet, reconnectDelay: 9 },
    ],
    [["-drive", "file=nbd:h:10809:exportname=x"], { target: inet }],
    [["-drive", "file=nbd:unix:/s,,k:exportname=a b"], { target: unix }],
    [
      [
        "-drive",
        "file.driver=nbd,file.server.type=inet,file.server.host=h,file.server.port=10809,file.export=x",
      ],
      { target: { address: { type: "inet", host: "h", port: 10809 }, exportName: "x" } },
    ],
  ])("%j", (argv, nbd) => {
    const [drive, ...others] = drivesOf(...argv);
    expect(others).toEqual([]);
    expect(drive).toMatchObject({ nbd, snapshot: false, readOnly: false });
    expect(drive).toHaveProperty("file", expect.stringMatching(/^nbd(\+unix)?:\/\//));
  });

  test.each([
    "driver=nbd,node-name=d,server.type=unix,server.path=/s,export=x,reconnect-delay=7,open-timeout=8,read-only=on",
    "driver=raw,node-name=d,file.driver=nbd,file.server.path=/s,file.export=x,file.reconnect-delay=7,file.open-timeout=8,read-only=on",
    '{"driver":"nbd","node-name":"d","server":{"type":"unix","path":"/s"},"export":"x","reconnect-delay":7,"open-timeout":8,"read-only":true}',
  ])("-blockdev %s", (text) => {
    expect(drivesOf("-blockdev", text, "-device", "virtio-blk-pci,drive=d")).toMatchObject([
      {
        file: "nbd+unix:///x?socket=/s",
        readOnly: true,
        nbd: { target: { address: { path: "/s" }, exportName: "x" }, reconnectDelay: 7, openTimeout: 8 },
      },
    ]);
  });

  test("QEMU's server.keep-alive is taken, for connections are watched anyway", () => {
    const text = "driver=nbd,node-name=d,server.type=inet,server.host=h,server.port=1,server.keep-alive=on";
    expect(drivesOf("-blockdev", text, "-device", "virtio-blk-pci,drive=d")).toMatchObject([
      { nbd: { target: { address: { host: "h", port: 1 } } } },
    ]);
  });

  test("a raw node over an NBD node", () => {
    const argv = [
      "-blockdev",
      "driver=nbd,node-name=n,server.path=/s",
      "-blockdev",
      "driver=raw,node-name=d,file=n",
    ];
    expect(drivesOf(...argv, "-device", "virtio-blk-pci,drive=d")).toMatchObject([
      { nbd: { target: { address: { path: "/s" }, exportName: "" } } },
    ]);
  });

  test("the --snapshot of all is that of these too", () => {
    expect(drivesOf("--snapshot", "--disk", "nbd://h/x")).toMatchObject([{ snapshot: true }]);
  });

  test.each([
    [["--disk", "nbd+vsock://2/x"], '--disk: "nbd+vsock://2/x": nbd+vsock is not supported'],
    [["-drive", "file=nbd:h"], '-drive: "nbd:h": it is neither'],
    [["--disk", "nbd://h/x,reconnect-delay=soon"], "reconnect-delay is a number"],
    [["--disk", "nbd://h/x,connections=0"], "connections is from 1 to 16"],
    [["--disk", "a.img,reconnect-delay=5"], "reconnect-delay is for NBD, and a.img is a file"],
    [["-drive", "file=nbd://h/x,file.tls-creds=t"], 'Unknown property of -drive: "file.tls-creds"'],
    [["-blockdev", "driver=nbd,node-name=d"], "server.port"],
    [["-blockdev", "driver=nbd,node-name=d,server.type=vsock"], 'Unknown -blockdev: server.type: "vsock"'],
    [["-blockdev", "driver=nbd,node-name=d,server.type=unix"], "needs server.path="],
    [
      ["-blockdev", '{"driver":"nbd","node-name":"d","server":{"path":"/s"},"export":"\\ud800"}'],
      "the name of the export is no Unicode",
    ],
    [
      ["-blockdev", "driver=nbd,node-name=d,server.host=h,server.port=0"],
      "port must be a whole number from 1 to 65535, not 0",
    ],
    [["-blockdev", `driver=nbd,node-name=d,server.path=/${"s".repeat(110)}`], "more than 107 bytes"],
  ])("%j is refused", (argv, why) => {
    expect(errorOf(...argv)).toContain(why);
  });
});
