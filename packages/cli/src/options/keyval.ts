import { UserError } from "../user-error.ts";

/**
 * QEMU's `value,key=value,…` syntax: `,,` stands for a comma in a value, `key` alone for `key=on`, `nokey` for `key=off`.
 * `impliedKey` names what the first part is when it has no `=`. JSON objects are taken too, with nested keys joined by dots.
 */
export function parseKeyval(text: string, impliedKey?: string): Map<string, string> {
  if (text.startsWith("{")) return parseJson(text);
  const pairs = new Map<string, string>();
  splitCommas(text).forEach((part, index) => {
    const equals = part.indexOf("=");
    if (equals > 0) pairs.set(part.slice(0, equals), part.slice(equals + 1));
    else if (equals === 0) throw new UserError(`"${text}": a name is missing before "${part}"`);
    else if (index === 0 && impliedKey !== undefined) pairs.set(impliedKey, part);
    else if (part !== "") pairs.set(part, "on");
    else if (text !== "")
      throw new UserError(`"${text}": there is nothing between two commas (a comma in a value is ",,")`);
  });
  return pairs;
}

/** The text that `parseKeyval` reads as this value. */
export function escapeValue(value: string): string {
  return value.replaceAll(",", ",,");
}

function splitCommas(text: string): string[] {
  const parts: string[] = [];
  let current = "";
  for (let index = 0; index < text.length; index++) {
    if (text[index] !== ",") current += text[index];
    else if (text[index + 1] === ",") {
      current += ",";
      index++;
    } else {
      parts.push(current);
      current = "";
    }
  }
  parts.push(current);
  return parts;
}

function parseJson(text: string): Map<string, string> {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw new UserError(`"${text}" is no JSON object`);
  }
  const pairs = new Map<string, string>();
  flatten(value, "", pairs);
  return pairs;
}

function flatten(value: unknown, path: string, into: Map<string, string>): void {
  if (typeof value === "object" && value !== null) {
    for (const [key, inner] of Object.entries(value))
      flatten(inner, path === "" ? key : `${path}.${key}`, into);
  } else if (typeof value === "boolean") into.set(path, value ? "on" : "off");
  else if (typeof value === "string" || typeof value === "number") into.set(path, `${value}`);
}
