import { parseArguments } from "../options/arguments.ts";
import { row } from "../options/help.ts";
import type { OptionSpec } from "../options/table.ts";
import { homeFolder } from "../paths.ts";
import { UserError } from "../user-error.ts";
import { guestArchitectures } from "./architectures.ts";
import { mirrorUrl, type MirrorOptions } from "./mirror.ts";
import { guestAssets, mirrorOf, setupArchitectures } from "./setup.ts";

const options: readonly OptionSpec[] = [
  {
    group: "session",
    name: "mirror",
    value: "URL",
    help: "fetch from this Debian mirror, without apt: the folder with dists and pool (or VIRTIO_MIRROR)",
  },
  {
    group: "session",
    name: "keyring",
    value: "FILE",
    help: "public keys that the mirror's index must be signed with (default: Debian's, where they are installed)",
  },
  { group: "session", name: "help", help: "this text" },
];

const usage = `Usage: virtio setup [OPTION]\u2026 [${guestArchitectures.join("|")}]\u2026

Fetches the guest kernel and busybox of Debian and makes the sample disk, as the first boot does; or, with
architectures, guests for QEMU. Nothing is installed. Packages come through apt from the system's sources, else from a mirror:
its index is checked with gpgv and the archive's keys; where these are missing only packages with known hashes are taken.

${options.map(({ name, value, help }) => row(`--${name}${value === undefined ? "" : ` ${value}`}`, help)).join("")}`;

/** Runs `virtio setup`; gives its exit status. */
export async function setupCommand(argv: readonly string[]): Promise<number> {
  const first = argv.findIndex((word, index) => !word.startsWith("-") && !takesValue(argv[index - 1]));
  const words = first < 0 ? [] : argv.slice(first);
  const given = parseArguments(first < 0 ? argv : argv.slice(0, first), options);
  if (given.some(({ name }) => name === "help")) {
    process.stdout.write(usage);
    return 0;
  }
  const value = (name: string): string | undefined => given.find((option) => option.name === name)?.value;
  const mirror = mirrorFrom(value("mirror"), value("keyring"));
  const home = homeFolder();
  if (words.length > 0) {
    process.stdout.write(await setupArchitectures(home, words, mirror));
    return 0;
  }
  const { sampleFiles } = await import("./sample.ts");
  const { release } = await guestAssets(home, mirror);
  const { disk } = await sampleFiles(home);
  process.stdout.write(`Guest kernel ${release} in ${home}${disk === undefined ? ", no sample disk" : ""}\n`);
  return 0;
}

function takesValue(word: string | undefined): boolean {
  return options.some(
    ({ name, value }) => value !== undefined && (word === `--${name}` || word === `-${name}`),
  );
}

function mirrorFrom(url: string | undefined, keyring: string | undefined): MirrorOptions | undefined {
  const mirror = url === undefined ? mirrorOf(process.env) : { url: mirrorUrl(url) };
  if (mirror === undefined && keyring !== undefined) throw new UserError("--keyring needs --mirror URL");
  return mirror === undefined || keyring === undefined ? mirror : { ...mirror, keyring };
}
