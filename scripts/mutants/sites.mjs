/**
 * Finds the places of a source file that can be changed, and writes the file so that each change is there and sleeps:
 * `a < b` becomes `(__mutant(7) ? a <= b : a < b)`. One text holds all mutants, so that nothing is compiled again for
 * the next one, and a run says which places it came by.
 */
import ts from "typescript";

const K = ts.SyntaxKind;

/** Each operator with the one that is tried instead. */
const OPERATORS = new Map([
  [K.EqualsEqualsEqualsToken, "!=="],
  [K.ExclamationEqualsEqualsToken, "==="],
  [K.LessThanToken, "<="],
  [K.LessThanEqualsToken, "<"],
  [K.GreaterThanToken, ">="],
  [K.GreaterThanEqualsToken, ">"],
  [K.AmpersandAmpersandToken, "||"],
  [K.BarBarToken, "&&"],
  [K.PlusToken, "-"],
  [K.MinusToken, "+"],
  [K.AmpersandToken, "|"],
  [K.BarToken, "&"],
]);

/** Says that a test came by, and whether the mutant is awake. */
const PROBE =
  "const __seen = globalThis.__mutantsSeen ?? new Uint8Array(1 << 16), __awake = globalThis.__mutantAwake ?? -1;" +
  " function __mutant(id) { __seen[id] = 1; return id === __awake; }\n";

/**
 * @param file its path, for the description of each mutant
 * @param source its text
 * @param first the number of its first mutant
 * @returns the text with all mutants asleep, and `{ id, file, line, was, becomes }` of each
 */
export function plantMutants(file, source, first) {
  const parsed = ts.createSourceFile(file, source, ts.ScriptTarget.ES2023, true);
  const mutants = [];
  const plant = (node, was, becomes) => {
    const line = parsed.getLineAndCharacterOfPosition(node.getStart(parsed)).line + 1;
    const id = first + mutants.length;
    mutants.push({ id, file, line, was: oneLine(was), becomes: oneLine(becomes) });
    return `__mutant(${id})`;
  };
  const original = (node) => node.getText(parsed);

  /** The text of a node with the mutants in it. */
  const write = (node) => {
    if (isLeftAlone(node)) return original(node);
    const text = writeChildren(node);
    if (ts.isBinaryExpression(node)) return writeBinary(node, text);
    if (node.kind === K.TrueKeyword) return `(${plant(node, "true", "false")} ? false : true)`;
    if (node.kind === K.FalseKeyword) return `(${plant(node, "false", "true")} ? true : false)`;
    if (isEffect(node)) return `{ if (!${plant(node, original(node), "nothing")}) { ${text} } }`;
    if (isCondition(node))
      return `(${plant(node, original(node), `!(${original(node)})`)} ? !(${text}) : (${text}))`;
    return text;
  };
  const writeBinary = (node, text) => {
    const becomes = OPERATORS.get(node.operatorToken.kind);
    if (becomes === undefined || isText(node)) return text;
    const [left, right] = [original(node.left), original(node.right)];
    const other = `${left} ${becomes} ${right}`;
    return `(${plant(node, original(node), other)} ? ${other} : ${text})`;
  };
  const writeChildren = (node) => {
    let at = node.getStart(parsed);
    let text = "";
    ts.forEachChild(node, (child) => {
      const start = child.getStart(parsed);
      text += source.slice(at, start) + write(child);
      at = child.end;
    });
    return text + source.slice(at, node.end);
  };

  const text = source.slice(0, parsed.getStart(parsed)) + writeChildren(parsed);
  return { text: PROBE + text, mutants };
}

/** Types do nothing, and what is only said to people need not be held by a test. */
function isLeftAlone(node) {
  return ts.isTypeNode(node) || ts.isThrowStatement(node) || ts.isImportDeclaration(node);
}

/** A statement that is there for what it does: a call or an assignment. `super()` has to be there. */
function isEffect(node) {
  if (!ts.isExpressionStatement(node)) return false;
  const { expression } = node;
  if (ts.isCallExpression(expression)) return expression.expression.kind !== K.SuperKeyword;
  if (!ts.isBinaryExpression(expression)) return false;
  const { kind } = expression.operatorToken;
  return kind >= K.FirstAssignment && kind <= K.LastAssignment;
}

/** A condition that no operator's mutant changes already. */
function isCondition(node) {
  const { parent } = node;
  if (ts.isBinaryExpression(node) || node.kind === K.TrueKeyword || node.kind === K.FalseKeyword)
    return false;
  if (ts.isIfStatement(parent)) return parent.expression === node;
  return ts.isConditionalExpression(parent) && parent.condition === node;
}

/** Strings that are put together. */
function isText({ left, right, operatorToken }) {
  if (operatorToken.kind !== K.PlusToken) return false;
  return [left, right].some((side) => ts.isStringLiteralLike(side) || ts.isTemplateExpression(side));
}

function oneLine(text) {
  const line = text.replaceAll(/\s+/g, " ");
  return line.length > 90 ? `${line.slice(0, 87)}...` : line;
}
