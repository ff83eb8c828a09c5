import { asQemuTakes } from "@virtio/qemu/command-line";
import { parseKeyval } from "../options/keyval.ts";

/** An option of QEMU's command line, as it was written and as it is meant. */
export interface QemuOption {
  /** Without dashes; empty for a word that is no option (QEMU takes it for a disk image). */
  readonly name: string;
  /** Empty for an option without one. */
  readonly value: string;
  /** What was written: one word or two. */
  readonly words: readonly string[];
}

/** Options that take no value. Of a name that is not known here, the next word is its value unless it starts with a dash. */
const ALONE: ReadonlySet<string> = new Set(
  (
    "h help version mem-prealloc audio-help snapshot usb nographic portrait full-screen win2k-hack no-fd-bootchk " +
    "no-acpi no-hpet singlestep one-insn-per-tb preconfig S s enable-kvm xen-attach xen-domid-restrict no-reboot " +
    "no-shutdown daemonize nodefaults nodefconfig no-user-config only-migratable async-teardown " +
    "enable-sync-profile semihosting old-param enable-fips sdl curses alt-grab ctrl-grab no-quit tdf balloon no-kvm"
  ).split(" "),
);

/** Options whose value may start with a dash, so that it is not taken for the next option. */
const TEXTS: ReadonlySet<string> = new Set(["append", "initrd", "kernel", "drive", "device", "name"]);

/** QEMU's words as options, one dash or two, in their order. */
export function readCommandLine(argv: readonly string[]): QemuOption[] {
  const options: QemuOption[] = [];
  for (let index = 0; index < argv.length; index++) {
    const word = argv[index] ?? "";
    const name = /^--?([^-].*)$/.exec(word)?.[1];
    if (name === undefined) {
      options.push({ name: "", value: word, words: [word] });
      continue;
    }
    const given = argv[index + 1];
    const next = given === undefined ? undefined : asQemuTakes(given);
    const alone = ALONE.has(name) || next === undefined || (next.startsWith("-") && !TEXTS.has(name));
    options.push({ name, value: alone ? "" : next, words: alone ? [word] : [word, next] });
    if (!alone) index++;
  }
  return options;
}

/** A new option, as it is written. */
export function option(name: string, value: string): QemuOption {
  return { name, value, words: [`-${name}`, value] };
}

/**
 * Reads the value of an option; undefined where it is not ours to understand, such as a help text that is asked for. QEMU says
 * what is wrong with it.
 */
export function tryKeyval(text: string, impliedKey: string): Map<string, string> | undefined {
  try {
    const pairs = parseKeyval(text, impliedKey);
    return pairs.has("help") || pairs.has("?") ? undefined : pairs;
  } catch {
    return undefined;
  }
}

/** Writes what `parseKeyval` reads. `first` is the key whose value stands first, without its name. */
export function formatKeyval(pairs: Iterable<readonly [string, string]>, first?: string): string {
  const escape = (value: string): string => value.replaceAll(",", ",,");
  const all = [...pairs];
  const head = all.filter(([key]) => key === first).map(([, value]) => escape(value));
  const rest = all.filter(([key]) => key !== first).map(([key, value]) => `${key}=${escape(value)}`);
  return [...head, ...rest].join(",");
}

/** Options that say what there is when their value is `help`. */
const LISTS: ReadonlySet<string> = new Set(
  "accel audiodev chardev cpu d device display machine M netdev nic object trace vga".split(" "),
);

/** Whether the command line only asks QEMU something. */
export function onlyAsks(options: readonly QemuOption[]): boolean {
  return options.some(
    ({ name, value }) =>
      ["h", "help", "version", "audio-help"].includes(name) ||
      (LISTS.has(name) && /(^|,)(help|\?)$/.test(value)),
  );
}

/** Words for a shell to take as they are. */
export function shellWords(argv: readonly string[]): string {
  return argv
    .map((word) => (/^[A-Za-z0-9_@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`))
    .join(" ");
}
