import { QemuError } from "./error.ts";

/** What a command line says that has to be known before QEMU is started. */
export interface QemuCommand {
  readonly program: string;
  /** As it was given, and the size of memory. */
  readonly argv: readonly string[];
  /** Bytes of memory. */
  readonly memory: number;
  /** Architecture of the program: the end of its name. */
  readonly target: string;
}

/** QEMU's own default on every machine that is known here. */
const DEFAULT_MEMORY: number = 128 << 20;
/** Options that would take away what this package needs, or that need a processor that runs. */
const FORBIDDEN: ReadonlyMap<string, string> = new Map([
  ["accel", "the accelerator is chosen here"],
  ["enable-kvm", "no processor runs"],
  ["qtest", "the qtest connection is made here"],
  ["S", "a stopped machine's devices do no work"],
  ["bios", "no processor runs: there is no firmware"],
  ["kernel", "no processor runs: there is no kernel"],
  ["daemonize", "its process would be lost"],
]);

const UNITS: Readonly<Record<string, number>> = { k: 2 ** 10, m: 2 ** 20, g: 2 ** 30, t: 2 ** 40 };

/** Splits a command line as a shell does: blanks, quotes, backslashes; nothing is expanded. Throws on an open quote. */
export function splitCommandLine(text: string): string[] {
  const words: string[] = [];
  let word: string | undefined;
  let quote = "";
  for (let at = 0; at < text.length; at++) {
    const character = text.charAt(at);
    if (character === "\\" && quote !== "'" && at + 1 < text.length) {
      const next = text.charAt(++at);
      const literal = quote === '"' && !['"', "\\", "$", "`"].includes(next);
      if (next !== "\n") word = (word ?? "") + (literal ? `\\${next}` : next);
    } else if (quote !== "") {
      if (character === quote) quote = "";
      else word = (word ?? "") + character;
    } else if (character === "'" || character === '"') {
      quote = character;
      word ??= "";
    } else if (/\s/.test(character)) {
      if (word !== undefined) words.push(word);
      word = undefined;
    } else word = (word ?? "") + character;
  }
  if (quote !== "") throw new QemuError(`the quote ${quote} in the command line has no end`);
  if (word !== undefined) words.push(word);
  return words;
}

/** QEMU's words for a boolean property, of which `disable-legacy` takes only two. */
const SWITCHES: ReadonlyMap<string, string> = new Map([
  ["true", "on"],
  ["yes", "on"],
  ["y", "on"],
  ["false", "off"],
  ["no", "off"],
  ["n", "off"],
]);

/**
 * Command lines from before QEMU 6, as U-Boot's documentation has them, say `disable-legacy=true`; QEMU takes `on`, `off` and
 * `auto` today. Other words stay as they are.
 */
export function asQemuTakes(word: string): string {
  return word.replace(
    /((?:^|[,.])disable-legacy=)([a-z]+)(?=,|$)/g,
    (whole: string, name: string, value: string) => {
      const taken = SWITCHES.get(value);
      return taken === undefined ? whole : name + taken;
    },
  );
}

/** Reads what a user would type, `["qemu-system-arm", "-M", "versatilepb", …]`. Throws a QemuError that says what cannot be. */
export function readCommand(words: readonly string[]): QemuCommand {
  const [program, ...rest] = words;
  const target = /qemu-system-([a-z0-9_]+)$/.exec(program ?? "")?.[1];
  if (program === undefined || target === undefined)
    throw new QemuError(`'${program ?? ""}' is no qemu-system program`);
  const argv: string[] = [];
  let memory: number | undefined;
  for (let at = 0; at < rest.length; at++) {
    const word = rest[at] ?? "";
    const option = /^--?([a-zA-Z-]+)$/.exec(word)?.[1];
    const why = option === undefined ? undefined : FORBIDDEN.get(option);
    if (why !== undefined) throw new QemuError(`-${option} cannot be given: ${why}`);
    if (option === "m") memory = memorySize(rest[at + 1] ?? "");
    if (option === "M" || option === "machine") checkMachine(rest[at + 1] ?? "");
    argv.push(asQemuTakes(word));
  }
  if (memory === undefined) argv.push("-m", `${DEFAULT_MEMORY >> 20}M`);
  return { program, argv, memory: memory ?? DEFAULT_MEMORY, target };
}

/** `512`, `1G`, `size=1G,slots=2,maxmem=4G`: what `-m` takes; MiB without a unit. */
function memorySize(text: string): number {
  const first = text.split(",").find((part) => !part.includes("=") || part.startsWith("size="));
  const match = /^(?:size=)?(\d+(?:\.\d+)?)([kmgt]?)b?$/i.exec(first ?? "");
  const unit = UNITS[(match?.[2] ?? "").toLowerCase() || "m"] ?? 0;
  const size = match === null ? 0 : Number(match[1]) * unit;
  if (!Number.isSafeInteger(size) || size <= 0 || size % 4096 !== 0)
    throw new QemuError(`-m ${text} is no size of memory`);
  return size;
}

function checkMachine(text: string): void {
  for (const part of text.split(",")) {
    if (part.startsWith("accel=") || part.startsWith("memory-backend="))
      throw new QemuError(`-M ${part} cannot be given: it is chosen here`);
  }
}
