import { crc32 } from "node:zlib";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { rateText, sizeText } from "@virtio/cli/shell/numbers";
import { inProcess, type TestShell } from "./lib/shell.ts";

let shell: TestShell;
beforeAll(async () => {
  shell = await inProcess(["-device", "virtio-rng-pci"]);
});
afterAll(() => shell.close());

const bytesAt = (address: number, length: number): Uint8Array => shell.shell.memory.readable(address, length);

describe("memory commands", () => {
  test("md has an address, sixteen bytes as numbers, and as characters", async () => {
    const line = "00 00 01 00 00 00 00 00 00 0f f3 f0 96 55 00 41";
    await shell.run(
      line
        .split(" ")
        .map((byte, i) => `mw.b ${(0x10000 + i).toString(16)} ${byte}`)
        .join(";"),
    );
    expect(await shell.run("md.b 10000 10")).toBe(`00010000: ${line}    .............U.A\n`);
    expect(await shell.run("md.w 10000 8")).toBe(
      "00010000: 0000 0001 0000 0000 0f00 f0f3 5596 4100    .............U.A\n",
    );
    expect(await shell.run("md 10000 4")).toBe(
      "00010000: 00010000 00000000 f0f30f00 41005596    .............U.A\n",
    );
    expect(await shell.run("md.q 0x10000 2")).toBe(
      "00010000: 0000000000010000 41005596f0f30f00    .............U.A\n",
    );
    expect(await shell.run("md.b 10000 3")).toBe(`00010000: 00 00 01${" ".repeat(39)}    ...\n`);
    expect((await shell.run("md 10000")).split("\n")).toHaveLength(17);
  });

  test("an empty line goes on where md stopped", async () => {
    await shell.run("mw.b 20000 41 10; mw.b 20010 42 10");
    await shell.shell.type("md.b 20000 10");
    await shell.shell.type("");
    expect(shell.output).toMatch(/^00020000: 41.*\n00020010: 42 42/);
  });

  test("cmp says where the first difference is", async () => {
    const put = (address: number, text: string): void => bytesAt(address, text.length).set(Buffer.from(text));
    put(0x1000000, "Hello world\r");
    put(0x101000, "Hello World\r");
    expect(await shell.run("cmp 0x1000000 0x101000 0xc")).toBe(
      "word at 0x01000004 (0x6f77206f) != word at 0x00101004 (0x6f57206f)\nTotal of 1 word(s) were the same\n",
    );
    expect(shell.status).toBe(1);
    expect(await shell.run("cmp.b 1000000 101000 c")).toContain(
      "byte at 0x01000006 (0x77) != byte at 0x00101006 (0x57)\nTotal of 6 byte(s)",
    );
    expect(await shell.run("cmp.w 1000000 101000 c")).toContain("halfword at 0x01000006 (0x6f77)");
    expect(await shell.run("cmp.q 1000000 101000 c")).toContain(
      "(0x6f77206f6c6c6548) != double word at 0x00101000",
    );
    expect(await shell.run("cp.b 1000000 101000 c && cmp.b 1000000 101000 c")).toBe(
      "Total of 12 byte(s) were the same\n",
    );
  });

  test("mw, cp and crc32 against an array", async () => {
    const size = fc.constantFrom(["b", 1], ["w", 2], ["l", 4], ["q", 8] as const);
    const model = bytesAt(0x30000, 0x1000).slice();
    const at = fc.integer({ min: 0, max: 0x3ff });
    const count = fc.integer({ min: 1, max: 0x80 });
    await fc.assert(
      fc.asyncProperty(
        size,
        at,
        at,
        count,
        fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
        async ([suffix, width], a, b, n, value) => {
          const bytes = Number(width);
          await shell.run(
            `mw.${suffix} ${(0x30000 + a).toString(16)} ${value.toString(16)} ${n.toString(16)}`,
          );
          for (let i = 0; i < n * bytes; i++)
            model[a + i] = Number((value >> BigInt(8 * (i % bytes))) & 0xffn);
          await shell.run(
            `cp.${suffix} ${(0x30000 + a).toString(16)} ${(0x30000 + b).toString(16)} ${n.toString(16)}`,
          );
          model.copyWithin(b, a, a + n * bytes);
          expect(Buffer.compare(bytesAt(0x30000, 0x1000), model)).toBe(0);
        },
      ),
      { numRuns: 50 },
    );
    const sum = crc32(model).toString(16).padStart(8, "0");
    expect(await shell.run("crc32 30000 1000 40000")).toBe(`crc32 for 00030000 ... 00030fff ==> ${sum}\n`);
    expect(Buffer.from(bytesAt(0x40000, 4)).toString("hex")).toBe(sum);
    expect(await shell.run(`crc32 -v 30000 1000 ${sum}`)).not.toContain("ERROR");
    expect(await shell.run("crc32 -v 30000 1000 1")).toContain("** ERROR **");
  });

  test("only memory is shown, and only the shell's is written", async () => {
    expect(await shell.run("md ffffffff")).toMatch(/is no memory of the target/);
    expect(await shell.run("md 0 4")).toMatch(/^00000000: /);
    expect(await shell.run("mw 0 1")).toMatch(/not in the shell's memory/);
    expect(await shell.run("mw 7000000 1")).toMatch(/not in the shell's memory/);
    expect(await shell.run("mw 1000 1 fffffffffffff")).toMatch(/## Error/);
    expect(await shell.run("md zz")).toMatch(/"zz" is no hexadecimal number/);
    expect(await shell.run("md")).toMatch(/^md - memory display\n\nUsage:\nmd \[/);
    expect(await shell.run("md.x 1000")).toMatch(/Usage/);
    expect(await shell.run("cp 1000 2000 0")).toBe("Zero length ???\n");
  });

  test("sizes to one digit", () => {
    expect(sizeText(512)).toBe("512 Bytes");
    expect(sizeText(1536)).toBe("1.5 KiB");
    expect(sizeText(2 ** 20)).toBe("1 MiB");
    expect(sizeText(1024 * 1024 - 1)).toBe("1 MiB");
    expect(rateText(149_280, 11)).toBe("in 11 ms (12.9 MiB/s)");
    expect(rateText(16, 1)).toBe("in 1 ms (15.6 KiB/s)");
    expect(rateText(16, 0)).toBe("in 0 ms");
  });
});
