/**
 * What of a package takes options, read from its sources: so that a test can see that none of them is forgotten.
 *
 * Counted are constructors and static functions of all exported classes, methods that take an `options` or `…Options`, and such
 * functions of the package's root; of these, every number, bigint, boolean, word of a few and text. Errors are not counted, and
 * objects that the callee calls are not followed.
 */
import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import ts from "typescript";

export type OptionKind = "number" | "bits" | "flag" | "word" | "text";

/** `new BlkDevice(options.queueSize)`, `BlkDriver.open(options.depth)`, `virtioMmio(options.version)`, and what each takes. */
export type OptionSurface = ReadonlyMap<string, ReadonlySet<OptionKind>>;

const PACKAGES = fileURLToPath(new URL("../../", import.meta.url));
const OPTIONS = /Options$/;
/** The first of `exports` is the package itself. */
const ROOT = 0;
/** Records in records: deeper there are no options. */
const DEPTH = 4;

/** Only what the checker wants to know of JavaScript's own types: with the whole library it would take ten times as long. */
const GLOBALS = `
interface Array<T> { [index: number]: T } interface ReadonlyArray<T> { readonly [index: number]: T }
interface Promise<T> { then(done: (value: T) => void): void }
interface Object {} interface Function {} interface CallableFunction {} interface NewableFunction {} interface IArguments {}
interface Uint8Array {} interface ArrayBuffer {} interface SharedArrayBuffer {} interface DataView {}
interface Map<K, V> { get(key: K): V } interface ReadonlyMap<K, V> { get(key: K): V } interface Set<T> { has(value: T): boolean }
interface String {} interface Number {} interface Boolean {} interface RegExp {}
declare class Error { constructor(message?: string) } declare class RangeError extends Error {} declare class TypeError extends Error {}
type Partial<T> = { [P in keyof T]?: T[P] }; type Required<T> = { [P in keyof T]-?: T[P] };
type Readonly<T> = { readonly [P in keyof T]: T[P] }; type Pick<T, K extends keyof T> = { [P in K]: T[P] };
type Exclude<T, U> = T extends U ? never : T; type Omit<T, K extends keyof any> = Pick<T, Exclude<keyof T, K>>;
type Record<K extends keyof any, T> = { [P in K]: T }; type NonNullable<T> = T & {};
`;

/** The options of a package, by the name of its folder. Modules that `exports` in its package.json names are looked at. */
export function optionSurface(folder: string): OptionSurface {
  const files = exportedModules(folder);
  const program = ts.createProgram(files, compilerOptions(), compilerHost());
  const checker = program.getTypeChecker();
  const surface = new Map<string, Set<OptionKind>>();
  for (const [at, file] of files.entries()) {
    const source = program.getSourceFile(file);
    const module = source === undefined ? undefined : checker.getSymbolAtLocation(source);
    if (module === undefined) throw new Error(`${file} is no module`);
    for (const symbol of checker.getExportsOfModule(module)) {
      const declaration = resolved(checker, symbol).valueDeclaration;
      if (declaration === undefined) continue;
      if (ts.isClassDeclaration(declaration)) collectClass(checker, symbol.name, declaration, surface);
      else if (at === ROOT && ts.isFunctionDeclaration(declaration))
        addParameters(checker, symbol.name, declaration.parameters.filter(isOptions), surface);
    }
  }
  return surface;
}

function exportedModules(folder: string): string[] {
  const root = join(PACKAGES, folder);
  const { exports } = JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as {
    exports: Record<string, { readonly source?: string; readonly types?: string } | string>;
  };
  // What has no types is there for the other packages' own tests.
  return Object.values(exports).flatMap((entry) =>
    typeof entry === "object" && entry.types !== undefined && entry.source !== undefined
      ? [join(root, entry.source)]
      : [],
  );
}

function compilerOptions(): ts.CompilerOptions {
  return {
    noEmit: true,
    strict: true,
    types: [],
    target: ts.ScriptTarget.ES2023,
    module: ts.ModuleKind.NodeNext,
    moduleResolution: ts.ModuleResolutionKind.NodeNext,
    allowImportingTsExtensions: true,
    customConditions: ["source"],
  };
}

/** Reads the sources of this project, and of everything else (Node.js, dependencies) nothing. */
function compilerHost(): ts.CompilerHost {
  const host = ts.createCompilerHost(compilerOptions());
  const library = host.getDefaultLibFileName(compilerOptions());
  const readSource = host.getSourceFile.bind(host);
  host.getSourceFile = (name, version, onError) => {
    if (name === library || dirname(name) === dirname(library))
      return ts.createSourceFile(name, name === library ? GLOBALS : "", version);
    const foreign = name.includes("/node_modules/");
    return foreign ? ts.createSourceFile(name, "export {};", version) : readSource(name, version, onError);
  };
  return host;
}

function resolved(checker: ts.TypeChecker, symbol: ts.Symbol): ts.Symbol {
  return (symbol.flags & ts.SymbolFlags.Alias) === 0 ? symbol : checker.getAliasedSymbol(symbol);
}

function collectClass(
  checker: ts.TypeChecker,
  name: string,
  declaration: ts.ClassDeclaration,
  surface: Map<string, Set<OptionKind>>,
): void {
  if (isError(declaration)) return;
  for (const member of declaration.members) {
    if (hasModifier(member, ts.SyntaxKind.PrivateKeyword)) continue;
    if (ts.isConstructorDeclaration(member))
      addParameters(checker, `new ${name}`, member.parameters, surface);
    if (!ts.isMethodDeclaration(member) || ts.isPrivateIdentifier(member.name)) continue;
    const isStatic = hasModifier(member, ts.SyntaxKind.StaticKeyword);
    const parameters = isStatic ? member.parameters : member.parameters.filter(isOptions);
    addParameters(checker, `${name}.${member.name.getText()}`, parameters, surface);
  }
}

function isOptions({ name, type }: ts.ParameterDeclaration): boolean {
  return name.getText() === "options" || (type !== undefined && /Options\b/.test(type.getText()));
}

function isError({ heritageClauses }: ts.ClassDeclaration): boolean {
  return (heritageClauses ?? []).some(({ types }) =>
    types.some((type) => type.expression.getText().endsWith("Error")),
  );
}

function hasModifier(node: ts.ClassElement, kind: ts.SyntaxKind): boolean {
  return (
    ts.canHaveModifiers(node) && (ts.getModifiers(node) ?? []).some((modifier) => modifier.kind === kind)
  );
}

function addParameters(
  checker: ts.TypeChecker,
  callee: string,
  parameters: readonly ts.ParameterDeclaration[],
  surface: Map<string, Set<OptionKind>>,
): void {
  for (const parameter of parameters) {
    const name = ts.isIdentifier(parameter.name) ? parameter.name.text : "options";
    addType(checker, name, checker.getTypeAtLocation(parameter), DEPTH, (path, kind) => {
      const key = `${callee}(${path})`;
      surface.set(key, (surface.get(key) ?? new Set()).add(kind));
    });
  }
}

function addType(
  checker: ts.TypeChecker,
  path: string,
  type: ts.Type,
  depth: number,
  add: (path: string, kind: OptionKind) => void,
): void {
  const { flags } = type;
  if (type.isUnion()) for (const part of type.types) addType(checker, path, part, depth, add);
  else if ((flags & ts.TypeFlags.NumberLike) !== 0) add(path, "number");
  else if ((flags & ts.TypeFlags.BigIntLike) !== 0) add(path, "bits");
  else if ((flags & ts.TypeFlags.BooleanLike) !== 0) add(path, "flag");
  else if ((flags & ts.TypeFlags.StringLiteral) !== 0) add(path, "word");
  else if ((flags & ts.TypeFlags.String) !== 0) add(path, "text");
  else if (depth === 0) return;
  else if (checker.isArrayType(type)) {
    const [element] = checker.getTypeArguments(type as ts.TypeReference);
    if (element !== undefined) addType(checker, `${path}[]`, element, depth - 1, add);
  } else if (isData(type)) {
    for (const property of checker.getPropertiesOfType(type))
      addType(checker, `${path}.${property.name}`, checker.getTypeOfSymbol(property), depth - 1, add);
  }
}

/** A record, and not an object with a life of its own: what has methods is called, and no option. */
function isData(type: ts.Type): boolean {
  if (type.isIntersection()) return type.types.every(isData);
  const declaration = type.symbol?.declarations?.[0];
  if (declaration === undefined || type.getCallSignatures().length > 0) return false;
  if (ts.isInterfaceDeclaration(declaration))
    return (
      OPTIONS.test(declaration.name.text) ||
      !declaration.members.some((member) => ts.isMethodSignature(member))
    );
  return ts.isTypeLiteralNode(declaration) || ts.isMappedTypeNode(declaration);
}
