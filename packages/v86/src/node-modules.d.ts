/** The little of Node.js that `node.ts` uses, so that the package compiles without Node's types. */
declare module "node:fs/promises" {
  export function readFile(path: string): Promise<Uint8Array<ArrayBuffer>>;
}
declare module "node:module" {
  export function createRequire(url: string): { resolve(name: string): string };
}
interface ImportMeta {
  readonly url: string;
}
