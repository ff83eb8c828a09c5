import { existsSync } from "node:fs";
import { delimiter, join } from "node:path";

/**
 * Tests that need a program of the system say so in their title, so that whoever reads the list of skipped tests sees
 * what to install:
 *
 *     const chromium = findProgram("chromium");
 *     test.skipIf(chromium === undefined)(needs("chromium", "chromium", "boots in a page"), …)
 */

/** The path of a program, also of those that only root has in PATH; undefined when it is not installed. */
export function findProgram(name: string): string | undefined {
  const folders = [...(process.env["PATH"] ?? "").split(delimiter), "/usr/sbin", "/sbin"];
  return folders.map((folder) => join(folder, name)).find((path) => existsSync(path));
}

/** A test title that says what it needs; `debianPackage` is the package that has the program. */
export function needs(program: string, debianPackage: string, title: string): string {
  return `${title} (needs ${program}: apt-get install ${debianPackage})`;
}
