import { Duplex, PassThrough } from "node:stream";
import { describe, expect, test, vi } from "vitest";
import { QmpClient, QmpError, QemuError } from "../src/index.ts";

const GREETING =
  '{"QMP":{"version":{"qemu":{"micro":22,"minor":2,"major":7},"package":"Debian"},"capabilities":["oob"]}}\r\n';

/** QEMU's end of a connection: `answer` makes what it says to each message. */
function qemu(answer: (message: { execute: string; arguments: unknown; id: number }) => string): Duplex {
  const toClient = new PassThrough();
  const stream = new Duplex({
    read: () => undefined,
    write: (chunk: Buffer, _encoding, done) => {
      for (const line of chunk.toString().trim().split("\n")) {
        const message = JSON.parse(line) as { execute: string; arguments: unknown; id: number };
        toClient.write(
          message.execute === "qmp_capabilities" ? `{"return":{},"id":${message.id}}\r\n` : answer(message),
        );
      }
      done();
    },
    final: (done) => done(),
  });
  toClient.on("data", (bytes: Buffer) => stream.push(bytes));
  toClient.on("end", () => stream.destroy());
  toClient.write(GREETING);
  return stream;
}

describe("a QMP client", () => {
  test("greets, negotiates, executes", async () => {
    const client = await QmpClient.over(
      qemu(({ execute, arguments: args, id }) => `${JSON.stringify({ return: { execute, args }, id })}\r\n`),
    );
    expect(client.greeting).toEqual({
      version: { major: 7, minor: 2, micro: 22 },
      package: "Debian",
      capabilities: ["oob"],
    });
    expect(await client.execute("query-status", { a: 1 })).toEqual({
      execute: "query-status",
      args: { a: 1 },
    });
    client.close();
    await expect(client.execute("quit")).rejects.toThrow(QemuError);
  });

  test("gives each command its own answer, whatever comes between and in whatever order", async () => {
    const late: string[] = [];
    const events: string[] = [];
    const client = await QmpClient.over(
      qemu(({ execute, id }) => {
        const answer = `${JSON.stringify({ return: execute, id })}\r\n`;
        if (execute === "first") return (late.push(answer), "");
        return `{"timestamp":{"seconds":5,"microseconds":500000},"event":"RESUME"}\r\n${answer}${late.splice(0).join("")}`;
      }),
    );
    client.onEvent = ({ event, time }) => events.push(`${event} ${time}`);
    expect(await Promise.all([client.execute("first"), client.execute("second")])).toEqual([
      "first",
      "second",
    ]);
    expect(events).toEqual(["RESUME 5.5"]);
    client.close();
  });

  test("a refusal is an error with its class and QEMU's words", async () => {
    const client = await QmpClient.over(
      qemu(
        ({ id }) =>
          `{"error":{"class":"CommandNotFound","desc":"The command x has not been found"},"id":${id}}\n`,
      ),
    );
    const error = await client.execute("x").catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(QmpError);
    expect(error).toMatchObject({ command: "x", errorClass: "CommandNotFound" });
    expect(String(error)).toBe("QmpError: x: The command x has not been found");
    client.close();
  });

  test("no answer, an abort, an end and rubbish are errors and not hangs", async () => {
    const silent = await QmpClient.over(
      qemu(() => ""),
      { timeout: 50 },
    );
    await expect(silent.execute("query-pci")).rejects.toThrow(/no answer to query-pci within 50 ms/);
    const stop = new AbortController();
    const aborted = silent.execute("query-pci", {}, { signal: stop.signal });
    stop.abort(new Error("enough"));
    await expect(aborted).rejects.toThrow("enough");
    silent.close();

    const stream = qemu(() => "");
    const ending = await QmpClient.over(stream, { explain: () => "its last words" });
    const pending = ending.execute("query-pci");
    stream.destroy();
    await expect(pending).rejects.toThrow("qmp: the connection has ended: its last words");

    const other = qemu(() => "rubbish\n");
    const rubbish = await QmpClient.over(other);
    await expect(rubbish.execute("query-pci")).rejects.toThrow(/this is no message: rubbish/);
    // Nobody listens to such a peer any longer.
    expect(other.destroyed).toBe(true);
    rubbish.close();
  });

  test("a peer that does not greet is refused", async () => {
    const mute = new Duplex({ read: () => undefined, write: (_c, _e, done) => done() });
    await expect(QmpClient.over(mute, { timeout: 30 })).rejects.toThrow(/no greeting within 30 ms/);
    const other = new Duplex({ read: () => undefined, write: (_c, _e, done) => done() });
    const greeted = QmpClient.over(other);
    other.push('{"hello":1}\n');
    await expect(greeted).rejects.toThrow(/does not greet as QEMU does/);
    const hasty = new Duplex({ read: () => undefined, write: (_c, _e, done) => done() });
    const hurried = QmpClient.over(hasty);
    hasty.push(`${GREETING}rubbish\n`);
    await expect(hurried).rejects.toThrow(/this is no message: rubbish/);
    const stop = new AbortController();
    const forget = vi.spyOn(stop.signal, "removeEventListener");
    const late = new Duplex({ read: () => undefined, write: (_c, _e, done) => done() });
    await expect(QmpClient.over(late, { timeout: 30, signal: stop.signal })).rejects.toThrow(/no greeting/);
    expect(forget).toHaveBeenCalledOnce();
    await expect(QmpClient.connect("/nonexistent/qmp")).rejects.toThrow(/ENOENT/);
  });
});
