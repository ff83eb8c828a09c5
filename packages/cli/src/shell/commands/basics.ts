import { usageText, type CommandSpec } from "../command.ts";
import { CommandError, Exit, UsageError } from "../errors.ts";

const echo: CommandSpec = {
  name: "echo",
  summary: "echo args to console",
  help: "[-n] [args..]\n    - echo args to console; -n suppresses newline",
  words: 64,
  repeats: true,
  run({ out }, [, ...words]) {
    const silent = words[0] === "-n";
    out.write(words.slice(Number(silent)).join(" ") + (silent ? "" : "\n"));
    return 0;
  },
};

const help: CommandSpec = {
  name: "help",
  summary: "print command description/usage",
  help: "\n\t- print brief description of all commands\nhelp command ...\n\t- print detailed usage of 'command'",
  words: 64,
  run({ out, registry }, [, ...names]) {
    if (names.length === 0) {
      for (const { name, summary } of registry.all()) out.write(`${name.padEnd(9)} - ${summary}\n`);
      return 0;
    }
    let status = 0;
    for (const name of names) {
      const command = registry.find(name);
      if (command !== undefined) out.write(usageText(command) + (command.more ?? ""));
      else {
        out.write(
          `Unknown command '${name.slice(0, 80)}' - try 'help' without arguments for list of all known commands\n\n`,
        );
        status = 1;
      }
    }
    return status;
  },
  complete: ({ registry }) => registry.all().map(({ name }) => name),
};

const MAX_SLEEP = 86_400;

const sleep: CommandSpec = {
  name: "sleep",
  summary: "delay execution for some time",
  help: "N\n    - delay execution for N seconds (N is _decimal_ and can be\n      fractional)",
  words: 2,
  async run(context, [, text]) {
    if (text === undefined) throw new UsageError();
    const seconds = /^\d{1,6}(\.\d{1,9})?$/.test(text) ? Number(text) : NaN;
    if (!(seconds <= MAX_SLEEP))
      throw new CommandError(`sleep: "${text.slice(0, 40)}" is no number of seconds`);
    let timer: NodeJS.Timeout | undefined;
    const over = new Promise<void>((resolve) => (timer = setTimeout(resolve, seconds * 1000)));
    try {
      await context.wait(over, "sleep", seconds * 1000 + 60_000);
    } finally {
      clearTimeout(timer);
    }
    return 0;
  },
};

const exit: CommandSpec = {
  name: "exit",
  summary: "exit script, or the shell",
  help: "[status]",
  words: 2,
  run(_context, [, text]) {
    const status = /^\d{1,3}$/.test(text ?? "0") ? Number(text ?? "0") & 0xff : 0;
    throw new Exit(status);
  },
};

const fixed = (name: string, status: number, summary: string): CommandSpec => ({
  name,
  summary,
  help: "",
  words: 64,
  run: () => status,
});

/** What `test` compares with. */
const COMPARE: Readonly<Record<string, (a: string, b: string) => boolean>> = {
  "=": (a, b) => a === b,
  "==": (a, b) => a === b,
  "!=": (a, b) => a !== b,
  "<": (a, b) => a < b,
  ">": (a, b) => a > b,
  "-eq": (a, b) => number(a) === number(b),
  "-ne": (a, b) => number(a) !== number(b),
  "-lt": (a, b) => number(a) < number(b),
  "-le": (a, b) => number(a) <= number(b),
  "-gt": (a, b) => number(a) > number(b),
  "-ge": (a, b) => number(a) >= number(b),
};

const testing = (name: string): CommandSpec => ({
  name,
  summary: name === "[" ? "alias for 'test'" : "minimal test like /bin/sh",
  help: name === "[" ? " <test expression> ]" : "[args..]",
  words: 64,
  run(_context, [, ...words]) {
    if (name === "[" && words.pop() !== "]") throw new CommandError("[: ] is missing");
    return Number(!evaluate(words));
  },
});

/** `-o` binds less than `-a`, as in sh. */
function evaluate(words: readonly string[]): boolean {
  const or = words.indexOf("-o");
  if (or > 0) return evaluate(words.slice(0, or)) || evaluate(words.slice(or + 1));
  const and = words.indexOf("-a");
  if (and > 0) return evaluate(words.slice(0, and)) && evaluate(words.slice(and + 1));
  const [a, b, c] = words;
  if (a === "!" && words.length > 1) return !evaluate(words.slice(1));
  if (a === undefined) return false;
  if (b === undefined) return a !== "";
  if (c === undefined && a === "-n") return b !== "";
  if (c === undefined && a === "-z") return b === "";
  const compare = COMPARE[b];
  if (compare === undefined || c === undefined || words.length > 3)
    throw new CommandError(`test: "${words.join(" ").slice(0, 80)}" is no expression`);
  return compare(a, c);
}

function number(text: string): number {
  if (!/^-?(0[xX][0-9a-fA-F]{1,13}|\d{1,15})$/.test(text))
    throw new CommandError(`test: "${text.slice(0, 40)}" is no number`);
  return text.startsWith("-") ? -Number(text.slice(1)) : Number(text);
}

export const basicCommands: readonly CommandSpec[] = [
  echo,
  exit,
  help,
  { ...help, name: "?", summary: "alias for 'help'", help: "" },
  sleep,
  fixed("true", 0, "do nothing, successfully"),
  fixed("false", 1, "do nothing, unsuccessfully"),
  testing("test"),
  testing("["),
];
