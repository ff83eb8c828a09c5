import { describe, expect, test } from "vitest";
import { clause, notApplicable, parseTitle } from "../src/clause.ts";
import { loadClauses } from "../src/oracles.ts";
import { clauseReport, formatReport, readOutcomes, type TestOutcome } from "../src/report.ts";

const outcome = (status: string, ...titles: string[]): TestOutcome => ({
  titles,
  passed: status === "passed",
  failed: status === "failed",
});

describe("clause titles", () => {
  test("carry the ids in front and are read back", () => {
    const title = clause(["dev.blk.operation", "drv.core.vq-reenable"], "does [this]");
    expect(title).toBe("[dev.blk.operation drv.core.vq-reenable] does [this]");
    expect(parseTitle(title)).toEqual({
      ids: ["dev.blk.operation", "drv.core.vq-reenable"],
      applicable: true,
      text: "does [this]",
    });
    expect(parseTitle(notApplicable("dev.net.ipsec", "not offered"))).toEqual({
      ids: ["dev.net.ipsec"],
      applicable: false,
      text: "not offered",
    });
    expect(parseTitle("[dev] no ids")).toBeUndefined();
  });

  test("of every clause are read back", () => {
    for (const { id } of loadClauses()) expect(parseTitle(clause(id, "x"))?.ids).toEqual([id]);
  });

  test("with an unknown id throw", () => {
    expect(() => clause("dev.blk.nonsense", "x")).toThrow(/no clause "dev.blk.nonsense"/);
    expect(() => notApplicable(["dev.blk.init", ""], "x")).toThrow(/no clause ""/);
  });
});

describe("the clause report", () => {
  test("starts with everything open", () => {
    const report = clauseReport([]);
    expect(report.total).toBe(308);
    expect(report.held).toEqual([]);
    expect(report.open.length + report.notApplicable.size).toBe(308);
  });

  test("counts a clause only when a test naming it passed and none failed", () => {
    const report = clauseReport([
      outcome("passed", "group", clause("dev.blk.init", "a")),
      outcome("passed", clause("drv.blk.init", "in a group"), "test"),
      outcome("skipped", clause("dev.blk.operation", "b")),
      outcome("passed", clause("drv.blk.operation", "c")),
      outcome("failed", clause("drv.blk.operation", "d")),
      outcome("passed", notApplicable("dev.net.ipsec", "IPSEC is not offered")),
    ]);
    expect(report.held).toEqual(["drv.blk.init", "dev.blk.init"]);
    expect(report.open).toContain("dev.blk.operation");
    expect(report.open).toContain("drv.blk.operation");
    expect(report.notApplicable.get("dev.net.ipsec")).toBe("IPSEC is not offered");
    expect(report.problems).toEqual([]);
    expect(formatReport(report)).toContain("308; held 2");
    expect(formatReport(report)).toContain("dev.net.ipsec: IPSEC is not offered");
  });

  test("fails on unknown ids and on contradictions", () => {
    const report = clauseReport([
      outcome("passed", "[dev.blk.nonsense] x"),
      outcome("passed", clause("dev.net.ipsec", "held")),
      outcome("passed", notApplicable("dev.net.ipsec", "not offered")),
    ]);
    expect(report.problems).toHaveLength(2);
    expect(formatReport(report)).toMatch(/ERROR unknown clause dev\.blk\.nonsense/);
  });

  test("reads the runner's JSON output, and refuses anything else", () => {
    const json = {
      testResults: [{ assertionResults: [{ ancestorTitles: ["a"], title: "b", status: "passed" }] }],
    };
    expect(readOutcomes(json)).toEqual([{ titles: ["a", "b"], passed: true, failed: false }]);
    for (const bad of [
      undefined,
      3,
      {},
      { testResults: 1 },
      { testResults: [{}] },
      { testResults: [{ assertionResults: [{}] }] },
    ]) {
      expect(() => readOutcomes(bad)).toThrow();
    }
  });
});
