#!/usr/bin/env node
/**
 * Writes packages/virtio/src/spec/sections.ts: for each normative clause the number and the titles of the section it stands
 * in. Facts only, taken from the headings of the specification's TeX.
 *
 *   node scripts/spec-sections.mjs GIT-DIRECTORY [TAG]
 *
 * GIT-DIRECTORY is a clone of oasis-tcs/virtio-spec. LaTeX numbers a heading by how many of its level came before in its
 * parent; the specification numbers all levels down to subparagraph, normative headings too ("Driver Requirements: …").
 */
import { execFileSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";

const [directory, tag = "v1.4-cs01"] = process.argv.slice(2);
if (directory === undefined) {
  console.error("usage: node scripts/spec-sections.mjs GIT-DIRECTORY [TAG]");
  process.exit(1);
}
const LEVELS = ["chapter", "section", "subsection", "subsubsection", "paragraph", "subparagraph"];
const TARGET = new URL("../packages/virtio/src/spec/sections.ts", import.meta.url);
const CLAUSES = new URL("../packages/testkit/oracles/clauses.json", import.meta.url);

/** The text of a file of the tag, without comments, with the files it includes in their places. */
function text(file) {
  const source = execFileSync("git", ["-C", directory, "show", `${tag}:${file}`], { encoding: "utf8" });
  return source
    .replace(/(?<!\\)%.*$/gm, "")
    .replace(/\\input\{\s*([^}\s]+?)(?:\.tex)?\s*\}/g, (_, name) => text(`${name}.tex`));
}

/** What stands in the braces that open at `at`, and where they end. */
function braces(source, at) {
  let depth = 0;
  for (let i = at; i < source.length; i++) {
    if (source[i] === "{") depth++;
    if (source[i] === "}" && --depth === 0) return { inside: source.slice(at + 1, i), end: i + 1 };
  }
  throw new Error(`a heading without an end: ${source.slice(at, at + 60)}`);
}

/** A title as a reader sees it. */
function plain(title) {
  return title
    .replace(/\\(?:field|textit|textbf|texttt|em)\b\s*/g, "")
    .replace(/\\label\{[^}]*\}/g, "")
    .replace(/[{}\\]/g, "")
    .replace(/\s+/g, " ")
    .trim();
}

const counts = LEVELS.map(() => 0);
/** Titles of the headings that enclose the place, by level. */
const titles = [];

function heading(level, title) {
  counts[level]++;
  counts.fill(0, level + 1);
  titles.length = level;
  titles[level] = title;
  return counts.slice(0, level + 1).join(".");
}

/** By role and label: "device Basic Facilities …". */
const found = new Map();
const whole = text("main.tex").split("\\appendix")[0].split("\\begin{document}").at(-1);
const HEADING =
  /\\(?:(driver|device)normative\s*\{\\(\w+)\*?\}\s*(?=\{)|(chapter|(?:sub)*section|(?:sub)?paragraph)(?=\{))/g;
for (let match = HEADING.exec(whole); match !== null; match = HEADING.exec(whole)) {
  const [, role, of, own] = match;
  const level = LEVELS.indexOf(of ?? own);
  const title = braces(whole, HEADING.lastIndex);
  HEADING.lastIndex = title.end;
  if (role === undefined) {
    heading(level, plain(title.inside));
    continue;
  }
  const around = titles.slice(0, level);
  const number = heading(level, plain(title.inside));
  const label = braces(whole, whole.indexOf("{", title.end));
  // Under a heading that has another title of its own, that one belongs to the path.
  const path = around.at(-1) === titles[level] || around.length === 0 ? around : [...around, titles[level]];
  found.set(
    `${role} ${label.inside.replace(/\s+/g, " ").trim()}`,
    `${number} ${path.length > 0 ? path.join(" / ") : titles[level]}`,
  );
}

const clauses = JSON.parse(readFileSync(CLAUSES, "utf8")).clauses;
const lines = clauses.map(({ id, role, label }) => {
  const section = found.get(`${role} ${label.replace(/\s+/g, " ").trim()}`);
  if (section === undefined) throw new Error(`${id}: no heading for ${role} "${label}"`);
  return `  ${JSON.stringify(id)}: ${JSON.stringify(section)},`;
});
writeFileSync(
  TARGET,
  `/**
 * Where each normative clause stands in OASIS VIRTIO (tag ${tag}): number and titles of its section. Written by
 * scripts/spec-sections.mjs; only logs and commands load it.
 */
// prettier-ignore
const SECTIONS: Readonly<Record<string, string>> = {
${lines.join("\n")}
};

/** "4.2.2.2 Virtio Transport Options / Virtio Over MMIO / MMIO Device Register Layout"; undefined for what is no clause. */
export function sectionOf(clause: string): string | undefined {
  return Object.hasOwn(SECTIONS, clause) ? SECTIONS[clause] : undefined;
}
`,
);
