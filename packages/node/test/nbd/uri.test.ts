import fc from "fast-check";
import { expect, test } from "vitest";
import { describeTarget, isNbdName, type NbdTarget, parseNbdName } from "../../src/nbd/uri.ts";

const inet = (host: string, port = 10809, exportName = ""): NbdTarget => ({
  address: { host, port },
  exportName,
});

test.each<[string, NbdTarget]>([
  ["nbd://example.com", inet("example.com")],
  ["nbd://example.com/", inet("example.com")],
  ["nbd://example.com/disk", inet("example.com", 10809, "disk")],
  ["nbd://example.com//disk", inet("example.com", 10809, "/disk")],
  ["nbd://example.com/hello%20world", inet("example.com", 10809, "hello world")],
  ["nbd://example.com:10810/a/b", inet("example.com", 10810, "a/b")],
  ["nbd://[::1]:1234/x", inet("::1", 1234, "x")],
  ["nbd+tcp://192.0.2.1/x", inet("192.0.2.1", 10809, "x")],
  ["NBD:///x", inet("localhost", 10809, "x")],
  ["nbd+unix:///disk?socket=nbd.sock", { address: { path: "nbd.sock" }, exportName: "disk" }],
  ["nbd+unix://?socket=/a%26b,c", { address: { path: "/a&b,c" }, exportName: "" }],
  ["nbd+unix:///?socket=%00/abstract", { address: { path: "\0/abstract" }, exportName: "" }],
  ["nbds://h/x", { ...inet("h", 10809, "x"), tls: { verifyPeer: true } }],
  [
    "nbds+unix:///x?socket=/s&tls-hostname=h&tls-verify-peer=0&tls-certificates=/c",
    {
      address: { path: "/s" },
      exportName: "x",
      tls: { verifyPeer: false, hostname: "h", certificates: "/c" },
    },
  ],
  ["nbd:localhost:10809", inet("localhost")],
  ["nbd:[::1]:10809:exportname=a:b", inet("::1", 10809, "a:b")],
  ["nbd:unix:/run/a:b.sock:exportname=x", { address: { path: "/run/a:b.sock" }, exportName: "x" }],
  ["nbd:unix:/run/nbd", { address: { path: "/run/nbd" }, exportName: "" }],
])("%s", (text, target) => {
  expect(isNbdName(text)).toBe(true);
  expect(parseNbdName(text)).toEqual(target);
});

test.each([
  ["nbd+vsock://2/x", "nbd+vsock is not supported"],
  ["nbd+ssh://h/x", "nbd+ssh is not supported"],
  ["nbd+unix:///x", "needs ?socket=PATH"],
  ["nbd+unix://host/x?socket=/s", 'no host: "host"'],
  ["nbd+unix:///x?socket=/s&socket=/t", "given twice"],
  ["nbd+unix:///x?sock=/s", 'parameter "sock" is not known; there are socket'],
  ["nbd://h/x?tls-hostname=y", 'parameter "tls-hostname" is not known'],
  ["nbds://h/x?tls-type=psk", "tls-type=psk is not supported"],
  ["nbds://h/x?tls-verify-peer=maybe", "0 or 1"],
  ["nbd://user@h/x", "user names"],
  ["nbd://h:0/x", "port 0"],
  ["nbd://h:65536/x", "port 65536"],
  ["nbd://h:1:2/x", "no HOST:PORT"],
  ["nbd://[::g]/x", "no IPv6 address"],
  ["nbd://h/%ff", "percent-encoded"],
  ["nbd://h/%zz", "percent-encoded"],
  ["nbd://h/a%00b", "contains NUL"],
  [`nbd://h/${"a".repeat(4097)}`, "longer than 4096"],
  [`nbd+unix:///?socket=/${"a".repeat(107)}`, "more than 107 bytes"],
  ["nbd://h/x#y", "no URI"],
  ["nbd:h", "neither"],
  ["nbd:unix:", "needs a path"],
  ["nbds:h:1", "neither"],
])("%s is refused", (text, why) => {
  expect(() => parseNbdName(text)).toThrow(why);
});

test("what is described is read back as the same", () => {
  const name = fc.string({ unit: "binary", maxLength: 60 }).filter((text) => !text.includes("\0"));
  const path = name.filter((text) => text !== "" && Buffer.byteLength(text) <= 107);
  const host = fc.oneof(fc.domain(), fc.ipV4(), fc.ipV6());
  const address = fc.oneof(
    fc.record({ path }),
    fc.record({ host, port: fc.integer({ min: 1, max: 65_535 }) }),
  );
  fc.assert(
    fc.property(fc.record({ address, exportName: name }), (target) => {
      expect(parseNbdName(describeTarget(target))).toEqual(target);
    }),
  );
});

test("any text is read or refused with an error that quotes it", () => {
  fc.assert(
    fc.property(
      fc.constantFrom("nbd:", "nbd://", "nbds://", "nbd+unix:///", "nbd:unix:", ""),
      fc.string({ unit: fc.constantFrom(...Array.from("aé:/?#[]@%&=0.\0,")) }),
      (start, rest) => {
        try {
          parseNbdName(start + rest);
        } catch (error) {
          expect(error).toBeInstanceOf(Error);
          expect(String(error)).toContain(`"${start}${rest}"`);
        }
      },
    ),
  );
});
