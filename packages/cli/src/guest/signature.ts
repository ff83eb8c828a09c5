import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { UserError } from "../user-error.ts";
import { findProgram, runCommand } from "./command.ts";

/** The keys of Debian's archive, where Debian, Ubuntu, Fedora and Arch Linux install them. */
export const archiveKeyrings: readonly string[] = [
  "/usr/share/keyrings/debian-archive-keyring.gpg",
  "/usr/share/keyring/debian-archive-keyring.gpg",
];

/** What a signature is checked with. */
export interface SignatureCheck {
  readonly gpgv: string;
  readonly keyring: string;
}

/** The program and the keys, or the sentence that says which of them is missing. */
export function findSignatureCheck(keyring?: string): SignatureCheck | string {
  const gpgv = findProgram("gpgv");
  if (keyring !== undefined && !existsSync(keyring))
    throw new UserError(
      `--keyring ${keyring}: there is no such file. Name a file with the archive's public keys.`,
    );
  const keys = keyring ?? archiveKeyrings.find((path) => existsSync(path));
  if (gpgv === undefined) return "there is no gpgv here (package gpgv or gnupg)";
  if (keys === undefined)
    return "the keys of Debian's archive are not here (package debian-archive-keyring; or --keyring FILE)";
  return { gpgv, keyring: keys };
}

/** The text that a key of the keyring has signed. Throws a UserError unless there is a good signature and no bad one. */
export async function verifiedText(file: Uint8Array, { gpgv, keyring }: SignatureCheck): Promise<string> {
  const folder = mkdtempSync(join(tmpdir(), "virtio-index-"));
  try {
    const [signed, text] = [join(folder, "InRelease"), join(folder, "Release")];
    writeFileSync(signed, file);
    const { stdout } = await runCommand(gpgv, [
      "--status-fd",
      "1",
      "--keyring",
      keyring,
      "--output",
      text,
      signed,
    ]);
    const states = [...stdout.matchAll(/^\[GNUPG:\] (\S+)/gm)].map(([, state]) => state);
    // An archive signs with old and new keys; one that is not known here is no reason to distrust the other.
    if (!states.includes("GOODSIG") || !states.includes("VALIDSIG") || states.includes("BADSIG")) {
      const why = states.includes("BADSIG")
        ? "it was changed after it was signed"
        : states.includes("NO_PUBKEY")
          ? `it is signed by none of the keys in ${keyring}`
          : "it has no good signature";
      throw new UserError(`the mirror's InRelease is not trusted: ${why}`);
    }
    return readFileSync(text, "utf8");
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
