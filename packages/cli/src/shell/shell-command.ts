import { readFileSync, statSync } from "node:fs";
import { parseArguments, type GivenOption } from "../options/arguments.ts";
import { describe } from "../options/describe.ts";
import { messageOf, UserError } from "../user-error.ts";
import { MAX_SCRIPT, runLines, runStream } from "./script.ts";
import { deviceOptions, shellOptions } from "./options.ts";
import { Shell } from "./shell.ts";
import type { Target } from "./target/types.ts";

/** Runs `virtio shell`; gives the exit status. */
export async function shellCommand(argv: readonly string[]): Promise<number> {
  const given = parseArguments(argv, shellOptions);
  if (given.some(({ name }) => name === "help")) return print((await import("./help.ts")).shellHelp());
  const asked = given.find(({ name, value }) => name === "device" && /(^|,)(help|\?)$/.test(value));
  if (asked !== undefined) return print(await deviceHelpText(asked.value));
  if (!hasTarget(given)) return print((await import("./help.ts")).shellHelp(), 1);
  const commands = given.find(({ name }) => name === "c")?.value;
  const script = given.find(({ name }) => name === "script")?.value;
  if (commands !== undefined && script !== undefined) throw new UserError("-c and --script: one of them");
  const text = script === undefined ? commands : readScript(script);
  const target = await openTarget(given);
  const { stdin, stdout, stderr } = process;
  const interactive = text === undefined && stdin.isTTY === true;
  const { terminalTransfer } = await import("./progress.ts");
  const shell = new Shell(target, {
    out: { write: (line) => void stdout.write(line) },
    interactive,
    ...(stderr.isTTY === true ? { transfer: terminalTransfer(stderr) } : {}),
  });
  target.onFailure = (error) => stderr.write(`virtio: the target is gone: ${messageOf(error)}\n`);
  const interrupt = (): void => {
    if (!shell.interrupt()) process.exit(130);
  };
  if (!interactive) process.on("SIGINT", interrupt);
  // Whoever read what is printed has gone.
  stdout.on("error", interrupt);
  try {
    if (text !== undefined) return await runLines(shell, text);
    if (!interactive) return await runStream(shell, stdin);
    return await (await import("./console.ts")).runConsole(shell, { stdin, stdout });
  } finally {
    process.off("SIGINT", interrupt);
    stdout.off("error", interrupt).on("error", () => undefined);
    await shell.close();
  }
}

function hasTarget(given: readonly GivenOption[]): boolean {
  return given.some(({ name }) => name === "qemu" || name === "vhost-user" || deviceOptions.has(name));
}

/** One kind of target; what does not fit together is a UserError. */
async function openTarget(given: readonly GivenOption[]): Promise<Target> {
  const qemu = given.find(({ name }) => name === "qemu");
  const sockets = given.filter(({ name }) => name === "vhost-user");
  const devices = given.filter(({ name }) => deviceOptions.has(name));
  const kinds = [
    qemu === undefined ? "" : "--qemu",
    sockets.length === 0 ? "" : "--vhost-user",
    devices[0] === undefined ? "" : `-${devices[0].name}`,
  ].filter((kind) => kind !== "");
  if (kinds.length > 1) throw new UserError(`${kinds.join(" and ")}: one kind of target at a time`);
  if (qemu !== undefined) return (await import("./target/qemu.ts")).QemuTarget.open(qemu.value);
  if (sockets.length > 0) {
    const { parseVhostUser, VhostUserTarget } = await import("./target/vhost-user.ts");
    return new VhostUserTarget(sockets.map(({ value }) => parseVhostUser(value)));
  }
  const { machine } = describe([...devices, { name: "nodefaults", value: "" }]);
  const { InProcessTarget } = await import("./target/in-process.ts");
  return InProcessTarget.open(machine, (message) => void process.stderr.write(`virtio: ${message}\n`));
}

function readScript(path: string): string {
  try {
    const { size } = statSync(path);
    if (size > MAX_SCRIPT) throw new UserError(`--script ${path}: ${size} bytes, the most are ${MAX_SCRIPT}`);
    return readFileSync(path, "utf8");
  } catch (error) {
    throw error instanceof UserError ? error : new UserError(`--script: ${messageOf(error)}`);
  }
}

async function deviceHelpText(value: string): Promise<string> {
  const { deviceHelp, deviceListHelp } = await import("../options/help.ts");
  const [driver = ""] = value.split(",");
  if (driver === "help" || driver === "?") return deviceListHelp();
  const { deviceType } = await import("../options/describe-device.ts");
  return deviceHelp(deviceType(driver));
}

function print(text: string, status = 0): number {
  (status === 0 ? process.stdout : process.stderr).write(text);
  return status;
}
