import { loadClauses } from "./oracles.ts";

/**
 * Test titles that say which clauses of the specification a test holds:
 *
 * ```ts
 * test(clause("dev.blk.operation", "an unknown request type ends in UNSUPP"), () => …);
 * test(clause(["dev.split.desc", "drv.split.indirect"], "a looping chain is a fault"), () => …);
 * ```
 *
 * A clause of something that is not offered gets a test that proves so:
 *
 * ```ts
 * test(notApplicable("dev.net.ipsec", "VIRTIO_NET_F_IPSEC is not offered"), () => expect(…));
 * ```
 *
 * Tests run in workers, so nothing is counted here: the titles carry the ids, and `report-cli` reads them from the
 * runner's JSON output after the run (see `report.ts`).
 */

let known: ReadonlySet<string> | undefined;

/** A test title for one or more clauses. Throws on an id that the specification does not have. */
export function clause(ids: string | readonly string[], title: string): string {
  const list = typeof ids === "string" ? [ids] : ids;
  list.forEach(check);
  return `[${list.join(" ")}] ${title}`;
}

/** A test title for clauses that cannot apply: the test shows why. Throws on an unknown id. */
export function notApplicable(ids: string | readonly string[], reason: string): string {
  const list = typeof ids === "string" ? [ids] : ids;
  list.forEach(check);
  return `[n/a ${list.join(" ")}] ${reason}`;
}

/** What a title names, or undefined when it has no ids in front. */
export function parseTitle(title: string): { ids: string[]; applicable: boolean; text: string } | undefined {
  const match = /^\[(n\/a )?((?:dev|drv)\.[a-z0-9.-]+(?: (?:dev|drv)\.[a-z0-9.-]+)*)\] (.*)$/s.exec(title);
  if (match === null) return undefined;
  const [, marker, ids = "", text = ""] = match;
  return { ids: ids.split(" "), applicable: marker === undefined, text };
}

function check(id: string): void {
  known ??= new Set(loadClauses().map((record) => record.id));
  if (!known.has(id)) throw new Error(`no clause "${id}" in packages/testkit/oracles/clauses.json`);
}
