import type { CommandSpec, CompletionContext, Context } from "../command.ts";
import { UsageError } from "../errors.ts";

const names = ({ environment }: CompletionContext): readonly string[] => environment.names();

const printenv: CommandSpec = {
  name: "printenv",
  summary: "print environment variables",
  help: "[-a]\n    - print [all] values of all environment variables\nprintenv name ...\n    - print value of environment variable 'name'",
  words: 64,
  repeats: true,
  run: (context, [, ...words]) => print(context, words),
  complete: names,
};

/** Names that start with a period are only shown with -a. */
function print({ out, environment }: Context, words: readonly string[]): number {
  const all = words[0] === "-a";
  const asked = all ? words.slice(1) : words;
  if (asked.length === 0) {
    for (const name of environment.names())
      if (all || !name.startsWith(".")) out.write(`${name}=${environment.get(name) ?? ""}\n`);
    const { used, most } = environment.size;
    out.write(`\nEnvironment size: ${used}/${most} bytes\n`);
    return 0;
  }
  let status = 0;
  for (const name of asked) {
    const value = environment.get(name);
    if (value === undefined) {
      out.write(`## Error: "${name.slice(0, 80)}" not defined\n`);
      status = 1;
    } else out.write(`${name}=${value}\n`);
  }
  return status;
}

const setenv: CommandSpec = {
  name: "setenv",
  summary: "set environment variables",
  help: "name value ...\n    - set environment variable 'name' to 'value ...'\nsetenv name\n    - delete environment variable 'name'",
  words: 64,
  run: (context, [, ...words]) => set(context, words),
  complete: names,
};

function set({ environment }: Context, [name, ...values]: readonly string[]): number {
  if (name === undefined) throw new UsageError();
  if (values.length === 0) environment.delete(name);
  else environment.set(name, values.join(" "));
  return 0;
}

const run: CommandSpec = {
  name: "run",
  summary: "run commands in an environment variable",
  help: "var [...]\n    - run the commands in the environment variable(s) 'var'",
  words: 64,
  async run(context, [, ...words]) {
    if (words.length === 0) throw new UsageError();
    for (const name of words) {
      const value = context.environment.get(name);
      if (value === undefined) {
        context.out.write(`## Error: "${name.slice(0, 80)}" not defined\n`);
        return 1;
      }
      const status = await context.execute(value);
      if (status !== 0) return status;
    }
    return 0;
  },
  complete: names,
};

const env: CommandSpec = {
  name: "env",
  summary: "environment handling commands",
  help:
    "delete var [...] - delete variable(s)\nenv exists name - tests for existence of variable\n" +
    "env print [-a | name ...] - print environment\nenv run var [...] - run commands in an environment variable\n" +
    "env set name [arg ...] - set or delete a variable",
  words: 64,
  run(context, [, what, ...words]) {
    switch (what) {
      case "print":
        return print(context, words);
      case "set":
        return set(context, words);
      case "run":
        return run.run(context, ["run", ...words]);
      case "exists":
        return Number(context.environment.get(words[0] ?? "") === undefined);
      case "delete":
        if (words.length === 0) throw new UsageError();
        for (const name of words) context.environment.delete(name);
        return 0;
      default:
        throw new UsageError();
    }
  },
  complete: (context, words) =>
    words.length === 1 ? ["delete", "exists", "print", "run", "set"] : names(context),
};

export const environmentCommands: readonly CommandSpec[] = [printenv, setenv, env, run];
