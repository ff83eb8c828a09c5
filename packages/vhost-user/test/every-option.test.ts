/** Every option of this package's constructors and `open`: what cannot be is refused, by its name, before anything was opened. */
import { optionSurface } from "@virtio/testkit/option-surface";
import {
  bits,
  flags,
  forgotten,
  multiple,
  numbers,
  parts,
  power,
  refusal,
  texts,
  whole,
  within,
  words,
  wrongOptions,
  type OptionRow,
} from "@virtio/testkit/option-table";
import { entropyDevice } from "virtio/devices/entropy/device";
import { expect, test } from "vitest";
import { serveVhostUser } from "../src/backend/server.ts";
import { VhostUserTransport } from "../src/frontend/transport.ts";
import { BlockingLoop } from "../src/native/blocking-loop.ts";
import { Descriptor, openDescriptors } from "../src/native/descriptor.ts";
import { createMemfd } from "../src/native/memfd.ts";
import { SocketFile } from "../src/native/socket-file.ts";
import { UnixListener, UnixSocket } from "../src/native/unix-socket.ts";

const SAFE = Number.MAX_SAFE_INTEGER;
const MAX_TIMER_MS = 2 ** 31 - 1;
const MAX_FD = 2 ** 31 - 1;
/** Whoever went there before the option was checked would say so. */
const NOWHERE = "/nowhere/at/all";
const NOT_EMPTY = "a string that is not empty";

const serve = (options: object): unknown =>
  serveVhostUser(
    entropyDevice((target) => void target),
    { socket: NOWHERE, label: "it", ...options },
  );
const open = (options: object): unknown =>
  VhostUserTransport.open({ socket: NOWHERE, deviceId: 4, ...options });

/** A path, or the number of a descriptor: two rows. */
function socketRows(callee: string, make: (options: object) => unknown): readonly OptionRow[] {
  const key = `${callee}(options.socket)`;
  const call = (socket: unknown): unknown => make({ socket });
  return [
    texts(key, "vhost-user: socket", NOT_EMPTY, call, ""),
    {
      ...numbers(key, "vhost-user: socket", whole(0, MAX_FD), call),
      wrong: [-1, 1.5, Number.NaN, Infinity, 2 ** 31],
    },
  ].map((row) => ({ ...row, wrong: row.wrong.filter((value) => value !== 1) }));
}

const rows: readonly OptionRow[] = [
  ...socketRows("serveVhostUser", serve),
  words("serveVhostUser(options.mode)", "vhost-user: mode", 'one of "listen", "connect"', (mode) =>
    serve({ mode }),
  ),
  texts(
    "serveVhostUser(options.label)",
    "label of a device of type entropy",
    NOT_EMPTY,
    (label) => serve({ label }),
    "",
  ),
  bits("serveVhostUser(options.features)", "vhost-user: features", (features) => serve({ features })),
  within("serveVhostUser(options.queues)", "vhost-user: queues", 1, 65_535, (queues) => serve({ queues })),
  numbers(
    "serveVhostUser(options.queueSize)",
    "it: queueSize",
    power(1, 32_768),
    (queueSize) => serve({ queueSize }),
    0,
    100,
    65_536,
  ),
  flags("serveVhostUser(options.sealedMemoryOnly)", "vhost-user: sealedMemoryOnly", (sealedMemoryOnly) =>
    serve({ sealedMemoryOnly }),
  ),
  within(
    "serveVhostUser(options.reconnectDelay)",
    "vhost-user: reconnectDelay",
    0,
    MAX_TIMER_MS,
    (reconnectDelay) => serve({ reconnectDelay }),
  ),

  ...socketRows("VhostUserTransport.open", open),
  ...(
    [
      ["deviceId", 0, 2 ** 32 - 1],
      ["queueSize", 1, 32_768],
      ["queues", 1, 256],
      ["configLength", 0, 4096],
      ["pollMaxNs", 0, SAFE],
      ["timeout", 1, MAX_TIMER_MS],
    ] as const
  ).map(([option, least, most]) =>
    within(`VhostUserTransport.open(options.${option})`, `vhost-user: ${option}`, least, most, (value) =>
      open({ [option]: value }),
    ),
  ),
  texts("VhostUserTransport.open(options.name)", "vhost-user: name", NOT_EMPTY, (name) => open({ name }), ""),
  numbers(
    "VhostUserTransport.open(options.memory)",
    "vhost-user: memory",
    multiple(4096, 4096, 2 ** 40),
    (memory) => open({ memory }),
    0,
    5000,
    2 ** 41,
  ),
  bits("VhostUserTransport.open(options.withhold)", "vhost-user: withhold", (withhold) => open({ withhold })),
  parts("VhostUserTransport.open(options.config)", "vhost-user: config", "a Uint8Array", (config) =>
    open({ config }),
  ),
  flags("VhostUserTransport.open(options.polling)", "vhost-user: polling", (polling) => open({ polling })),
  ...["delay", "giveUp"].map((option) =>
    within(
      `VhostUserTransport.open(options.reconnect.${option})`,
      `vhost-user: reconnect: ${option}`,
      0,
      MAX_TIMER_MS,
      (value) => open({ reconnect: { [option]: value } }),
    ),
  ),

  within(
    "new BlockingLoop(options.pollMaxNs)",
    "blocking loop: pollMaxNs",
    0,
    SAFE,
    (pollMaxNs) => new BlockingLoop({ pollMaxNs }),
  ),
  within("new Descriptor(fd)", "descriptor: fd", 0, MAX_FD, (fd) => new Descriptor(fd)),
  within("Descriptor.duplicateOf(fd)", "descriptor: fd", 0, MAX_FD, (fd) => Descriptor.duplicateOf(fd)),
  texts("SocketFile.listen(path)", "unix socket: path", NOT_EMPTY, (path) => SocketFile.listen(path), ""),
  texts("UnixSocket.connect(path)", "unix socket: path", NOT_EMPTY, (path) => UnixSocket.connect(path), ""),
  texts("UnixListener.listen(path)", "unix socket: path", NOT_EMPTY, (path) => UnixListener.listen(path), ""),
];

test.each(wrongOptions(rows))("%s: %s", async (_key, message, make) => {
  expect(await refusal(make)).toBe(message);
});

test("memory to share has a name and a size", () => {
  expect(() => createMemfd(5 as never, 4096)).toThrow("memfd: name must be a string, not 5");
  expect(() => createMemfd("x", Number.NaN)).toThrow(/^memfd: length must be a whole number .*, not NaN$/);
});

test("no option of the package is forgotten", () => {
  expect(forgotten(optionSurface("vhost-user"), rows, {})).toEqual([]);
});

test("what is refused leaves no descriptor open", async () => {
  const before = openDescriptors();
  for (const [, , make] of wrongOptions(rows)) await refusal(make);
  expect(openDescriptors()).toBe(before);
});
