import { readFileSync } from "node:fs";
import { join } from "node:path";

import { packageFolder } from "../paths.ts";
import { messageOf, UserError } from "../user-error.ts";
import { guestSource } from "./architectures.ts";
import { readCpio } from "./cpio-reader.ts";
import { syscallProgram } from "./syscall-program.ts";

/**
 * Throws a UserError unless the host's end of the agent (`boot/agent.ts`) finds its other end in this initial root file system.
 * The two speak a protocol of their own that may change with every version, so an initrd is ours when its first process and
 * the program that does system calls are those of this version, byte for byte. What else is in it is the user's business.
 */
export function checkOwnInitrd(image: Uint8Array, path: string, home: string): void {
  const why = notOurs(image);
  if (why === undefined) return;
  const ours = join(home, guestSource("i386").folder, "initrd");
  throw new UserError(
    `--run with --initrd ${path}: the command is given to our guest's init, and ${why}. ` +
      `Take ${ours} (virtio setup makes it), or add to it, or leave --run away`,
  );
}

function notOurs(image: Uint8Array): string | undefined {
  let entries: Map<string, Uint8Array>;
  try {
    entries = readCpio(image);
  } catch (error) {
    return messageOf(error);
  }
  const needed: [string, Uint8Array][] = [
    ["init", readFileSync(join(packageFolder, "guest/init"))],
    ["sbin/syscalls", syscallProgram()],
  ];
  for (const [name, ours] of needed) {
    const found = entries.get(name);
    // A link in the place of a file has the name of its target as data, which is never the same.
    if (found === undefined) return `it has no ${name}`;
    if (Buffer.compare(found, ours) !== 0) return `its ${name} is not ours of this version`;
  }
  return undefined;
}
