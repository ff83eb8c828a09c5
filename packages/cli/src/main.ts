import type { GuestAssets } from "./guest/assets.ts";
import { parseArguments } from "./options/arguments.ts";
import { bootOptions } from "./options/table.ts";
import { homeFolder } from "./paths.ts";
import { messageOf, UserError } from "./user-error.ts";

const usage = `Usage: virtio COMMAND [OPTION]…

  boot   boot Linux in the embedded machine (virtio boot --help)
  serve  serve devices to QEMU over vhost-user (virtio serve --help)
  qemu   run QEMU with our devices in place of its own (virtio qemu --help)
  shell  U-Boot's commands on VIRTIO devices, of QEMU and others (virtio shell --help)
  setup  fetch the guest kernel and make the sample disk, as the first boot does;
         virtio setup amd64|arm64|armhf|riscv64… fetches guests for QEMU
  help   this text
`;

/** Runs the `virtio` command; gives its exit status. */
export async function main(argv: readonly string[]): Promise<number> {
  try {
    const [command = "help", ...rest] = argv;
    if (command === "boot") return await bootCommand(rest);
    if (command === "serve") return await (await import("./serve/command.ts")).serveCommand(rest);
    if (command === "qemu") return await (await import("./qemu/command.ts")).qemuCommand(rest);
    if (command === "shell") return await (await import("./shell/shell-command.ts")).shellCommand(rest);
    if (command === "setup") return await setupCommand(rest);
    if (["help", "--help", "-h"].includes(command)) {
      process.stdout.write(usage);
      return 0;
    }
    throw new UserError(`Unknown command: "${command}".\n${usage}`);
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
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
  const assets = ownKernel ? undefined : await guestAssets(home);
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

async function guestAssets(home: string): Promise<GuestAssets> {
  const { installedGuest, installGuest } = await import("./guest/assets.ts");
  const installed = installedGuest(home);
  if (installed) return installed;
  const { Progress } = await import("./guest/progress.ts");
  return installGuest(home, new Progress());
}

async function setupCommand(words: readonly string[]): Promise<number> {
  const home = homeFolder();
  if (words.length > 0) {
    const { setupArchitectures } = await import("./guest/setup.ts");
    process.stdout.write(await setupArchitectures(home, words));
    return 0;
  }
  const { sampleFiles } = await import("./guest/sample.ts");
  const { release } = await guestAssets(home);
  const { disk } = await sampleFiles(home);
  process.stdout.write(`Guest kernel ${release} in ${home}${disk === undefined ? ", no sample disk" : ""}\n`);
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
