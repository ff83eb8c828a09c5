/**
 * A conformance suite is a list of cases, so that any test runner and any implementation can use it:
 *
 * ```ts
 * for (const { clauses, title, run } of deviceQueueCases(createMyQueue)) test(clause(clauses, title), run);
 * ```
 */
export interface ConformanceCase {
  /** Ids of the clauses it holds. */
  readonly clauses: readonly string[];
  readonly title: string;
  /** Throws when the implementation is at fault. */
  readonly run: () => void | Promise<void>;
}
