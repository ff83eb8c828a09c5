// Whoever compiles this file from source needs the declaration too.
// oxlint-disable-next-line typescript/triple-slash-reference
/// <reference path="./node-modules.d.ts" />
/** The only file of this package that needs Node.js. */
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";

/** v86's WebAssembly file, out of the installed `v86` package. */
export async function readV86Wasm(): Promise<Uint8Array> {
  return await readFile(createRequire(import.meta.url).resolve("v86/build/v86.wasm"));
}
