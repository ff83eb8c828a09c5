/** One line of a package source that apt knows. */
export interface AptSource {
  readonly uri: string;
  readonly suite: string;
  readonly components: readonly string[];
  /** `signed-by`, `trusted` and others that say how the source is reached and trusted; all that follows the colon. */
  readonly options: ReadonlyMap<string, string>;
}

/** Suites of Debian that have a "bookworm" beside them on the same server. */
const debianSuite =
  /^(bullseye|bookworm|trixie|forky|duke|sid|unstable|testing|stable|oldstable|oldoldstable)(-security|-updates)?$/;

/** Options that choose packages; the others say how a source is trusted and reached, and are kept. */
const droppedOptions = new Set([
  "arch",
  "architectures",
  "lang",
  "languages",
  "target",
  "targets",
  "by-hash",
]);

/** Parses the one-line format of `sources.list`. Lines that are no `deb` source are left out. */
export function parseOneLine(text: string): AptSource[] {
  const sources: AptSource[] = [];
  for (const raw of text.split("\n")) {
    const match = /^\s*deb\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+(\S+)\s*([^#]*)/.exec(raw);
    if (!match?.[2] || !match[3]) continue;
    const options = new Map<string, string>();
    for (const word of (match[1] ?? "").split(/\s+/).filter(Boolean)) {
      const equals = word.indexOf("=");
      if (equals > 0) options.set(word.slice(0, equals).toLowerCase(), ` ${word.slice(equals + 1)}`);
    }
    sources.push({ uri: match[2], suite: match[3], components: words(match[4] ?? ""), options });
  }
  return sources;
}

/** Parses the deb822 format of `*.sources`. An embedded key in `Signed-By` is kept as its lines. */
export function parseDeb822(text: string): AptSource[] {
  const sources: AptSource[] = [];
  for (const stanza of text.split(/\n[ \t]*\n/)) {
    const fields = stanzaFields(stanza);
    if (fields.get("enabled")?.trim().toLowerCase() === "no") continue;
    if (!words(fields.get("types") ?? "").includes("deb")) continue;
    const options = new Map<string, string>();
    for (const [name, value] of fields) {
      if (!["types", "uris", "suites", "components", "enabled"].includes(name) && !name.startsWith("x-")) {
        // An embedded key starts on the line after its field's name and stays there.
        options.set(name, value.includes("\n") ? value : ` ${value.trim()}`);
      }
    }
    for (const uri of words(fields.get("uris") ?? "")) {
      for (const suite of words(fields.get("suites") ?? "")) {
        sources.push({ uri, suite, components: words(fields.get("components") ?? ""), options });
      }
    }
  }
  return sources;
}

function stanzaFields(stanza: string): Map<string, string> {
  const fields = new Map<string, string>();
  let current = "";
  for (const line of stanza.split("\n")) {
    if (line.startsWith("#")) continue;
    if (/^[ \t]/.test(line)) {
      if (current) fields.set(current, `${fields.get(current) ?? ""}\n${line}`);
      continue;
    }
    const colon = line.indexOf(":");
    if (colon <= 0) continue;
    current = line.slice(0, colon).trim().toLowerCase();
    fields.set(current, line.slice(colon + 1));
  }
  return fields;
}

/**
 * The sources of `suite` ("bookworm") that follow from the system's: each Debian source that carries `main` and is
 * a release, its updates or its security archive, moved to the same archive of `suite`.
 */
export function deriveSources(system: readonly AptSource[], suite: string): AptSource[] {
  const derived = new Map<string, AptSource>();
  for (const source of system) {
    const match = debianSuite.exec(source.suite.replace(/\/updates$/, "-security"));
    if (!match || !source.components.includes("main")) continue;
    const options = new Map([...source.options].filter(([name]) => !droppedOptions.has(name)));
    const moved = {
      uri: source.uri.replace(/\/+$/, ""),
      suite: `${suite}${match[2] ?? ""}`,
      components: ["main"],
      options,
    };
    const key = `${moved.uri} ${moved.suite}`;
    if (!derived.has(key)) derived.set(key, moved);
  }
  return [...derived.values()];
}

/** The sources in deb822 format, for one architecture. */
export function formatDeb822(sources: readonly AptSource[], architecture: string): string {
  return sources
    .map((source) => {
      const options = [...source.options].map(
        ([name, value]) => `${fieldNames.get(name) ?? name}:${value}\n`,
      );
      return (
        `Types: deb\nURIs: ${source.uri}\nSuites: ${source.suite}\nComponents: ${source.components.join(" ")}\n` +
        `Architectures: ${architecture}\n${options.join("")}`
      );
    })
    .join("\n");
}

/** Names that differ by more than case between the two formats. */
const fieldNames = new Map([
  ["signed-by", "Signed-By"],
  ["trusted", "Trusted"],
  ["check-valid-until", "Check-Valid-Until"],
  ["allow-insecure", "Allow-Insecure"],
  ["allow-weak", "Allow-Weak"],
]);

function words(text: string): string[] {
  return text.split(/\s+/).filter(Boolean);
}
