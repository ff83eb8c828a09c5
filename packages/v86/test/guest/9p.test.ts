/** Linux's own 9p client on our device: trees copied both ways, links, renames, locks, special files, big and small messages. */
import { createHash } from "node:crypto";
import { DEFAULT_CORE_FEATURES } from "virtio/device/features";
import { VIRTIO_F_RING_PACKED, featureBits } from "virtio/spec/core";
import { fillTree } from "virtio/backends/fill-tree";
import { ERRNO } from "virtio/backends/errno";
import * as F from "virtio/backends/file-system";
import { MemoryFileSystem } from "virtio/backends/memory-file-system";
import { ninePDevice } from "virtio/devices/9p/device";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { TestGuest, guestMissing, needsGuest } from "./guest.ts";

const PACKED = DEFAULT_CORE_FEATURES | featureBits(VIRTIO_F_RING_PACKED);

/** Methods that never take their time. */
const PLAIN: ReadonlySet<string> = new Set(["retain", "release", "place", "directoryPosition"]);

/** The same file system, but every method takes a turn of the event loop. */
function slow(memory: MemoryFileSystem): F.FileSystem {
  return new Proxy<F.FileSystem>(memory, {
    get(target, name) {
      if (name === "asynchronous") return true;
      const value: unknown = Reflect.get(target, name, target);
      if (typeof value !== "function") return value;
      const method = (...args: unknown[]): unknown => Reflect.apply(value, target, args);
      if (PLAIN.has(String(name))) return method;
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

/** A program of the guest, without a C library: `lock FILE [hold]` takes a POSIX lock or ends with the error's number. */
function lockProgram(): Uint8Array {
  const code = Buffer.from(
    // argc, argv[0], argv[1]; open(argv[1], O_RDWR)
    "5d585b" +
      "b902000000" +
      "6a0558" +
      "cd80" +
      "89c3" +
      // fcntl64(fd, F_SETLK, {F_WRLCK, SEEK_SET, 0, 0})
      "6a006a006a006a01" +
      "89e2" +
      "6a0659" +
      "b8dd000000" +
      "cd80" +
      "89c7" +
      // with a second argument, and the lock: pause()
      "83fd02" +
      "7409" +
      "85ff" +
      "7505" +
      "6a1d58" +
      "cd80" +
      // exit(-result)
      "89fb" +
      "f7db" +
      "6a0158" +
      "cd80",
    "hex",
  );
  const base = 0x0804_8000;
  const header = Buffer.alloc(84);
  header.set([0x7f, 0x45, 0x4c, 0x46, 1, 1, 1]);
  [2, 3].forEach((value, i) => header.writeUInt16LE(value, 16 + 2 * i));
  [1, base + 84, 52, 0, 0].forEach((value, i) => header.writeUInt32LE(value, 20 + 4 * i));
  [52, 32, 1, 40, 0, 0].forEach((value, i) => header.writeUInt16LE(value, 40 + 2 * i));
  [1, 0, base, base, 84 + code.length, 84 + code.length, 5, 0x1000].forEach((value, i) =>
    header.writeUInt32LE(value, 52 + 4 * i),
  );
  return Buffer.concat([header, code]);
}

const md5 = (content: Uint8Array): string => createHash("md5").update(content).digest("hex");

const WAYS = [
  { tag: "plain", count: 500, options: "msize=512000" },
  { tag: "packed", count: 100, options: "msize=131072" },
  { tag: "mmio", count: 100, options: "msize=8192" },
  { tag: "slow", count: 100, options: "msize=65536" },
  { tag: "cached", count: 100, options: "msize=262144,cache=loose" },
] as const;

describe.skipIf(guestMissing)(needsGuest("9p of Linux on our device"), () => {
  let guest: TestGuest;
  const shares = new Map<string, MemoryFileSystem>();
  const share = (tag: string): MemoryFileSystem => shares.get(tag) ?? new MemoryFileSystem();
  const big = bytes(2_000_001, 7);

  beforeAll(async () => {
    guest = await TestGuest.create();
    for (const { tag, count } of WAYS) {
      const fs = new MemoryFileSystem();
      const files = Object.fromEntries(
        Array.from({ length: count / 50 }, (_, d) => [
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
    fillTree(share("plain"), { lock: { file: lockProgram(), mode: 0o755 } });
    for (const { tag, options } of WAYS) {
      await guest.sh(
        `mkdir -p /mnt/${tag} && mount -t 9p -o trans=virtio,version=9p2000.L,${options} ${tag} /mnt/${tag}`,
      );
    }
    await guest.sh("cp /mnt/plain/lock /lock");
  });

  afterAll(() => guest?.machine.destroy());

  describe.each(WAYS)("$tag, $options", ({ tag, count }) => {
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

    test(`a tree of ${count} files, copied within the share`, async () => {
      await guest.sh(`cp -a ${at}/tree ${at}/again`, 120_000);
      const sums = await guest.sh(
        `for t in tree again; do (cd ${at}/$t && find . -type f -print0 | sort -z | xargs -0 cat | md5sum); done`,
        120_000,
      );
      const [one, two] = sums.split("\n");
      expect(one).toBe(two);
      expect(await guest.sh(`find ${at}/again -type f | wc -l`)).toBe(String(count));
      const { root } = share(tag);
      expect(share(tag).lookup(root, "again").directory?.entries.size).toBe(count / 50);
      expect(read(share(tag), "again", `d${count / 50 - 1}`, "file 49 ä")).toEqual(
        bytes(count - 1, count * 2 - 51),
      );
      await guest.sh(`rm -r ${at}/again`, 120_000);
    });

    test("links, renames, attributes, special files", async () => {
      await guest.sh(
        `mkdir ${at}/w && cd ${at}/w && echo one > a && ln a b && ln -s a c && mv a d && mkdir e && mv d e/f`,
      );
      expect(await guest.sh("cat b; readlink c; stat -c %h b; ls -R . | tr '\\n' ' '")).toBe(
        "one\na\n2\n.: b c e  ./e: f ",
      );
      await guest.sh("chown 12:34 b && truncate -s 9 b && chmod 4711 b && touch -d '2001-02-03 04:05:06' b");
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

    test("locks reach the host, and those of the host the guest", async () => {
      const fs = share(tag);
      const file = fs.lookup(fs.root, "big");
      const handle = fs.open(file, F.O_RDWR);
      const owner = { key: "host", process: 1, client: "host" };
      const whole = { exclusive: true, start: 0, length: 0, owner };
      expect(fs.lock(handle, whole)).toBe(true);
      expect(await guest.sh(`/lock ${at}/big; echo $?`)).toBe(String(ERRNO.EAGAIN));
      fs.unlock(handle, owner, 0, 0);
      await guest.sh(`/lock ${at}/big hold & sleep 0.5`);
      expect(fs.testLock(handle, whole)).toMatchObject({ exclusive: true, start: 0, length: 0 });
      await guest.sh("kill $!; wait $!; true");
      expect(fs.testLock(handle, whole)).toBeUndefined();
      fs.close(handle);
      fs.release(file);
    });
  });
});
