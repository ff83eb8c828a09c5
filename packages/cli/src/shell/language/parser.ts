import { CommandError } from "../errors.ts";
import { Incomplete, tokenize, type Operator, type Part, type Token } from "./lexer.ts";

export type Word = readonly Part[];

/** A command as it is run. */
export type Command =
  | { readonly kind: "simple"; readonly words: readonly Word[] }
  | { readonly kind: "if"; readonly branches: readonly Branch[]; readonly otherwise?: List }
  | { readonly kind: "while"; readonly until: boolean; readonly condition: List; readonly body: List }
  | { readonly kind: "for"; readonly name: string; readonly words: readonly Word[]; readonly body: List };

interface Branch {
  readonly condition: List;
  readonly body: List;
}

/** Commands one after the other, each with what stands before it. */
export type List = readonly { readonly command: Command; readonly after: Operator }[];

/** Blocks within blocks. */
const MAX_DEPTH = 32;

/** Reads commands. Throws an Incomplete when more lines are needed, and a CommandError when it is none. */
export function parse(text: string): List {
  return new Parser(tokenize(text)).all();
}

class Parser {
  readonly #tokens: readonly Token[];
  #at = 0;
  #depth = 0;

  constructor(tokens: readonly Token[]) {
    this.#tokens = tokens;
  }

  all(): List {
    const list = this.#list([]);
    const token = this.#tokens[this.#at];
    if (token !== undefined) throw new CommandError(`syntax error: "${textOf(token)}" is not expected here`);
    return list;
  }

  /** Until one of the words that end it, which is not taken. */
  #list(ends: readonly string[]): List {
    const list: { command: Command; after: Operator }[] = [];
    let after: Operator = ";";
    for (;;) {
      const token = this.#tokens[this.#at];
      if (token === undefined) {
        if (after !== ";") throw new Incomplete(`syntax error: nothing after "${after}"`);
        if (ends.length > 0) throw new Incomplete(`syntax error: "${ends.join('" or "')}" is missing`);
        return list;
      }
      if (token.kind === "operator") {
        if (token.text !== ";") throw new CommandError(`syntax error: nothing before "${token.text}"`);
        this.#at++;
        continue;
      }
      if (after === ";" && ends.includes(keyword(token) ?? "")) return list;
      list.push({ command: this.#command(), after });
      const next = this.#tokens[this.#at];
      after = ";";
      if (next?.kind !== "operator") continue;
      after = next.text;
      this.#at++;
      while (after !== ";" && this.#isSeparator()) this.#at++;
    }
  }

  #isSeparator(): boolean {
    const token = this.#tokens[this.#at];
    return token?.kind === "operator" && token.text === ";";
  }

  #command(): Command {
    if (++this.#depth > MAX_DEPTH) throw new CommandError(`more than ${MAX_DEPTH} blocks within each other`);
    try {
      const token = this.#tokens[this.#at];
      const word = token === undefined ? undefined : keyword(token);
      if (word === "if") return this.#if();
      if (word === "for") return this.#for();
      if (word === "while" || word === "until") return this.#while(word === "until");
      if (["then", "elif", "else", "fi", "do", "done"].includes(word ?? ""))
        throw new CommandError(`syntax error: "${word}" is not expected here`);
      return { kind: "simple", words: this.#words() };
    } finally {
      this.#depth--;
    }
  }

  #words(): Word[] {
    const words: Word[] = [];
    for (let token = this.#tokens[this.#at]; token?.kind === "word"; token = this.#tokens[++this.#at])
      words.push(token.parts);
    return words;
  }

  #if(): Command {
    const branches: Branch[] = [];
    do {
      this.#at++;
      const condition = this.#list(["then"]);
      this.#at++;
      branches.push({ condition, body: this.#list(["elif", "else", "fi"]) });
    } while (this.#next() === "elif");
    if (this.#next() === "fi") {
      this.#at++;
      return { kind: "if", branches };
    }
    this.#at++;
    const otherwise = this.#list(["fi"]);
    this.#at++;
    return { kind: "if", branches, otherwise };
  }

  #while(until: boolean): Command {
    this.#at++;
    const condition = this.#list(["do"]);
    this.#at++;
    const body = this.#list(["done"]);
    this.#at++;
    return { kind: "while", until, condition, body };
  }

  #for(): Command {
    this.#at++;
    const token = this.#tokens[this.#at++];
    if (token === undefined) throw new Incomplete("syntax error: nothing after for");
    const name = keyword(token);
    if (name === undefined || !/^[A-Za-z_]\w*$/.test(name))
      throw new CommandError(`syntax error: "${textOf(token)}" is no name for a variable`);
    if (this.#next() !== "in") {
      if (this.#tokens[this.#at] === undefined)
        throw new Incomplete(`syntax error: nothing after for ${name}`);
      throw new CommandError(`syntax error: for ${name} needs in`);
    }
    this.#at++;
    const words = this.#words();
    while (this.#isSeparator()) this.#at++;
    if (this.#tokens[this.#at] === undefined) throw new Incomplete("syntax error: for needs do");
    if (this.#next() !== "do") throw new CommandError("syntax error: for needs do");
    this.#at++;
    const body = this.#list(["done"]);
    this.#at++;
    return { kind: "for", name, words, body };
  }

  #next(): string | undefined {
    const token = this.#tokens[this.#at];
    return token === undefined ? undefined : keyword(token);
  }
}

/** The word when it is plain text: quotes make it an ordinary word. */
function keyword(token: Token): string | undefined {
  if (token.kind === "operator") return undefined;
  const [part, other] = token.parts;
  return part?.kind === "text" && !part.quoted && other === undefined ? part.text : undefined;
}

function textOf(token: Token): string {
  if (token.kind === "operator") return token.text;
  return token.parts.map((part) => (part.kind === "text" ? part.text : `\${${part.name}}`)).join("");
}
