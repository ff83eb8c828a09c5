import { parseTitle } from "./clause.ts";
import { NOT_APPLICABLE } from "./not-applicable.ts";
import { loadClauses } from "./oracles.ts";

/**
 * The clause report: how many clauses of the specification the test run held. To get one:
 *
 *     npx vitest run --reporter=default --reporter=json --outputFile.json=FILE
 *     node packages/testkit/dist/report-cli.js FILE
 *
 * It prints the report, and ends with status 1 when a title names an unknown clause, when a clause is both held and
 * listed as not applicable, or when the file cannot be read. Open clauses are no failure.
 */

/** One finished test, as the runner's JSON output has it. */
export interface TestOutcome {
  /** Titles from the outermost group to the test itself. */
  readonly titles: readonly string[];
  readonly passed: boolean;
  readonly failed: boolean;
}

export interface ClauseReport {
  readonly total: number;
  /** Ids that at least one passed test names and no failed one. */
  readonly held: readonly string[];
  /** Ids with the reason. */
  readonly notApplicable: ReadonlyMap<string, string>;
  /** Ids of all others. */
  readonly open: readonly string[];
  /** What must be mended in tests or lists; makes the report fail. */
  readonly problems: readonly string[];
}

/** Reads the JSON output of vitest (the same shape as jest's). Throws when it is something else. */
export function readOutcomes(json: unknown): TestOutcome[] {
  const outcomes: TestOutcome[] = [];
  for (const file of listAt(json, "testResults")) {
    for (const test of listAt(file, "assertionResults")) {
      const { ancestorTitles, title, status } = test as Record<string, unknown>;
      if (!Array.isArray(ancestorTitles) || typeof title !== "string")
        throw new Error("no test titles in the JSON output");
      outcomes.push({
        titles: [...ancestorTitles.map(String), title],
        passed: status === "passed",
        failed: status === "failed",
      });
    }
  }
  return outcomes;
}

/** Matches the outcomes of a run with the clauses of the specification. */
export function clauseReport(outcomes: readonly TestOutcome[]): ClauseReport {
  const ids = loadClauses().map((record) => record.id);
  const passed = new Set<string>();
  const failed = new Set<string>();
  const notApplicable = listedAsNotApplicable(ids);
  const problems: string[] = [];
  for (const outcome of outcomes) {
    for (const named of outcome.titles.map(parseTitle)) {
      if (named === undefined) continue;
      for (const id of named.ids) {
        if (!ids.includes(id)) problems.push(`unknown clause ${id} in "${outcome.titles.join(" > ")}"`);
        else if (outcome.failed) failed.add(id);
        else if (outcome.passed && named.applicable) passed.add(id);
        else if (outcome.passed) notApplicable.set(id, named.text);
      }
    }
  }
  for (const id of notApplicable.keys()) {
    if (passed.has(id)) problems.push(`clause ${id} has a test, and is said not to apply`);
  }
  const held = ids.filter((id) => passed.has(id) && !failed.has(id) && !notApplicable.has(id));
  const open = ids.filter((id) => !held.includes(id) && !notApplicable.has(id));
  return { total: ids.length, held, notApplicable, open, problems };
}

/** The report as text for people. */
export function formatReport(report: ClauseReport): string {
  const lines = [
    `Clauses of the specification: ${report.total}; held ${report.held.length}, ` +
      `not applicable ${report.notApplicable.size}, open ${report.open.length}`,
  ];
  if (report.notApplicable.size > 0) lines.push("  not applicable:");
  for (const [reason, ids] of groupBy(
    [...report.notApplicable.keys()],
    (id) => report.notApplicable.get(id) ?? "",
  )) {
    lines.push(`    ${ids.join(" ")}: ${reason}`);
  }
  if (report.open.length > 0) lines.push("  open:");
  for (const [area, ids] of groupBy(report.open, (id) => id.split(".")[1] ?? "")) {
    lines.push(`    ${area}: ${ids.length} (${ids.join(" ")})`);
  }
  for (const problem of report.problems) lines.push(`  ERROR ${problem}`);
  return lines.join("\n");
}

function listedAsNotApplicable(ids: readonly string[]): Map<string, string> {
  const reasons = new Map<string, string>();
  for (const [prefix, reason] of Object.entries(NOT_APPLICABLE)) {
    for (const id of ids) if (id === prefix || id.startsWith(`${prefix}.`)) reasons.set(id, reason);
  }
  return reasons;
}

function groupBy(ids: readonly string[], key: (id: string) => string): Map<string, string[]> {
  const groups = new Map<string, string[]>();
  for (const id of ids) {
    const group = groups.get(key(id));
    if (group === undefined) groups.set(key(id), [id]);
    else group.push(id);
  }
  return groups;
}

function listAt(value: unknown, key: string): unknown[] {
  const list =
    typeof value === "object" && value !== null ? (value as Record<string, unknown>)[key] : undefined;
  if (!Array.isArray(list)) throw new Error(`no "${key}" in the JSON output of the test run`);
  return list;
}
