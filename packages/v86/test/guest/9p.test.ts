/** Linux's own 9p client on our device: trees copied both ways, links, renames, locks, special files, big and small messages. */
import { createHash } from "node:crypto";
import { DEFAULT_CORE_FEATURES } from "virtio/device/features";
import { VIRTIO_F_RING_PACKED, featureBits } from "virtio/spec/core";
import { fillTree } from "virtio/backends/fill-tree";
import * as F from "virtio/backends/file-system";
import { MemoryFileSystem } from "virtio/backends/memory-file-system";
import { ninePDevice } from "virtio/devices/9p/device";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { TestGuest, guestMissing, needsGuest } from "./guest.ts";

const PACKED = DEFAULT_CORE_FEATURES | featureBits(VIRTIO_F_RING_PACKED);

/** The same file system, but every method takes a turn of the event loop. */
function slow(memory: MemoryFileSystem): F.FileSystem {
  return new Proxy<F.FileSystem>(memory, {
    get(target, name) {
      if (name === "asynchronous") return true;
      const value: unknown = Reflect.get(target, name, target);
      if (typeof value !== "function") return value;
      const method = (...args: unknown[]): unknown => Reflect.apply(value, target, args);
      if (name === "retain" || name === "release") return method;
      return async (...args: unknown[]) => {
        await new Promise((resolve) => setImmediate(resolve));
        return method(...args);
      };
    },
  });
}

const bytes = (length: number, seed: number): Uint8Array => {
  const target = new Uint8Array(length);
  let state = seed;
  for (let i = 0; i < length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    target[i] = state >>> 24;
  }
  return target;
};

function read(fs: MemoryFileSystem, ...path: string[]): Uint8Array {
  const node = path.reduce((at, name) => fs.lookup(at, name), fs.root);
  const handle = fs.open(node, F.O_RDONLY);
  const content = new Uint8Array(fs.getAttributes(node).size);
  fs.read(handle, 0, content);
  fs.close(handle);
  return content;
}

const md5 = (content: Uint8Array): string => createHash("md5").update(content).digest("hex");

const WAYS = [
  { tag: "plain", options: "msize=512000" },
  { tag: "packed", options: "msize=131072" },
  { tag: "mmio", options: "msize=8192" },
  { tag: "slow", options: "msize=65536" },
  { tag: "cached", options: "msize=262144,cache=loose" },
] as const;

describe.skipIf(guestMissing)(needsGuest("9p of Linux on our device"), () => {
  let guest: TestGuest;
  const shares = new Map<string, MemoryFileSystem>();
  const share = (tag: string): MemoryFileSystem => shares.get(tag) ?? new MemoryFileSystem();
  const big = bytes(5_000_001, 7);

  beforeAll(async () => {
    guest = await TestGuest.create();
    for (const { tag } of WAYS) {
      const fs = new MemoryFileSystem();
      const files = Object.fromEntries(
        Array.from({ length: 40 }, (_, d) => [
          `d${d}`,
          {
            directory: Object.fromEntries(
              Array.from({ length: 50 }, (_, f) => [`file ${f} ä`, bytes(d * 50 + f, d * 100 + f)]),
            ),
          },
        ]),
      );
      fillTree(fs, { big, tree: { directory: files } });
      shares.set(tag, fs);
      const device = ninePDevice({ tag, fileSystem: tag === "slow" ? slow(fs) : fs });
      if (tag === "mmio") guest.machine.plugMmio(device, { label: tag });
      else guest.machine.plugPci(device, { label: tag, ...(tag === "packed" ? { features: PACKED } : {}) });
    }
    await guest.boot();
    await guest.sh("modprobe -a virtio_pci virtio_mmio 9pnet_virtio 9p", 60_000);
    for (const { tag, options } of WAYS) {
      await guest.sh(
        `mkdir -p /mnt/${tag} && mount -t 9p -o trans=virtio,version=9p2000.L,${options} ${tag} /mnt/${tag}`,
      );
    }
  }, 180_000);

  afterAll(() => guest?.machine.destroy());

  describe.each(WAYS)("$tag, $options", ({ tag }) => {
    const at = `/mnt/${tag}`;

    test("a large file, both ways", async () => {
      expect(await guest.sh(`md5sum < ${at}/big`)).toBe(`${md5(big)}  -`);
      await guest.sh(`cp ${at}/big ${at}/copy && sync`, 60_000);
      expect(md5(read(share(tag), "copy"))).toBe(md5(big));
      await guest.sh(
        `dd if=${at}/big of=${at}/blocks bs=300007 2>/dev/null && cmp ${at}/big ${at}/blocks`,
        60_000,
      );
    });

    test("a tree of 2,000 files, copied within the share", async () => {
      await guest.sh(`cp -a ${at}/tree ${at}/again`, 120_000);
      const sums = await guest.sh(
        `for t in tree again; do (cd ${at}/$t && find . -type f | sort | xargs -d '\\n' cat | md5sum); done`,
        120_000,
      );
      const [one, two] = sums.split("\n");
      expect(one).toBe(two);
      expect(await guest.sh(`find ${at}/again -type f | wc -l`)).toBe("2000");
      const { root } = share(tag);
      expect(share(tag).lookup(root, "again").directory?.entries.size).toBe(40);
      expect(read(share(tag), "again", "d39", "file 49 ä")).toEqual(bytes(1999, 3949));
      await guest.sh(`rm -r ${at}/again`, 120_000);
    }, 400_000);

    test("links, renames, attributes, special files", async () => {
      await guest.sh(
        `mkdir ${at}/w && cd ${at}/w && echo one > a && ln a b && ln -s a c && mv a d && mkdir e && mv d e/f`,
      );
      expect(await guest.sh("cat b; readlink c; stat -c %h b; ls -R . | tr '\\n' ' '")).toBe(
        "one\na\n2\n.: b c e  ./e: f ",
      );
      await guest.sh("chmod 4711 b && chown 12:34 b && touch -d '2001-02-03 04:05:06' b && truncate -s 9 b");
      expect(await guest.sh("stat -c '%a %u %g %s' b")).toBe("4711 12 34 9");
      await guest.sh("mknod fifo p && mknod null c 1 3 && mkfifo g && ls -l null | grep -q '1,   3'");
      expect(await guest.sh("(echo through > g & cat g)")).toBe("through");
      await guest.sh(
        "exec 7> open && rm open && echo gone >&7 && exec 7>&- && rmdir e 2>/dev/null; test -d e",
      );
      expect(await guest.sh("echo x >> b; echo y >> b; tail -c 4 b; df . | tail -1 | wc -w")).toBe("x\ny\n6");
      await guest.sh(`cd / && rm -r ${at}/w`);
    });

    test("what the host changes is seen at once (without a cache)", async () => {
      if (tag === "cached") return;
      fillTree(share(tag), { [`host-${tag}`]: "from the host" });
      expect(await guest.sh(`cat ${at}/host-${tag}`)).toBe("from the host");
      share(tag).unlink(share(tag).root, `host-${tag}`);
      expect(await guest.sh(`cat ${at}/host-${tag} 2>/dev/null || echo none`)).toBe("none");
    });

    test("locks keep processes apart", async () => {
      await guest.sh(
        `flock ${at}/big sleep 1 & sleep 0.3; flock -n ${at}/big true && exit 1; wait; flock -n ${at}/big true`,
      );
    });
  });
});
