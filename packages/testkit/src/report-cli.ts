import { readFileSync } from "node:fs";
import { clauseReport, formatReport, readOutcomes } from "./report.ts";

const [path] = process.argv.slice(2);
if (path === undefined) {
  console.error("usage: node packages/testkit/dist/report-cli.js VITEST_JSON (see report.ts)");
  process.exitCode = 2;
} else {
  const report = clauseReport(readOutcomes(JSON.parse(readFileSync(path, "utf8"))));
  console.log(formatReport(report));
  if (report.problems.length > 0) process.exitCode = 1;
}
