import { readFileSync } from "node:fs";

import { EmbeddedMachine } from "@virtio/v86/machine";
import { readV86Wasm } from "@virtio/v86/node";

import type { GuestAssets } from "../guest/assets.ts";
import { checkOwnInitrd } from "../guest/own-initrd.ts";
import { optional } from "../optional.ts";
import type { BootDescription } from "../options/describe.ts";
import { messageOf, UserError } from "../user-error.ts";
import { agentSlot, type GuestAgent } from "./agent.ts";
import { DeviceBuilder, plugDevice, type BuiltDevice } from "./build.ts";
import { StateCache, stateKey } from "./cache.ts";
import type { MachineDescription, SessionDescription } from "./description.ts";
import { guestCommandLine } from "./kernel-command-line.ts";
import { openLog } from "./open-log.ts";
import { Session } from "./session.ts";
import { checkStateFile, readStateFile } from "./state-file.ts";

/** What `boot` needs from around it. */
export interface BootEnvironment {
  readonly home: string;
  /** Our guest; not needed with an own kernel. */
  readonly assets: GuestAssets | undefined;
  readonly stdin: NodeJS.ReadStream;
  readonly stdout: NodeJS.WriteStream;
  readonly stderr: NodeJS.WriteStream;
}

/** Boots what is described and stays until its session ends. Gives the exit status. */
export async function boot(description: BootDescription, environment: BootEnvironment): Promise<number> {
  const { machine: wanted, session: options } = description;
  // Read first, so that a wrong name is told at once.
  const restored = options.restore === undefined ? undefined : readStateFile(options.restore);
  if (options.save !== undefined) checkStateFile(options.save);
  const wasm = readV86Wasm();
  const session = new Session(options, environment);
  const log = await openLog(options);
  const builder = new DeviceBuilder(session);
  try {
    session.takeKeyboard(restored?.phase);
    session.startup.step("Loading the machine");
    // A command is given to our guest's init, whoever made the kernel.
    const ours = wanted.kernel === undefined || options.run !== undefined;
    const agent = ours ? session.createAgent() : undefined;
    const commandLine = ours ? guestCommandLine(wanted, options.verbose) : wanted.append;
    const built: BuiltDevice[] = [];
    for (const device of wanted.devices) built.push(await builder.build(device));
    const create = async (kernel?: KernelFiles): Promise<EmbeddedMachine> => {
      const machine = await EmbeddedMachine.create({
        memorySize: wanted.memorySize,
        commandLine,
        wasm: await wasm,
        ...kernel,
        ...optional("observer", log?.observer),
      });
      for (const device of built) plugDevice(machine, device, wanted.legacyMmio);
      if (agent !== undefined)
        machine.plugPci(agent.device, { label: "agent", slot: agentSlot, mode: "modern", observed: false });
      return machine;
    };
    if (restored !== undefined) {
      session.startup.step("Restoring the machine");
      const machine = await create();
      await restore(machine, restored.state, `--restore ${options.restore ?? ""}`);
      return await session.go(machine, wanted, restored.phase);
    }
    const key = stateKey(environment.assets?.digest ?? "", commandLine, wanted, built);
    const machine = await start(create, wanted, options, environment, agent, session, key);
    return await session.go(machine, wanted, undefined);
  } finally {
    session.release();
    await builder.close();
    log?.close();
  }
}

interface KernelFiles {
  readonly kernel: Uint8Array;
  readonly initrd?: Uint8Array;
}

/** A machine that has booted up to the point where the guest waits for us: from a saved state, or the slow way. */
async function start(
  create: (kernel?: KernelFiles) => Promise<EmbeddedMachine>,
  wanted: MachineDescription,
  options: SessionDescription,
  environment: BootEnvironment,
  agent: GuestAgent | undefined,
  session: Session,
  key: string,
): Promise<EmbeddedMachine> {
  const cache = options.cache && agent !== undefined ? new StateCache(environment.home, key) : undefined;
  const state = cache?.read();
  if (state !== undefined) {
    session.startup.step("Restoring the booted guest");
    const machine = await create();
    try {
      await machine.restore(state);
      return machine;
    } catch {
      // A state of other code, or a damaged file: boot as if it were not there.
      cache?.remove();
      await machine.destroy();
    }
  }
  const machine = await create(kernelFiles(wanted, options, environment));
  session.watch(machine);
  if (agent !== undefined) session.startup.step("Booting Linux");
  machine.run();
  if (agent === undefined) return machine;
  await session.untilReady(agent);
  if (cache === undefined) return machine;
  session.startup.step("Saving the booted guest for the next start");
  cache.write(await machine.save());
  return machine;
}

function kernelFiles(
  wanted: MachineDescription,
  options: SessionDescription,
  { home, assets }: BootEnvironment,
): KernelFiles {
  const paths = wanted.kernel ?? { kernel: assets?.kernel ?? "", initrd: assets?.initrd };
  const kernel = readGiven("--kernel", paths.kernel);
  if (paths.initrd === undefined) return { kernel };
  const initrd = readGiven("--initrd", paths.initrd);
  if (wanted.kernel !== undefined && options.run !== undefined) checkOwnInitrd(initrd, paths.initrd, home);
  return { kernel, initrd };
}

function readGiven(option: string, path: string): Uint8Array {
  try {
    return readFileSync(path);
  } catch (error) {
    throw new UserError(`${option} ${messageOf(error)}`);
  }
}

async function restore(machine: EmbeddedMachine, state: Uint8Array, what: string): Promise<void> {
  try {
    await machine.restore(state);
  } catch (error) {
    throw new UserError(`${what}: ${messageOf(error)}`);
  }
}
