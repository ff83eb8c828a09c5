export { clause, notApplicable } from "./clause.ts";
