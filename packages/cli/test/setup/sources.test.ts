import { expect, test } from "vitest";

import { deriveSources, formatDeb822, parseDeb822, parseOneLine } from "@virtio/cli/guest/sources";

const deb822 = `# The system's
Types: deb deb-src
URIs: http://deb.debian.org/debian/
Suites: trixie trixie-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://deb.debian.org/debian-security
Suites: trixie-security
Components: main
Architectures: amd64
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc
 -----END PGP PUBLIC KEY BLOCK-----

Enabled: no
Types: deb
URIs: http://off.example/debian
Suites: trixie
Components: main

Types: deb
URIs: https://deb.nodesource.com/node_20.x
Suites: nodistro
Components: main
`;

test("a newer release's sources become bookworm's, with their keys, for main and one architecture", () => {
  const derived = deriveSources(parseDeb822(deb822), "bookworm");
  expect(derived.map(({ uri, suite }) => `${uri} ${suite}`)).toEqual([
    "http://deb.debian.org/debian bookworm",
    "http://deb.debian.org/debian bookworm-updates",
    "http://deb.debian.org/debian-security bookworm-security",
  ]);
  const text = formatDeb822(derived, "i386");
  expect(text).toContain("Components: main\nArchitectures: i386\nSigned-By: /usr/share/keyrings/");
  expect(text).toContain("Signed-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc\n -----END");
  expect(text).not.toMatch(/amd64|contrib|off\.example|nodesource/);
  // What is written is read back as the same.
  expect(deriveSources(parseDeb822(text), "bookworm")).toHaveLength(3);
});

test("the one-line format, with options and comments", () => {
  const text = `
# deb http://no.example/debian bookworm main
deb [arch=amd64 signed-by=/k.gpg] mirror+file:/etc/apt/mirrors.list bookworm main non-free # all
deb-src http://deb.debian.org/debian bookworm main
deb http://security.debian.org bullseye/updates main
deb http://archive.ubuntu.com/ubuntu jammy main
deb http://deb.debian.org/debian bookworm contrib
`;
  const derived = deriveSources(parseOneLine(text), "bookworm");
  expect(derived).toEqual([
    {
      uri: "mirror+file:/etc/apt/mirrors.list",
      suite: "bookworm",
      components: ["main"],
      options: new Map([["signed-by", " /k.gpg"]]),
    },
    {
      uri: "http://security.debian.org",
      suite: "bookworm-security",
      components: ["main"],
      options: new Map(),
    },
  ]);
});

test("the same source in both formats is used once", () => {
  const both = [...parseOneLine("deb http://deb.debian.org/debian/ sid main"), ...parseDeb822(deb822)];
  const first = deriveSources(both, "bookworm").filter(({ suite }) => suite === "bookworm");
  expect(first).toHaveLength(1);
});
