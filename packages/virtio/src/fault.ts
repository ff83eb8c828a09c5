/** Where in a device a rule was broken, and what was found there. */
export interface FaultDetail {
  /** Virtqueue index. */
  readonly queue?: number;
  /** Descriptor index (split: in its table; packed: in the ring). */
  readonly descriptor?: number;
  /** The offending number itself: an address, a length, an index, a flags word. */
  readonly value?: number;
}

/**
 * The other side broke a rule of the spec. Every rejection that a driver can reach in the ring, memory and device
 * layers is one of these (the device then sets DEVICE_NEEDS_RESET and the host lives on), and likewise what a device
 * can do to our drivers. A fault of the host itself is an ordinary `Error` and never this class.
 */
export class VirtioFault extends Error {
  override readonly name = "VirtioFault";
  /**
   * Id of the normative clause in `packages/testkit/oracles/clauses.json`, such as `drv.split.indirect`; or `own.` and a word
   * for a rule that no clause has, such as `own.9p` for one of 9P2000.L; or
   * `memory.unbacked` for an address outside guest memory, which no sentence needs to forbid; or `host.bug` when a
   * device's own code failed (`cause` is what it threw).
   */
  readonly clause: string;
  /** The rule and what was found, in words, without the position. */
  readonly rule: string;
  readonly queue: number | undefined;
  readonly descriptor: number | undefined;
  readonly value: number | undefined;

  constructor(clause: string, rule: string, detail: FaultDetail = {}) {
    super(describe(clause, rule, detail));
    this.clause = clause;
    this.rule = rule;
    this.queue = detail.queue;
    this.descriptor = detail.descriptor;
    this.value = detail.value;
  }
}

/** The message of a fault. `queueNames`, by index, are said with a virtqueue's number where they are known. */
export function describe(
  clause: string,
  rule: string,
  { queue, descriptor, value }: { readonly [K in keyof FaultDetail]: FaultDetail[K] | undefined },
  queueNames: readonly string[] = [],
): string {
  const place = [
    queue === undefined ? "" : queueText(queue, queueNames),
    descriptor === undefined ? "" : `descriptor ${descriptor}`,
    value === undefined ? "" : `found ${value} (0x${value.toString(16)})`,
  ].filter((part) => part !== "");
  return `${clause}: ${rule}${place.length > 0 ? ` [${place.join(", ")}]` : ""}`;
}

/** "virtqueue 0 (requestq1)", or without the name where there is none. */
export function queueText(queue: number, queueNames: readonly string[]): string {
  const name = queueNames[queue];
  return name === undefined ? `virtqueue ${queue}` : `virtqueue ${queue} (${name})`;
}
