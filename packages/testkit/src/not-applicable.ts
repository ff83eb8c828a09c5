/**
 * Clauses that this implementation never has to meet, by id or by prefix, with the reason. What is only not built yet
 * is not listed here: it is open. Where a test can show the reason, use `notApplicable` of `clause.ts` instead.
 */
export const NOT_APPLICABLE: Readonly<Record<string, string>> = {};
