import { parseArguments } from "@virtio/cli/options/arguments";
import { describe } from "@virtio/cli/options/describe";
import { shellOptions } from "@virtio/cli/shell/options";
import { runLines } from "@virtio/cli/shell/script";
import { Shell, type ShellOptions } from "@virtio/cli/shell/shell";
import { InProcessTarget } from "@virtio/cli/shell/target/in-process";
import { QemuTarget } from "@virtio/cli/shell/target/qemu";
import type { Target } from "@virtio/cli/shell/target/types";

/** A shell whose output is kept. */
export class TestShell {
  readonly shell: Shell;
  #text = "";

  constructor(target: Target, options: Partial<ShellOptions> = {}) {
    this.shell = new Shell(target, { out: { write: (text) => void (this.#text += text) }, ...options });
  }

  /** Runs lines as a script; gives what they print. */
  async run(text: string): Promise<string> {
    this.#text = "";
    await runLines(this.shell, text);
    return this.#text;
  }

  /** What was printed since the last `run` began. */
  get output(): string {
    return this.#text;
  }

  get status(): number {
    return this.shell.status;
  }

  close(): Promise<void> {
    return this.shell.close();
  }
}

/** Devices of ours, as `virtio shell` is given them. */
export async function inProcess(
  argv: readonly string[],
  options?: Partial<ShellOptions>,
): Promise<TestShell> {
  const given = parseArguments(argv, shellOptions);
  const { machine } = describe([...given, { name: "nodefaults", value: "" }]);
  const target = await InProcessTarget.open(machine, (message) => {
    throw new Error(message);
  });
  return new TestShell(target, options);
}

/** A machine of QEMU. */
export async function onQemu(commandLine: string): Promise<TestShell> {
  return new TestShell(await QemuTarget.open(commandLine));
}
