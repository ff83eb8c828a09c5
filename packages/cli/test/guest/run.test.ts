import { expect, test } from "vitest";

import { runInGuest, Virtio } from "./virtio.ts";

test("stdout, stderr and status of the command, exactly", async () => {
  const result = await runInGuest("printf 'a\\0b\\n\\n'; echo err >&2; echo more >/dev/stdout; exit 7");
  expect(result).toEqual({ status: 7, stdout: Buffer.from("a\0b\n\nmore\n"), stderr: "err\n" });
});

test("quotes, lines and the ends of a signal come through", async () => {
  const command = `x='two  words'\necho "$x" | sed 's/o/0/'\ncat <<'END'\n  $not\nEND\nkill -9 $$`;
  const result = await runInGuest(command);
  expect(result).toEqual({ status: 137, stdout: Buffer.from("tw0  words\n  $not\n"), stderr: "" });
});

test("input to its end, and 10 MiB both ways without loss", async () => {
  const bytes = Buffer.alloc(10 << 20);
  for (let i = 0; i < bytes.length; i += 4) bytes.writeUInt32LE((Math.imul(i, 2654435761) ^ i) >>> 0, i);
  const virtio = new Virtio(["--run", "tee /dev/stderr | md5sum >/tmp/sum; cat /tmp/sum"], bytes);
  const { status, stdout } = await virtio.done;
  const { createHash } = await import("node:crypto");
  const sum = createHash("md5").update(bytes).digest("hex");
  expect([status, stdout.toString()]).toEqual([0, `${sum}  -\n`]);
  const back = await runInGuest("cat", [], bytes.toString("latin1").slice(0, 1 << 16));
  expect(back.stdout.length).toBe(Buffer.byteLength(bytes.toString("latin1").slice(0, 1 << 16)));
});

test("a reader that goes away ends the session as a broken pipe", async () => {
  const virtio = new Virtio(["--run", "yes"], "");
  await virtio.expect("y\n");
  virtio.process.stdout?.destroy();
  expect((await virtio.done).status).toBe(141);
});

test("boot messages with --verbose, on stderr alone", async () => {
  const result = await runInGuest("echo out", ["--verbose", "--no-cache"]);
  expect(result.stdout.toString()).toBe("out\n");
  expect(result.stderr).toContain("Linux version 6.1");
});

test("mistakes are told without a stack", async () => {
  const missing = await runInGuest("true", ["--disk", "/nowhere.img"]);
  expect([missing.status, missing.stderr]).toEqual([
    1,
    expect.stringMatching(/^virtio: disk0: .*\/nowhere\.img/),
  ]);
  const unknown = await new Virtio(["--nothing"]).done;
  expect([unknown.status, unknown.stderr]).toEqual([
    1,
    expect.stringMatching(/^virtio: Unknown option: "nothing"/),
  ]);
});

test("what the devices do is logged", async () => {
  const argv = ["--log", "virtio,registers", "-device", "virtio-rng-pci,id=random"];
  const { stderr } = await runInGuest("head -c 32 /dev/hwrng >/dev/null", argv);
  expect(stderr).toMatch(/random: .*accepted .*VERSION_1/);
  expect(stderr).toMatch(/random: virtqueue 0 \(requestq\): used \d+, \d+ bytes written/);
  expect(stderr).toMatch(/random: device_status := 0x/);
  // Linux does nothing that it must not, and what we plug in ourselves is nobody's business.
  expect(stderr).not.toMatch(/HINT|FAULT|(agent|console0): /);
});
