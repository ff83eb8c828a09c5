import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { CommandError, Exit, Interrupt } from "@virtio/cli/shell/errors";
import { runList, type Host } from "@virtio/cli/shell/language/interpreter";
import { Incomplete, MAX_COMMAND_LENGTH, tokenize } from "@virtio/cli/shell/language/lexer";
import { parse } from "@virtio/cli/shell/language/parser";

/** Runs a command line where every command is noted; `false` fails. */
async function commands(
  text: string,
  variables: Record<string, string> = {},
): Promise<{ run: string[][]; failures: string[]; status: number }> {
  const run: string[][] = [];
  const failures: string[] = [];
  let status = 0;
  const host: Host = {
    variable: (name) => (name === "?" ? String(status) : variables[name]),
    setVariable: (name, value) => void (variables[name] = value),
    run: (words) => {
      run.push([...words]);
      status = words[0] === "false" ? 1 : 0;
      return Promise.resolve(status);
    },
    failed: ({ message }) => {
      failures.push(message);
      return (status = 1);
    },
    check: () => undefined,
  };
  return { run, failures, status: await runList(parse(text), host) };
}

const wordsOf = async (text: string, variables?: Record<string, string>): Promise<string[]> =>
  (await commands(text, variables)).run[0] ?? [];

describe("words", () => {
  test("quotes, escapes and variables", async () => {
    expect(await wordsOf(`echo "a" 'b' c`)).toEqual(["echo", "a", "b", "c"]);
    expect(await wordsOf(`echo "a)" \${var} 'b)' '\${var}' c) $var`, { var: "X" })).toEqual([
      "echo",
      "a)",
      "X",
      "b)",
      "${var}",
      "c)",
      "X",
    ]);
    expect(await wordsOf(`a\\ b "" 'c;d' "e # f" # g`)).toEqual(["a b", "", "c;d", "e # f"]);
    expect(await wordsOf(`a"b"c'd'\${x}e`, { x: "1" })).toEqual(["abcd1e"]);
  });

  test("a variable outside of quotes is split at blanks, and one without value is no word", async () => {
    expect(await wordsOf("echo ${x}", { x: " 1  2 3 " })).toEqual(["echo", "1", "2", "3"]);
    expect(await wordsOf('echo "${x}"', { x: " 1  2" })).toEqual(["echo", " 1  2"]);
    expect(await wordsOf('echo ${none} "$none"')).toEqual(["echo", ""]);
    expect(await wordsOf("echo a${x}b", { x: "1 2" })).toEqual(["echo", "a1", "2b"]);
  });

  test("any words in single quotes come back", async () => {
    const word = fc.string().map((text) => text.replaceAll("'", "").replaceAll("\0", ""));
    await fc.assert(
      fc.asyncProperty(fc.array(word, { minLength: 1, maxLength: 20 }), async (words) => {
        const text = words.map((each) => `'${each}'`).join(" ");
        expect(await wordsOf(text)).toEqual(words);
      }),
    );
  });

  test("whatever is typed is a list, an unfinished one, or an error that is shown", () => {
    const piece = fc.constantFrom(
      ..."if then else elif fi for in do done while ; && || # ' \" \\ $ ${ } a b= \n".split(" "),
      " ",
      "$?",
    );
    fc.assert(
      fc.property(fc.array(fc.oneof(piece, fc.string()), { maxLength: 60 }), (pieces) => {
        try {
          parse(pieces.join(""));
        } catch (error) {
          expect(error).toBeInstanceOf(CommandError);
        }
      }),
      { numRuns: 500 },
    );
  });

  test("lines that are too long or too deep are refused", () => {
    expect(() => tokenize("a".repeat(MAX_COMMAND_LENGTH + 1))).toThrow(/characters/);
    expect(() => parse("a ".repeat(20_000))).toThrow(/words/);
    expect(() => parse("if ".repeat(5000))).toThrow(/blocks/);
  });
});

describe("lists", () => {
  test("&& and || look at the command before them", async () => {
    const names = async (text: string): Promise<string> =>
      (await commands(text)).run.map(([name]) => name).join(" ");
    expect(await names("a && b || c; d")).toBe("a b d");
    expect(await names("false && b || c; d")).toBe("false c d");
    expect(await names("false || false && c")).toBe("false false");
    expect(await names("a\nb # c; d\ne")).toBe("a b e");
    expect(await names("a &&\n b")).toBe("a b");
  });

  test("the status is that of the last command", async () => {
    expect((await commands("false; true")).status).toBe(0);
    expect((await commands("true; false")).status).toBe(1);
    expect((await commands("")).status).toBe(0);
    expect((await commands("false; echo $?")).run[1]).toEqual(["echo", "1"]);
  });

  test("if, for, while and assignments", async () => {
    expect((await commands("if false; then a; elif true; then b; else c; fi")).run).toEqual([
      ["false"],
      ["true"],
      ["b"],
    ]);
    const pairs = await commands('for i in a b c; do for j in 1 2; do echo "${i}${j}, "; done; done');
    expect(pairs.run.map((words) => words[1])).toEqual(["a1, ", "a2, ", "b1, ", "b2, ", "c1, ", "c2, "]);
    const variables: Record<string, string> = {};
    await commands("x=1; y=a$x", variables);
    expect(variables).toMatchObject({ x: "1", y: "a1" });
    expect((await commands("while false; do a; done; until true; do b; done")).run).toEqual([
      ["false"],
      ["true"],
    ]);
  });

  test("a value that doubles has an end", async () => {
    const variables: Record<string, string> = { a: "x".repeat(1 << 19) };
    const { run, failures, status } = await commands("c=$a; b=$a$a$a; echo goes on; b=$a$a$a", variables);
    expect(failures).toEqual(Array(2).fill("a value of more than 1048576 characters"));
    expect([status, run]).toEqual([1, [["echo", "goes", "on"]]]);
    expect(Object.keys(variables)).toEqual(["a", "c"]);
  });

  test("what is not finished wants more lines", () => {
    for (const text of [
      'echo "a',
      "echo 'a",
      "if true; then",
      "for i in a; do",
      "while true",
      "a &&",
      "echo ${a",
      "if",
      "for",
    ])
      expect(() => parse(text), text).toThrow(Incomplete);
    for (const text of [
      "fi",
      "then",
      "&& a",
      "a | b",
      "a &",
      "for 1 in a; do b; done",
      "for i a; do b; done",
    ])
      expect(() => parse(text), text).toThrow(CommandError);
    expect(() => parse("fi")).not.toThrow(Incomplete);
  });
});

test("the errors of the shell are told apart", () => {
  expect(new Exit(3).status).toBe(3);
  expect(new Interrupt()).not.toBeInstanceOf(CommandError);
});
