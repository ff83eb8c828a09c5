import { UserError } from "../user-error.ts";
import type { OptionSpec } from "./table.ts";
import { unknown } from "./values.ts";

/** An option as it was given; `value` is empty for those without one, `name` for a word that is no option. */
export interface GivenOption {
  readonly name: string;
  readonly value: string;
}

/**
 * Reads options with one dash or two, `-name value` or `--name=value`, in the order they were given.
 * @param words what may stand between them, alone or before a comma; what is given once is given once behind each
 */
export function parseArguments(
  argv: readonly string[],
  table: readonly OptionSpec[],
  words: readonly string[] = [],
): GivenOption[] {
  const given: GivenOption[] = [];
  let start = 0;
  for (let index = 0; index < argv.length; index++) {
    const word = argv[index] ?? "";
    if (words.length > 0 && !word.startsWith("-")) {
      const [name = ""] = word.split(",");
      if (!words.includes(name)) throw unknown("word", name, words);
      start = given.push({ name: "", value: word });
      continue;
    }
    const match = /^--?([A-Za-z0-9][^=]*)(?:=([^]*))?$/.exec(
      word === "-h" || word === "-?" ? "--help" : word,
    );
    if (!match) throw new UserError(`"${word}" is no option. Options start with a dash; see --help.`);
    const spec = table.find((candidate) => candidate.name === match[1]);
    if (spec === undefined)
      throw unknown(
        "option",
        match[1] ?? "",
        table.map((known) => known.name),
      );
    let value = match[2] ?? "";
    if (spec.value === undefined) {
      if (match[2] !== undefined) throw new UserError(`--${spec.name} takes no value`);
    } else if (match[2] === undefined) {
      const next = argv[++index];
      if (next === undefined) throw new UserError(`--${spec.name} needs a value: ${spec.value}`);
      value = next;
    }
    if (spec.repeat !== true && given.slice(start).some((other) => other.name === spec.name)) {
      throw new UserError(`--${spec.name} is given twice`);
    }
    const count = given.push({ name: spec.name, value });
    if (spec.begins === true) start = count - 1;
  }
  return given;
}
