import type { CompletionContext } from "./command.ts";

/** Candidates at most. */
const MOST = 256;

/** What the last word of a line may become, and that word: as node:readline wants it. */
export function complete(context: CompletionContext, line: string): [string[], string] {
  // Of the last command on the line.
  const words = line
    .slice(/.*(?:;|&&|\|\|)/s.exec(line)?.[0].length ?? 0)
    .trimStart()
    .split(/\s+/);
  const last = words.pop() ?? "";
  const variable = /^(.*\$\{?)([\w.]*)$/.exec(last);
  if (variable !== null) {
    const [, before = "", name = ""] = variable;
    const close = before.endsWith("{") ? "}" : "";
    const names = context.environment.names().filter((each) => each.startsWith(name));
    return [names.slice(0, MOST).map((each) => before + each + close), last];
  }
  const candidates =
    words.length === 0
      ? context.registry.all().map(({ name }) => name)
      : (context.registry.find(words[0] ?? "")?.complete?.(context, words) ?? []);
  const found = candidates.filter((each) => each.startsWith(last)).slice(0, MOST);
  return [found.map((each) => `${each} `), last];
}
