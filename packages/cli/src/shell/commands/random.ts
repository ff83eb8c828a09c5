import type { CommandSpec } from "../command.ts";
import { CommandError, UsageError } from "../errors.ts";
import { hex, hex8 } from "../numbers.ts";

const MOST = 0x40;
const LINE = 16;

export const rng: CommandSpec = {
  name: "rng",
  summary: "print bytes from the hardware random number generator",
  help: "list          - list all probed rng devices\nrng [dev [n]] - print n random bytes (max 64) read from dev\n",
  words: 3,
  async run(context, words) {
    const [, first, second] = words;
    const all = await context.devices.driven(context, "entropy");
    if (first === "list" && second === undefined) {
      for (const { number, device } of all)
        context.out.write(`RNG #${number} - virtio-rng#${number} (${device.name})\n`);
      if (all.length === 0) throw new CommandError("No RNG device");
      return 0;
    }
    if (first === "list") throw new UsageError();
    const number = first === undefined ? 0 : hex(first, "rng");
    const found = all.find((each) => each.number === number);
    if (found === undefined) throw new CommandError("No RNG device");
    const bytes = new Uint8Array(Math.min(MOST, second === undefined ? MOST : hex(second, "rng")));
    await context.wait(found.driver.entropy.read(bytes), `${found.name}: reading`);
    for (let at = 0; at < bytes.length; at += LINE)
      context.out.write(line(at, bytes.subarray(at, at + LINE)));
    return 0;
  },
};

/** As U-Boot's print_hex_dump_bytes has it: an offset, bytes, characters. */
function line(at: number, bytes: Uint8Array): string {
  const numbers = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join(" ");
  const characters = Array.from(bytes, (byte) =>
    byte >= 0x20 && byte < 0x7f ? String.fromCharCode(byte) : ".",
  );
  return `${hex8(at)}: ${numbers.padEnd(3 * LINE - 1)}  ${characters.join("")}\n`;
}
