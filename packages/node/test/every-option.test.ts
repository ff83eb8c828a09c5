/** Every option of this package's constructors and `open`: what cannot be is refused, by its name, before anything was opened. */
import { optionSurface } from "@virtio/testkit/option-surface";
import {
  flags,
  forgotten,
  numbers,
  parts,
  refusal,
  texts,
  within,
  words,
  wrongOptions,
  type OptionRow,
} from "@virtio/testkit/option-table";
import { readdirSync } from "node:fs";
import { expect, test } from "vitest";
import { FileBlockBackend } from "../src/block/file-block.ts";
import { FileCharacterBackend } from "../src/character/file.ts";
import { SocketCharacterBackend } from "../src/character/socket.ts";
import { HostDirectory } from "../src/directory/host-directory.ts";
import { IoUring } from "../src/native/io-uring.ts";
import { Mapping } from "../src/native/mapping.ts";
import { NbdBlockBackend } from "../src/nbd/nbd-block.ts";
import { SocketEndpoint } from "../src/net/endpoint.ts";
import { StreamNetBackend } from "../src/net/stream.ts";

const SAFE = Number.MAX_SAFE_INTEGER;
const MAX_TIMER_MS = 2 ** 31 - 1;
const MAX_FD = 2 ** 31 - 1;
/** Whoever looked there before the option was checked would say so. */
const NOWHERE = "/nowhere/at/all";
const NOT_EMPTY = "a string that is not empty";

const disk = (options: object): unknown => new FileBlockBackend(NOWHERE, options);
const directory = (options: object): unknown => new HostDirectory(NOWHERE, options);
const server = { address: { path: NOWHERE } };
const events = { connected: (): void => undefined, disconnected: (): void => undefined };
const target = { address: { path: NOWHERE }, exportName: "" };
const nbd = (options: object): unknown => NbdBlockBackend.open(target, options);
const nbdAt = (options: object): unknown => NbdBlockBackend.open({ ...target, ...options });

/** Everything that stands on a socket. */
const sockets = (
  [
    ["SocketCharacterBackend.open", (options: never) => SocketCharacterBackend.open(options)],
    ["StreamNetBackend.open", (options: never) => StreamNetBackend.open(options)],
    ["new SocketEndpoint", (options: never) => new SocketEndpoint(options, events)],
  ] as const
).flatMap(([callee, open]): readonly OptionRow[] => {
  const make = (options: object): unknown => open({ ...server, ...options } as never);
  const at = (option: string): string => `${callee}(options.${option})`;
  return [
    texts(at("address.host"), "socket: host", "a string", (host) => make({ address: { host, port: 1 } })),
    within(at("address.port"), "socket: port", 1, 65_535, (port) => make({ address: { port } })),
    texts(at("address.path"), "socket: path", NOT_EMPTY, (path) => make({ address: { path } }), ""),
    flags(at("server"), "socket: server", (value) => make({ server: value })),
    within(at("reconnectMs"), "socket: reconnectMs", 0, MAX_TIMER_MS, (reconnectMs) => make({ reconnectMs })),
  ];
});

/** Seconds need not be whole. */
function seconds(option: string): OptionRow {
  const rule = "a number from 0 to 2147483";
  const row = numbers(
    `NbdBlockBackend.open(options.${option})`,
    `nbd: ${option}`,
    rule,
    (value) => nbd({ [option]: value }),
    2_147_484,
  );
  return { ...row, wrong: row.wrong.filter((value) => value !== 1.5) };
}

const CACHES = '"writeback", "writethrough", "unsafe", "none", "directsync"';
const NBD_CACHES = '"writeback", "none", "writethrough", "directsync", "unsafe"';

const rows: readonly OptionRow[] = [
  texts("new FileBlockBackend(path)", "file disk: path", NOT_EMPTY, (path) => new FileBlockBackend(path), ""),
  words("new FileBlockBackend(options.cache)", "file disk: cache", `one of ${CACHES}`, (cache) =>
    disk({ cache }),
  ),
  words("new FileBlockBackend(options.format)", "file disk: format", 'one of "raw"', (format) =>
    disk({ format }),
  ),
  parts("new FileBlockBackend(options.engine)", "file disk: engine", "a FileEngine", (engine) =>
    disk({ engine }),
  ),
  ...["readOnly", "mayWait", "mapped", "discard", "locking"].map((option) =>
    flags(`new FileBlockBackend(options.${option})`, `file disk: ${option}`, (value) =>
      disk({ [option]: value }),
    ),
  ),
  texts(
    "new FileCharacterBackend(path)",
    "character file: path",
    NOT_EMPTY,
    (path) => new FileCharacterBackend(path),
    "",
  ),
  flags(
    "new FileCharacterBackend(append)",
    "character file: append",
    (append) => new FileCharacterBackend(NOWHERE, append),
  ),
  ...sockets,
  texts("NbdBlockBackend.open(where.address.host)", "nbd: host", NOT_EMPTY, (host) =>
    nbdAt({ address: { host, port: 1 } }),
  ),
  within("NbdBlockBackend.open(where.address.port)", "nbd: port", 1, 65_535, (port) =>
    nbdAt({ address: { host: "localhost", port } }),
  ),
  texts(
    "NbdBlockBackend.open(where.address.path)",
    "nbd: path",
    NOT_EMPTY,
    (path) => nbdAt({ address: { path } }),
    "",
  ),
  texts("NbdBlockBackend.open(where.exportName)", "nbd: exportName", "a string", (exportName) =>
    nbdAt({ exportName }),
  ),
  ...["certificates", "hostname"].map((option) =>
    texts(`NbdBlockBackend.open(where.tls.${option})`, `nbd: ${option}`, NOT_EMPTY, (value) =>
      nbdAt({ tls: { [option]: value } }),
    ),
  ),
  flags("NbdBlockBackend.open(where.tls.verifyPeer)", "nbd: verifyPeer", (verifyPeer) =>
    nbdAt({ tls: { verifyPeer } }),
  ),
  flags("NbdBlockBackend.open(options.readOnly)", "nbd: readOnly", (readOnly) => nbd({ readOnly })),
  flags("NbdBlockBackend.open(options.discard)", "nbd: discard", (discard) => nbd({ discard })),
  words("NbdBlockBackend.open(options.cache)", "nbd: cache", `one of ${NBD_CACHES}`, (cache) =>
    nbd({ cache }),
  ),
  within("NbdBlockBackend.open(options.connections)", "nbd: connections", 1, 16, (connections) =>
    nbd({ connections }),
  ),
  ...["reconnectDelay", "openTimeout", "requestTimeout"].map(seconds),
  texts(
    "new HostDirectory(path)",
    "shared directory: path",
    NOT_EMPTY,
    (path) => new HostDirectory(path),
    "",
  ),
  flags("new HostDirectory(options.readOnly)", "shared directory: readOnly", (readOnly) =>
    directory({ readOnly }),
  ),
  words(
    "new HostDirectory(options.securityModel)",
    "shared directory: securityModel",
    'one of "none", "passthrough", "mapped-xattr"',
    (securityModel) => directory({ securityModel }),
  ),
  within(
    "new HostDirectory(options.maxDescriptors)",
    "shared directory: maxDescriptors",
    1,
    2 ** 20,
    (value) => directory({ maxDescriptors: value }),
  ),
  within(
    "new HostDirectory(options.maxNodeBytes)",
    "shared directory: maxNodeBytes",
    0,
    SAFE,
    (maxNodeBytes) => directory({ maxNodeBytes }),
  ),
  within("new IoUring(entries)", "io_uring: entries", 1, 32_768, (entries) => new IoUring(entries)),
  within("Mapping.map(fd)", "mapping: fd", 0, MAX_FD, (fd) => Mapping.map(fd, 0, 4096)),
  within("Mapping.map(fileOffset)", "mapping: fileOffset", 0, SAFE, (offset) => Mapping.map(0, offset, 0)),
  within("Mapping.map(length)", "mapping: length", 0, SAFE, (length) => Mapping.map(0, 0, length)),
  flags("Mapping.map(access.readOnly)", "mapping: readOnly", (readOnly) =>
    Mapping.map(0, 0, 0, { readOnly }),
  ),
];

const EXCEPT = {
  "new HostHandle": "made by HostDirectory, of descriptors that it opened",
};
/** A name is any text: parseNbdName says what is wrong with it, in the words of names. */
const NAMES = { "NbdBlockBackend.open(where)": "text" };

test.each(wrongOptions(rows))("%s: %s", async (_key, message, make) => {
  expect(await refusal(make)).toBe(message);
});

test("no option of the package is forgotten", () => {
  const surface = new Map([...optionSurface("node")].filter(([key]) => !(key in NAMES)));
  expect(forgotten(surface, rows, EXCEPT)).toEqual([]);
});

test("what is refused leaves no descriptor open", async () => {
  const open = (): number => readdirSync("/proc/self/fd").length;
  const before = open();
  for (const [, , make] of wrongOptions(rows)) await refusal(make);
  expect(open()).toBe(before);
});
