import { checkTransferOptions, type TransferOptions } from "../../driver/transfer-options.ts";
import { DriverSession, type DriverOpenOptions } from "../../driver/session.ts";
import { Turns } from "../../driver/turns.ts";
import type { DriverTransport } from "../../driver/types.ts";
import type { CancelSignal } from "../../driver/virtqueue.ts";
import { readLe16, readLe32, writeLe32 } from "../../memory/bytes.ts";
import { featureBits } from "../../spec/core.ts";
import { VIRTIO_ID_SCSI } from "../../spec/ids.ts";
import {
  VIRTIO_SCSI_CDB_DEFAULT,
  VIRTIO_SCSI_CONFIG as CONFIG,
  VIRTIO_SCSI_CONFIG_SIZE,
  VIRTIO_SCSI_CONTROLQ,
  VIRTIO_SCSI_EVENTQ,
  VIRTIO_SCSI_F_CHANGE,
  VIRTIO_SCSI_F_HOTPLUG,
  VIRTIO_SCSI_F_INOUT,
  VIRTIO_SCSI_REQUESTQ,
  VIRTIO_SCSI_S_BAD_TARGET,
  VIRTIO_SCSI_S_INCORRECT_LUN,
  VIRTIO_SCSI_SENSE_DEFAULT,
  VIRTIO_SCSI_T_TMF_I_T_NEXUS_RESET,
  VIRTIO_SCSI_T_TMF_LOGICAL_UNIT_RESET,
} from "../../spec/scsi.ts";
import { checkAddress, decodeLun, type ScsiAddress } from "./address.ts";
import { parseLuns, reportLuns } from "./cdb.ts";
import { ScsiError } from "./error.ts";
import { ScsiEvents, type ScsiEvent } from "./events.ts";
import { ScsiRequests, type ScsiCommandOptions, type ScsiResult } from "./requests.ts";
import { ScsiUnit, persist } from "./unit.ts";

/** `depth` is never more than `cmd_per_lun`; `queues` is by default 4. */
export interface ScsiDriverOptions extends DriverOpenOptions, TransferOptions {}

const TYPE = { id: VIRTIO_ID_SCSI, name: "SCSI host device" };
const WANTED: bigint = featureBits(VIRTIO_SCSI_F_INOUT, VIRTIO_SCSI_F_HOTPLUG, VIRTIO_SCSI_F_CHANGE);
const SECTOR = 512;
const MAX_TARGETS = 256;
/** Bytes asked of REPORT LUNS at first. */
const FIRST_LUNS = 264;
/** Events that wait until those before them were acted upon. */
const MAX_UNHANDLED = 64;
/** A list of all LUNs that a target can have. */
const MAX_LUNS_BYTES = 8 + 8 * 16_384;

/**
 * Driver of a SCSI host device ("SCSI Host Device"). After a first `scan`, `units` follows what the device reports;
 * `command` sends anything to anybody.
 */
export class ScsiDriver {
  readonly session: DriverSession;
  /** Called for each event, when `units` already shows it. */
  onEvent: ((event: ScsiEvent) => void) | undefined;
  readonly #requests: ScsiRequests;
  readonly #events: ScsiEvents;
  readonly #maxTarget: number;
  readonly #units = new Map<string, ScsiUnit>();
  #scanned = false;
  /** Scans by target. */
  readonly #scans = new Map<number, Turns>();
  /** Events that were not acted upon yet; that happens one after the other. */
  readonly #unhandled: ScsiEvent[] = [];
  #handling = false;

  private constructor(session: DriverSession, options: ScsiDriverOptions) {
    this.session = session;
    const config = session.readConfig(0, VIRTIO_SCSI_CONFIG_SIZE);
    this.#maxTarget = Math.min(readLe16(config, CONFIG.max_target), MAX_TARGETS - 1);
    // They have these values after a reset, but a device of old may remember what the driver before this one wrote.
    setField(session, config, CONFIG.sense_size, VIRTIO_SCSI_SENSE_DEFAULT);
    setField(session, config, CONFIG.cdb_size, VIRTIO_SCSI_CDB_DEFAULT);
    const control = session.addQueue(VIRTIO_SCSI_CONTROLQ, 64);
    const events = session.addQueue(VIRTIO_SCSI_EVENTQ, 64);
    const count = Math.max(1, Math.min(options.queues ?? 4, readLe32(config, CONFIG.num_queues)));
    const queues = Array.from({ length: count }, (_, i) => session.addQueue(VIRTIO_SCSI_REQUESTQ + i, 128));
    const limits = {
      // "The driver MUST NOT send more than cmd_per_lun linked commands to one LUN"
      depth: Math.max(1, Math.min(options.depth ?? 8, readLe32(config, CONFIG.cmd_per_lun), 128)),
      dataSize: transferSize(options.transferSize ?? 65_536, readLe32(config, CONFIG.max_sectors)),
    };
    this.#requests = new ScsiRequests(session, control, queues, limits);
    this.#events = new ScsiEvents(
      events,
      session.memory,
      readLe32(config, CONFIG.event_info_size),
      (event) => this.#heard(event),
      (fault) => session.fail(fault),
    );
    session.onFailure = (error) => this.#failed(error);
    session.ready();
  }

  /** Takes the device over. Throws when it is not a SCSI host device, or refuses. */
  static open(transport: DriverTransport, options: ScsiDriverOptions = {}): Promise<ScsiDriver> {
    const { ring, signal } = options;
    return DriverSession.start(
      transport,
      {
        type: TYPE,
        config: VIRTIO_SCSI_CONFIG_SIZE,
        wanted: WANTED,
        ring,
        signal,
        check: () => checkTransferOptions("scsi", options),
      },
      (session) => new ScsiDriver(session, options),
    );
  }

  /** The units found so far, in the order of their discovery. */
  get units(): readonly ScsiUnit[] {
    return [...this.#units.values()];
  }

  /** The unit at this address, when it was found. */
  unit({ target, lun }: ScsiAddress): ScsiUnit | undefined {
    return this.#units.get(key({ target, lun }));
  }

  /** Asks every target that there can be which units it has. From then on `units` follows the events. */
  async scan(signal?: CancelSignal): Promise<readonly ScsiUnit[]> {
    this.#scanned = true;
    const targets = Array.from({ length: this.#maxTarget + 1 }, (_, target) => target);
    const results = await Promise.allSettled(targets.map((target) => this.scanTarget(target, signal)));
    for (const result of results) if (result.status === "rejected") throw result.reason;
    return this.units;
  }

  /** Asks one target. Its units that are gone are forgotten; of one that is still there the object stays the same. */
  async scanTarget(target: number, signal?: CancelSignal): Promise<void> {
    checkAddress({ target, lun: 0 });
    // One after the other: what was asked first must not be the last word.
    const turns = this.#scans.get(target) ?? new Turns();
    this.#scans.set(target, turns);
    await turns.take(() => this.#scanTarget(target, signal), signal);
  }

  /** One command to any unit, sent once. Rejects with a ScsiError when it does not end in GOOD. */
  command(address: ScsiAddress, cdb: Uint8Array, options: ScsiCommandOptions = {}): Promise<ScsiResult> {
    return this.#requests.command(address, cdb, options);
  }

  /** A VIRTIO_SCSI_T_TMF_… function; see `ScsiRequests.taskManagement`. */
  taskManagement(
    subtype: number,
    address: ScsiAddress,
    id: number = 0,
    signal?: CancelSignal,
  ): Promise<boolean> {
    return this.#requests.taskManagement(subtype, address, id, signal);
  }

  /** Ends the commands of a unit and puts it into its first state. */
  async resetUnit(address: ScsiAddress, signal?: CancelSignal): Promise<void> {
    await this.taskManagement(VIRTIO_SCSI_T_TMF_LOGICAL_UNIT_RESET, address, 0, signal);
  }

  /** The same for all units of a target. */
  async resetTarget(target: number, signal?: CancelSignal): Promise<void> {
    await this.taskManagement(VIRTIO_SCSI_T_TMF_I_T_NEXUS_RESET, { target, lun: 0 }, 0, signal);
  }

  /** Asks for, or subscribes to, VIRTIO_SCSI_EVT_ASYNC_… events; gives those that the unit has. */
  asyncNotifications(
    address: ScsiAddress,
    events: number,
    subscribe: boolean,
    signal?: CancelSignal,
  ): Promise<number> {
    return this.#requests.asyncNotifications(address, events, subscribe, signal);
  }

  /** Events as they come, until the driver is closed. */
  async *events(): AsyncGenerator<ScsiEvent, void> {
    for (let event = await this.#events.take(); event !== undefined; event = await this.#events.take())
      yield event;
  }

  /** Resets the device and gives its memory back; what is outstanding fails. */
  async close(signal?: CancelSignal): Promise<void> {
    this.#events.end();
    const closed = this.session.close(signal);
    this.#requests.fail(new Error("the SCSI driver was closed"));
    await closed;
  }

  async #scanTarget(target: number, signal: CancelSignal | undefined): Promise<void> {
    const luns = await this.#luns(target, signal);
    const found = new Map<string, ScsiUnit>();
    for (const lun of luns) {
      const inquiry = await absent(ScsiUnit.inquire(this.#requests, { target, lun }, signal));
      if (inquiry === undefined || inquiry.qualifier !== 0) continue;
      const name = key({ target, lun });
      const known = this.#units.get(name);
      const same = known !== undefined && JSON.stringify(known.inquiry) === JSON.stringify(inquiry);
      found.set(name, same ? known : new ScsiUnit(this.#requests, { target, lun }, inquiry));
    }
    for (const unit of this.units) if (unit.target === target) this.#units.delete(key(unit));
    for (const [name, unit] of found) this.#units.set(name, unit);
  }

  /** The LUNs of a target that have a number; none when there is no such target. */
  async #luns(target: number, signal: CancelSignal | undefined): Promise<number[]> {
    const address = { target, lun: 0 };
    if ((await absent(ScsiUnit.inquire(this.#requests, address, signal))) === undefined) return [];
    for (let length = FIRST_LUNS; ;) {
      const dataIn = new Uint8Array(length);
      const options = signal === undefined ? { dataIn } : { dataIn, signal };
      const answer = await absent(
        persist(() => this.#requests.command(address, reportLuns(length), options)),
      );
      // A target that does not know the command has the one unit.
      if (answer === undefined) return [0];
      const { entries, length: all } = parseLuns(dataIn.subarray(0, answer.received));
      const wanted = Math.min(all, MAX_LUNS_BYTES, this.#requests.dataSize);
      if (wanted <= length) return [...new Set(entries.map(decodeLun).filter((lun) => lun !== undefined))];
      length = wanted;
    }
  }

  #heard(event: ScsiEvent): void {
    // Faster than they can be acted upon: a scan finds out what all of them would have said.
    if (this.#unhandled.length >= MAX_UNHANDLED) this.#unhandled.splice(0, MAX_UNHANDLED, { kind: "missed" });
    this.#unhandled.push(event);
    if (!this.#handling) void this.#handle();
  }

  async #handle(): Promise<void> {
    this.#handling = true;
    for (let event = this.#unhandled.shift(); event !== undefined; event = this.#unhandled.shift()) {
      // When the device fails meanwhile the session ends everything.
      await this.#follow(event).catch(() => undefined);
      this.#events.put(event);
      this.onEvent?.(event);
    }
    this.#handling = false;
  }

  /** Makes `units` what an event says. */
  async #follow(event: ScsiEvent): Promise<void> {
    if (event.kind === "missed") {
      for (const unit of this.units) unit.forgetCapacity();
      if (this.#scanned) await this.scan();
      return;
    }
    if (event.kind === "changed") this.unit(event.unit)?.forgetCapacity();
    // "[…] for LUN 0, the driver SHOULD ask the initiator to rescan the target": any other is found that way too.
    if (this.#scanned && (event.kind === "added" || event.kind === "removed"))
      await this.scanTarget(event.unit.target);
  }

  #failed(error: Error): void {
    this.#requests.fail(error);
    this.#events.fail(error);
  }
}

function key({ target, lun }: ScsiAddress): string {
  return `${target}:${lun}`;
}

function setField(session: DriverSession, config: Uint8Array, at: number, value: number): void {
  if (readLe32(config, at) === value) return;
  const bytes = new Uint8Array(4);
  writeLe32(bytes, 0, value);
  session.writeConfig(at, bytes);
}

function transferSize(wanted: number, maxSectors: number): number {
  const size = Math.floor(Math.min(wanted, maxSectors * SECTOR) / SECTOR) * SECTOR;
  return Math.max(4096, size);
}

/** Undefined when the unit is not there, or does not know the command. */
async function absent<T>(work: Promise<T>): Promise<T | undefined> {
  try {
    return await work;
  } catch (error) {
    if (!(error instanceof ScsiError)) throw error;
    const { response, sense } = error;
    if (response === VIRTIO_SCSI_S_BAD_TARGET || response === VIRTIO_SCSI_S_INCORRECT_LUN) return undefined;
    if (sense !== undefined) return undefined;
    throw error;
  }
}
