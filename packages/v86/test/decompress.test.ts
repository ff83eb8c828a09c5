import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { gzipSync } from "node:zlib";
import { findProgram, needs } from "@virtio/testkit/needs";
import { decompressXz, xzSize } from "@virtio/v86/decompress/xz";
import { extractVmlinux } from "@virtio/v86/vmlinux";
import fc from "fast-check";
import { describe, expect, test } from "vitest";

const xz = findProgram("xz");
/** Text and x86 calls, compressed by `xz --check=crc32 --x86 --lzma2=lc=1,lp=2,pb=1`. */
const VECTOR = Buffer.from(
  [
    "/Td6WFoAAAFpIt42AgEEACEBCADSuXTL4APjAVdAACoaCQckntvcag3ghVkH1dwhtgP1C91KuBHd0db0uUDtOnPZdhkGCEbM",
    "zXmg5dvjiS0gQHJ+xnyDqc4Cw2idXK9KZG/9RqOK95I/gRwzeO1euh1YLJ5hR/Ou45imHYDiSJDmF3vDo+7F6KZQmpICY63z",
    "JZOjTBbEljIE8pCQAqTdErgI2rMSOfOmlguuKwshFBETN1iLm/NxbGYGyjtucpdxP6VQzk/yn/i618Y55rdkt9GHKt2LdNlA",
    "6SX462MXKf2FEEb+wk8CMD1wOvs7zVivOrN4HCUw3dgCy2vnXcEx1HFpYCzAgdnjd5lPV5RoIc7IFYQ4/5eieEmfB+JpeZ52",
    "TPU5tAfFstoxFvXrNZsApYIqpf7s9Y7iRrQJ6nB68+FBkNTyn/hnW8Nnc4rqtg5OqJZifHbYFr79bnEQPode+FGGR5DoQhvb",
    "7/thnA5QSNS4VO/ZMhcAAJk4ElQAAe8C5AcAAADu1QI+MA2LAgAAAAABWVo=",
  ].join(""),
  "base64",
);
const VECTOR_SIZE = 996;
const VECTOR_SHA256 = "1e963e27e75ebb2d45091ca674f7a1e5d3f79054bdcee19652fc33f10acb7a1c";

/** Bytes that look like code: calls near and far, opcodes side by side, and text between. */
const code = fc
  .array(
    fc.oneof(
      fc
        .tuple(fc.constantFrom(0xe8, 0xe9), fc.integer({ min: -(2 ** 24), max: 2 ** 24 }))
        .map(([opcode, target]) => {
          const bytes = Buffer.alloc(5, opcode);
          bytes.writeInt32LE(target, 1);
          return bytes;
        }),
      fc.array(fc.constantFrom(0, 0xff, 0xe8, 0xe9), { maxLength: 8 }).map((bytes) => Buffer.from(bytes)),
      fc.string({ maxLength: 20 }).map((text) => Buffer.from(text)),
      fc.nat(3000).map((length) => Buffer.alloc(length, "repeat me ")),
    ),
    { maxLength: 200 },
  )
  .map((parts) => Buffer.concat(parts));

/** A bzImage with this payload: two setup sectors, then the payload. */
function bzImage(payload: Uint8Array): Uint8Array {
  const image = Buffer.alloc(0x1000 + payload.length);
  image[0x1f1] = 1;
  image.write("HdrS", 0x202);
  image.writeUInt16LE(0x20f, 0x206);
  image.writeUInt32LE(0xc00, 0x248);
  image.writeUInt32LE(payload.length, 0x24c);
  image.set(payload, 0x1000);
  return image;
}

function withSize(payload: Uint8Array, size: number): Uint8Array {
  const tail = Buffer.alloc(4);
  tail.writeUInt32LE(size);
  return Buffer.concat([payload, tail]);
}

describe("xz", () => {
  test("decodes LZMA2 and undoes the x86 filter", () => {
    const sum = createHash("sha256").update(decompressXz(VECTOR, VECTOR_SIZE)).digest("hex");
    expect(sum).toBe(VECTOR_SHA256);
  });

  test("damage and truncation end in an Error, soon", () => {
    fc.assert(
      fc.property(
        fc.nat(VECTOR.length - 1),
        fc.integer({ min: 1, max: 255 }),
        fc.boolean(),
        (at, flip, cut) => {
          const bytes = cut ? VECTOR.subarray(0, at) : Buffer.from(VECTOR);
          if (!cut) bytes[at] = (bytes[at] ?? 0) ^ flip;
          try {
            const sum = createHash("sha256").update(decompressXz(bytes, VECTOR_SIZE)).digest("hex");
            // What follows the data does not matter to us.
            expect(sum).toBe(VECTOR_SHA256);
          } catch (error) {
            expect((error as Error).message).toMatch(/damaged|not supported/);
          }
        },
      ),
    );
  });

  test("the size is in the index; of a damaged file it is bounded or an Error", () => {
    expect(xzSize(VECTOR, VECTOR_SIZE)).toBe(VECTOR_SIZE);
    expect(() => xzSize(VECTOR, VECTOR_SIZE - 1)).toThrow(`${VECTOR_SIZE} bytes or more`);
    fc.assert(
      fc.property(fc.nat(VECTOR.length - 1), fc.nat(255), fc.boolean(), (at, value, cut) => {
        const bytes = cut ? VECTOR.subarray(0, at) : Buffer.from(VECTOR);
        if (!cut) bytes[at] = value;
        try {
          expect(xzSize(bytes, 2000)).toBeLessThanOrEqual(2000);
        } catch (error) {
          expect((error as Error).message).toMatch(/damaged|bytes or more/);
        }
      }),
    );
  });

  test.skipIf(xz === undefined)(needs("xz", "xz-utils", "decodes what the program xz writes"), () => {
    const settings = fc.record({
      filter: fc.constantFrom(["--x86"], []),
      check: fc.constantFrom("none", "crc32", "crc64", "sha256"),
      bits: fc.constantFrom("lc=3,lp=0,pb=2", "lc=0,lp=4,pb=4", "lc=4,lp=0,pb=0"),
    });
    fc.assert(
      fc.property(code, settings, (bytes, { filter, check, bits }) => {
        const args = ["-c", "--format=xz", `--check=${check}`, ...filter, `--lzma2=dict=64KiB,${bits}`];
        const compressed = spawnSync(xz ?? "", args, { input: bytes }).stdout;
        expect(xzSize(compressed, bytes.length)).toBe(bytes.length);
        expect(Buffer.from(decompressXz(compressed, bytes.length)).equals(bytes)).toBe(true);
      }),
      { numRuns: 40 },
    );
  });
});

describe("extractVmlinux", () => {
  test("finds the payload of a bzImage, xz or gzip", async () => {
    const kernel = decompressXz(VECTOR, VECTOR_SIZE);
    expect(await extractVmlinux(bzImage(withSize(VECTOR, VECTOR_SIZE)))).toEqual(kernel);
    expect(await extractVmlinux(bzImage(gzipSync(kernel)))).toEqual(kernel);
  });

  test("says what is wrong with other files", async () => {
    await expect(extractVmlinux(new Uint8Array(10))).rejects.toThrow("no bzImage");
    await expect(extractVmlinux(Buffer.alloc(0x2000, "ELF"))).rejects.toThrow("no bzImage");
    await expect(extractVmlinux(bzImage(withSize(VECTOR, VECTOR_SIZE)).subarray(0, 0x1100))).rejects.toThrow(
      "not whole",
    );
    await expect(extractVmlinux(bzImage(withSize(VECTOR, VECTOR_SIZE - 1)))).rejects.toThrow("damaged");
    await expect(extractVmlinux(bzImage(withSize(VECTOR, 0xffffffff)))).rejects.toThrow("damaged");
    const zstd = Buffer.concat([Buffer.from("28b52ffd", "hex"), Buffer.alloc(60)]);
    await expect(extractVmlinux(bzImage(zstd))).rejects.toThrow("it starts with 28 b5 2f fd");
  });
});
