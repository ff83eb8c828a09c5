import { NinePDriver } from "virtio/drivers/9p/driver";
import { BlkDriver } from "virtio/drivers/blk/driver";
import { EntropyDriver } from "virtio/drivers/entropy/driver";
import { NetDriver } from "virtio/drivers/net/driver";
import { VIRTIO_ID_9P, VIRTIO_ID_BLK, VIRTIO_ID_ENTROPY, VIRTIO_ID_NET } from "virtio/spec/ids";
import { messageOf } from "../user-error.ts";
import type { Context } from "./command.ts";
import { deviceKind } from "./device-kinds.ts";
import { CommandError } from "./errors.ts";
import { NetworkInterface } from "./net/interface.ts";
import type { Target, TargetDevice } from "./target/types.ts";
import { WatchedTransport } from "./watched-transport.ts";

/** A driver that is open, or why none is. */
export type Driver =
  | { readonly kind: "blk"; readonly blk: BlkDriver }
  | { readonly kind: "net"; readonly net: NetworkInterface }
  | { readonly kind: "entropy"; readonly entropy: EntropyDriver }
  | { readonly kind: "9p"; readonly nineP: NinePDriver }
  | { readonly kind: "none" };

/** A device of the target, as the shell knows it. */
export interface ShellDevice {
  /** The kind of device and its number among these: `blk0`, `net1`. */
  readonly name: string;
  readonly kind: string;
  readonly number: number;
  readonly device: TargetDevice;
  /** Undefined: it could not be opened. */
  readonly transport: WatchedTransport | undefined;
  readonly driver: Driver;
}

/** Interface names of file commands, and what they number. */
export type DriverKind = Exclude<Driver["kind"], "none">;

/** How long a driver may take to open its device. */
const OPEN_TIMEOUT = 10_000;
const CLOSE_TIMEOUT = 2000;

/** The devices of a target with their drivers. */
export class Devices {
  /** The block device of `virtio read`. */
  current = 0;
  readonly #target: Target;
  readonly #say: (line: string) => void;
  #all: readonly ShellDevice[] | undefined;
  #scanning: Promise<readonly ShellDevice[]> | undefined;

  constructor(target: Target, say: (line: string) => void) {
    this.#target = target;
    this.#say = say;
  }

  /** Those that were found. */
  get known(): readonly ShellDevice[] {
    return this.#all ?? [];
  }

  /** Lets go of every device, looks for all again and opens them. What fails is said. */
  scan(): Promise<readonly ShellDevice[]> {
    this.#scanning ??= this.#scan().finally(() => (this.#scanning = undefined));
    return this.#scanning;
  }

  /** All devices; the first call looks for them. Throws a CommandError when the target is gone. */
  async all(context: Pick<Context, "wait">): Promise<readonly ShellDevice[]> {
    const { failure } = this.#target;
    if (failure !== undefined) throw new CommandError(`## Error: the target is gone: ${failure.message}`);
    return this.#all ?? context.wait(this.scan(), "virtio scan", 6 * OPEN_TIMEOUT);
  }

  /** Those with an open driver of a kind, in order. */
  async driven<K extends DriverKind>(
    context: Pick<Context, "wait">,
    kind: K,
  ): Promise<readonly (ShellDevice & { readonly driver: Extract<Driver, { kind: K }> })[]> {
    const all = await this.all(context);
    return all.filter(
      (each): each is ShellDevice & { readonly driver: Extract<Driver, { kind: K }> } =>
        each.driver.kind === kind,
    );
  }

  async close(): Promise<void> {
    await this.#scanning?.catch(() => undefined);
    const all = this.#all ?? [];
    this.#all = undefined;
    await Promise.all(all.map(closeDevice));
  }

  async #scan(): Promise<readonly ShellDevice[]> {
    const before = this.#all ?? [];
    this.#all = undefined;
    await Promise.all(before.map(closeDevice));
    const found: ShellDevice[] = [];
    const counts = new Map<string, number>();
    for (const device of await this.#target.devices()) {
      const kind = deviceKind(device.deviceId);
      const number = counts.get(kind) ?? 0;
      counts.set(kind, number + 1);
      found.push(await this.#open(device, kind, number));
    }
    this.#all = found;
    return found;
  }

  async #open(device: TargetDevice, kind: string, number: number): Promise<ShellDevice> {
    const name = `${kind}${number}`;
    let transport: WatchedTransport | undefined;
    try {
      transport = new WatchedTransport(await device.open());
      const driver = await within(openDriver(transport), OPEN_TIMEOUT);
      return { name, kind, number, device, transport, driver };
    } catch (error) {
      this.#say(`** ${name} (${device.name}): ${messageOf(error)} **`);
      return { name, kind, number, device, transport, driver: { kind: "none" } };
    }
  }
}

async function openDriver(transport: WatchedTransport): Promise<Driver> {
  switch (transport.deviceId) {
    case VIRTIO_ID_BLK:
      return { kind: "blk", blk: await BlkDriver.open(transport) };
    case VIRTIO_ID_NET:
      return { kind: "net", net: new NetworkInterface(await NetDriver.open(transport)) };
    case VIRTIO_ID_ENTROPY:
      return { kind: "entropy", entropy: await EntropyDriver.open(transport) };
    case VIRTIO_ID_9P:
      return { kind: "9p", nineP: await NinePDriver.open(transport) };
    default:
      return { kind: "none" };
  }
}

/** A device that does not let go in time is left alone: its transport is cut. */
async function closeDevice({ driver, transport }: ShellDevice): Promise<void> {
  try {
    if (driver.kind === "none") return transport?.close();
    await within(closeDriver(driver), CLOSE_TIMEOUT);
  } catch {
    transport?.close();
  }
}

function closeDriver(driver: Exclude<Driver, { kind: "none" }>): Promise<void> {
  switch (driver.kind) {
    case "blk":
      return driver.blk.close();
    case "net":
      return driver.net.close();
    case "entropy":
      return driver.entropy.close();
    case "9p":
      return driver.nineP.close();
  }
}

async function within<T>(promise: Promise<T>, milliseconds: number): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new CommandError(`no answer in ${milliseconds / 1000} s`)), milliseconds);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
    promise.catch(() => undefined);
  }
}
