import { CommandError } from "../errors.ts";

/** A piece of a word. Only what stands outside of quotes is split at blanks once variables are put in. */
export type Part =
  | { readonly kind: "text"; readonly text: string; readonly quoted: boolean }
  | { readonly kind: "variable"; readonly name: string; readonly quoted: boolean };

export type Token =
  | { readonly kind: "word"; readonly parts: readonly Part[] }
  | { readonly kind: "operator"; readonly text: Operator };

export type Operator = ";" | "&&" | "||";

/** Characters of a command, with all its lines. What is longer is refused before anything is done with it. */
export const MAX_COMMAND_LENGTH = 65_536;
/** Words and operators of a command. */
const MAX_TOKENS = 8192;

/** The command goes on in the next line: a quote or an `if` is open. */
export class Incomplete extends CommandError {}

/** Takes a command apart. Throws an Incomplete when a quote is open, else a CommandError that says what is wrong. */
export function tokenize(text: string): Token[] {
  if (text.length > MAX_COMMAND_LENGTH)
    throw new CommandError(`a command of ${text.length} characters: the most are ${MAX_COMMAND_LENGTH}`);
  const lexer = new Lexer(text);
  return lexer.run();
}

const BLANK: ReadonlySet<string> = new Set([" ", "\t", "\r"]);
const NAME = /[A-Za-z0-9_.]/;

class Lexer {
  readonly #text: string;
  readonly #tokens: Token[] = [];
  #at = 0;
  #parts: Part[] | undefined;
  #literal = "";

  constructor(text: string) {
    this.#text = text;
  }

  run(): Token[] {
    while (this.#at < this.#text.length) this.#step(this.#text.charAt(this.#at));
    this.#endWord();
    return this.#tokens;
  }

  #step(character: string): void {
    if (BLANK.has(character)) this.#skip();
    else if (character === "#" && this.#parts === undefined) this.#comment();
    else if (character === "\n" || character === ";") this.#operator(";", 1);
    else if (character === "&" || character === "|") {
      if (this.#text.charAt(this.#at + 1) !== character)
        throw new CommandError(
          `syntax error: "${character}" is not known here, "${character}${character}" is`,
        );
      this.#operator(character === "&" ? "&&" : "||", 2);
    } else if (character === "'") this.#single();
    else if (character === '"') this.#double();
    else if (character === "\\") this.#escape();
    else if (character === "$") this.#variable(false);
    else this.#literally(character);
  }

  #skip(): void {
    this.#endWord();
    this.#at++;
  }

  #comment(): void {
    const end = this.#text.indexOf("\n", this.#at);
    this.#at = end < 0 ? this.#text.length : end;
  }

  #operator(text: Operator, length: number): void {
    this.#endWord();
    this.#add({ kind: "operator", text });
    this.#at += length;
  }

  #literally(character: string): void {
    this.#parts ??= [];
    this.#literal += character;
    this.#at++;
  }

  #single(): void {
    const end = this.#text.indexOf("'", this.#at + 1);
    if (end < 0) throw new Incomplete("syntax error: a ' has no end");
    this.#endLiteral();
    this.#push({ kind: "text", text: this.#text.slice(this.#at + 1, end), quoted: true });
    this.#at = end + 1;
  }

  #double(): void {
    this.#endLiteral();
    this.#push({ kind: "text", text: "", quoted: true });
    this.#at++;
    let text = "";
    const flush = (): void => {
      if (text !== "") this.#push({ kind: "text", text, quoted: true });
      text = "";
    };
    for (;;) {
      const character = this.#text.charAt(this.#at);
      if (character === "") throw new Incomplete('syntax error: a " has no end');
      if (character === '"') break;
      if (character === "$") {
        flush();
        this.#variable(true);
      } else if (character === "\\" && '"\\$'.includes(this.#text.charAt(this.#at + 1))) {
        text += this.#text.charAt(this.#at + 1);
        this.#at += 2;
      } else {
        text += character;
        this.#at++;
      }
    }
    flush();
    this.#at++;
  }

  #escape(): void {
    const next = this.#text.charAt(this.#at + 1);
    if (next === "") throw new Incomplete("syntax error: nothing after a backslash");
    this.#at += 2;
    if (next === "\n") return;
    this.#endLiteral();
    this.#push({ kind: "text", text: next, quoted: true });
  }

  #variable(quoted: boolean): void {
    const rest = this.#text.charAt(this.#at + 1);
    if (!quoted) this.#endLiteral();
    if (rest === "{") {
      const end = this.#text.indexOf("}", this.#at);
      if (end < 0) throw new Incomplete("syntax error: a ${ has no end");
      this.#push({ kind: "variable", name: this.#text.slice(this.#at + 2, end), quoted });
      this.#at = end + 1;
    } else if (rest === "?") {
      this.#push({ kind: "variable", name: "?", quoted });
      this.#at += 2;
    } else {
      let end = this.#at + 1;
      while (end < this.#text.length && NAME.test(this.#text.charAt(end))) end++;
      if (end === this.#at + 1) this.#push({ kind: "text", text: "$", quoted: true });
      else this.#push({ kind: "variable", name: this.#text.slice(this.#at + 1, end), quoted });
      this.#at = end;
    }
  }

  #push(part: Part): void {
    this.#parts ??= [];
    this.#parts.push(part);
  }

  #endLiteral(): void {
    if (this.#literal === "") return;
    this.#push({ kind: "text", text: this.#literal, quoted: false });
    this.#literal = "";
  }

  #endWord(): void {
    this.#endLiteral();
    if (this.#parts !== undefined) this.#add({ kind: "word", parts: this.#parts });
    this.#parts = undefined;
  }

  #add(token: Token): void {
    if (this.#tokens.push(token) > MAX_TOKENS)
      throw new CommandError(`a command of more than ${MAX_TOKENS} words`);
  }
}
