import { UnsupportedPlatform } from "@virtio/node/native/platform";

import { parseArguments } from "./options/arguments.ts";
import { bootOptions } from "./options/table.ts";
import { homeFolder, packageFolder } from "./paths.ts";
import { isSystemError, messageOf, UserError } from "./user-error.ts";

const usage = `Usage: virtio COMMAND [OPTION]…

  boot   boot Linux in the embedded machine (virtio boot --help)
  serve  serve devices to QEMU over vhost-user (virtio serve --help)
  qemu   run QEMU with our devices in place of its own (virtio qemu --help)
  shell  U-Boot's commands on VIRTIO devices, of QEMU and others (virtio shell --help)
  setup  fetch the guest kernel and make the sample disk, as the first boot does (virtio setup --help)
  help   this text

  --version  the version of this command
`;

/** Runs the `virtio` command; gives its exit status. */
export async function main(argv: readonly string[]): Promise<number> {
  try {
    const [command = "help", ...rest] = argv;
    if (command === "boot") return await bootCommand(rest);
    if (command === "serve") return await (await import("./serve/command.ts")).serveCommand(rest);
    if (command === "qemu") return await (await import("./qemu/command.ts")).qemuCommand(rest);
    if (command === "shell") return await (await import("./shell/shell-command.ts")).shellCommand(rest);
    if (command === "setup") return await (await import("./guest/setup-command.ts")).setupCommand(rest);
    if (["--version", "-V"].includes(command)) return await printVersion();
    if (["help", "--help", "-h"].includes(command)) {
      process.stdout.write(usage);
      return 0;
    }
    throw new UserError(`Unknown command: "${command}".\n${usage}`);
  } catch (error) {
    if (!isExpected(error)) throw error;
    process.stderr.write(`virtio: ${messageOf(error)}\n`);
    return 1;
  }
}

async function bootCommand(argv: readonly string[]): Promise<number> {
  const given = parseArguments(argv, bootOptions);
  const help = await helpText(given);
  if (help !== undefined) {
    process.stdout.write(help);
    return 0;
  }
  const { describe } = await import("./options/describe.ts");
  const home = homeFolder();
  const wantsSample = given.some((option) => option.name === "sample");
  const { sampleFiles } = await import("./guest/sample.ts");
  const description = describe(given, wantsSample ? await sampleFiles(home) : undefined);
  const ownKernel = description.machine.kernel !== undefined;
  const assets = ownKernel ? undefined : await (await import("./guest/setup.ts")).guestAssets(home);
  const { boot } = await import("./boot/boot.ts");
  const { Interrupted } = await import("./boot/session.ts");
  const { stdin, stdout, stderr } = process;
  try {
    const interactive = description.session.run === undefined && stdin.isTTY;
    if (interactive && wantsSample) stderr.write((await import("./boot/welcome.ts")).welcome(description));
    return await boot(description, { home, assets, stdin, stdout, stderr });
  } catch (error) {
    if (error instanceof Interrupted) return error.status;
    throw error;
  }
}

/** What is the user's to mend, or the system's: a message is enough. All else is a mistake of ours, with its stack. */
function isExpected(error: unknown): boolean {
  return error instanceof UserError || error instanceof UnsupportedPlatform || isSystemError(error);
}

async function printVersion(): Promise<number> {
  const { readFileSync } = await import("node:fs");
  const manifest: unknown = JSON.parse(readFileSync(`${packageFolder}/package.json`, "utf8"));
  const version =
    typeof manifest === "object" && manifest !== null && "version" in manifest ? manifest.version : "";
  process.stdout.write(`virtio ${String(version)}\n`);
  return 0;
}

async function helpText(given: readonly { name: string; value: string }[]): Promise<string | undefined> {
  const asked = given.find(
    ({ name, value }) => name === "help" || (name === "device" && /(^|,)(help|\?)$/.test(value)),
  );
  if (asked === undefined) return undefined;
  const { bootHelp, deviceHelp, deviceListHelp } = await import("./options/help.ts");
  if (asked.name === "help") return bootHelp();
  const [driver = ""] = asked.value.split(",");
  if (driver === "help" || driver === "?") return deviceListHelp();
  const { deviceType } = await import("./options/describe-device.ts");
  return deviceHelp(deviceType(driver));
}
