import { createHash } from "node:crypto";
import * as host from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { ninePDevice } from "virtio/devices/9p/device";
import { NinePError } from "virtio/drivers/9p/connection";
import { NinePDriver } from "virtio/drivers/9p/driver";
import { type NinePFile, READ_WRITE } from "virtio/drivers/9p/file";
import { Loopback } from "../../../virtio/test/support/loopback.ts";
import { HostDirectory } from "../../src/directory/host-directory.ts";
import type { HostDirectoryOptions } from "../../src/directory/options.ts";

/** A directory of the host through the 9p device and our driver. */

let folder = "";
let share = "";
beforeEach(() => {
  folder = host.mkdtempSync(join(tmpdir(), "virtio-9p-"));
  share = join(folder, "share");
  host.mkdirSync(share);
  host.writeFileSync(join(folder, "secret"), "OUTSIDE");
});
afterEach(() => host.rmSync(folder, { recursive: true }));

async function mount(options: HostDirectoryOptions): Promise<{ root: NinePFile; directory: HostDirectory }> {
  const directory = new HostDirectory(share, options);
  const driver = await NinePDriver.open(new Loopback(ninePDevice({ tag: "share", fileSystem: directory })));
  return { root: await driver.attach({ uid: process.getuid?.() ?? 0 }), directory };
}

function content(i: number): Buffer {
  return Buffer.alloc((i * 37) % 9000, createHash("md5").update(String(i)).digest());
}

test("a tree of 2,000 files written by the guest is the same on the host, and the other way round", async () => {
  const { root, directory } = await mount({ maxDescriptors: 64 });
  const gid = process.getgid?.() ?? 0;
  const folders: NinePFile[] = [];
  for (let i = 0; i < 20; i++) {
    await root.makeDirectory(`d${i}`, 0o755, gid);
    folders.push(await root.walk(`d${i}`));
  }
  for (let i = 0; i < 2000; i++) {
    const file = await folders[i % 20]!.create(`file ${i} é`, READ_WRITE, 0o640, gid);
    await file.write(0, content(i));
    await file.close();
  }
  for (let i = 0; i < 2000; i++) {
    const bytes = host.readFileSync(join(share, `d${i % 20}`, `file ${i} é`));
    expect(bytes.equals(content(i))).toBe(true);
    if (i % 2 === 0) host.renameSync(join(share, `d${i % 20}`, `file ${i} é`), join(share, `moved ${i}`));
  }
  const names: string[] = [];
  const top = await (await root.walk()).open();
  for await (const entry of top.entries()) names.push(entry.name);
  expect(names.filter((name) => name.startsWith("moved")).length).toBe(1000);
  for (let i = 0; i < 2000; i += 2) {
    const file = await (await root.walk(`moved ${i}`)).open();
    expect(Buffer.compare(await file.readAll(), content(i))).toBe(0);
    await file.close();
  }
  for (const each of [...folders, top]) await each.close();
  expect(directory.counts).toMatchObject({ nodes: 1, handles: 0 });
});

test("walks, links and renames of a guest stay in the share", async () => {
  const { root } = await mount({});
  host.mkdirSync(join(share, "a"));
  const up = await root.walk("..", "..", "a", "..", "..", "..");
  expect(up.qid.path).toEqual(root.qid.path);
  const refused = async (action: Promise<unknown>): Promise<boolean> =>
    action.then(
      () => false,
      (error: unknown) => error instanceof NinePError,
    );
  await root.makeSymlink("out", "../secret");
  await root.makeSymlink("up", "..");
  const directory = await root.walk("a");
  expect(await refused(root.walk("up", "secret"))).toBe(true);
  expect(await refused(root.walk("../secret"))).toBe(true);
  expect(await refused((await root.walk("out")).open())).toBe(true);
  expect(await refused(directory.rename(root, "../../a"))).toBe(true);
  expect(await refused(directory.create("../x"))).toBe(true);
  expect(await refused(root.makeSymlink("../link", "x"))).toBe(true);
  expect(host.readdirSync(folder).sort()).toEqual(["secret", "share"]);
});
