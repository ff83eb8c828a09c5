import type { Context } from "../command.ts";
import { CommandError } from "../errors.ts";
import { ipText, type Ip } from "./addresses.ts";
import {
  BROADCAST_IP,
  BROADCAST_MAC,
  ICMP_ECHO,
  ICMP_ECHO_REPLY,
  ICMP_UNREACHABLE,
  decode,
  encodeArp,
  encodeIcmp,
  encodeUdp,
  type Ends,
  type Packet,
} from "./frames.ts";
import type { NetworkInterface } from "./interface.ts";

/** Who we are; addresses are 0 while they are not known. */
export interface LocalAddress {
  readonly ip: Ip;
  readonly netmask: Ip;
  readonly gateway: Ip;
}

export interface Datagram {
  readonly source: Ip;
  readonly sourcePort: number;
  readonly payload: Uint8Array;
}

interface Echo {
  readonly ip: Ip;
  readonly id: number;
  answer: "none" | "reply" | "unreachable";
}

/** Datagrams that wait; more are dropped. */
const MAX_WAITING = 64;
const ARP_TRIES = 5;
const ARP_TIMEOUT = 1000;
const PING_TIMEOUT = 10_000;

/** ARP, IPv4, ICMP echo and UDP on one interface while a command uses it. */
export class Stack {
  readonly #interface: NetworkInterface;
  readonly #local: LocalAddress;
  readonly #context: Pick<Context, "wait" | "signal">;
  readonly #neighbours = new Map<Ip, Uint8Array>();
  readonly #waiting: Datagram[] = [];
  /** Called on every packet that is for us. */
  #wake: (() => void) | undefined;
  #port = 0;
  #echo: Echo | undefined;

  constructor(net: NetworkInterface, local: LocalAddress, context: Pick<Context, "wait" | "signal">) {
    this.#interface = net;
    this.#local = local;
    this.#context = context;
    net.onFrame = (frame) => this.#hear(frame);
  }

  get mac(): Uint8Array {
    return this.#interface.driver.mac;
  }

  /** Nothing is heard any more. */
  close(): void {
    this.#interface.onFrame = undefined;
  }

  /** Listens for datagrams to this port instead of another. */
  listen(port: number): void {
    this.#port = port;
    this.#waiting.length = 0;
  }

  async send(destination: Ip, port: number, payload: Uint8Array): Promise<void> {
    const destinationMac = destination === BROADCAST_IP ? BROADCAST_MAC : await this.#resolve(destination);
    await this.#transmit(encodeUdp(this.#ends(destinationMac, destination), this.#port, port, payload));
  }

  /** The next datagram, or undefined when none comes in time. */
  async receive(milliseconds: number): Promise<Datagram | undefined> {
    // Also when there is always another one.
    this.#context.signal.throwIfAborted();
    await this.#until(() => this.#waiting.length > 0, milliseconds);
    return this.#waiting.shift();
  }

  /** Whether a host answers. Throws when it is not even on the network. */
  async ping(ip: Ip): Promise<boolean> {
    const mac = await this.#resolve(ip);
    const id = Math.floor(Math.random() * 0x10000);
    const echo: Echo = { ip, id, answer: "none" };
    this.#echo = echo;
    const body = new Uint8Array(4 + 32);
    new DataView(body.buffer).setUint16(0, id);
    new DataView(body.buffer).setUint16(2, 1);
    await this.#transmit(encodeIcmp(this.#ends(mac, ip), ICMP_ECHO, body));
    await this.#until(() => echo.answer !== "none", PING_TIMEOUT);
    this.#echo = undefined;
    return echo.answer === "reply";
  }

  /** The Ethernet address to send to: the host's, or that of the gateway to it. */
  async #resolve(ip: Ip): Promise<Uint8Array> {
    const { netmask, gateway, ip: own } = this.#local;
    const near = netmask === 0 || (ip & netmask) >>> 0 === (own & netmask) >>> 0;
    if (!near && gateway === 0) throw new CommandError("## Warning: gatewayip needed but not set");
    const hop = near ? ip : gateway;
    for (let attempt = 0; attempt < ARP_TRIES; attempt++) {
      const known = this.#neighbours.get(hop);
      if (known !== undefined) return known;
      await this.#transmit(encodeArp(true, this.#ends(BROADCAST_MAC, hop), new Uint8Array(6)));
      await this.#until(() => this.#neighbours.has(hop), ARP_TIMEOUT);
    }
    const known = this.#neighbours.get(hop);
    if (known === undefined)
      throw new CommandError(`\nARP Retry count exceeded: ${ipText(hop)} does not answer`);
    return known;
  }

  #ends(destinationMac: Uint8Array, destination: Ip): Ends {
    return { destinationMac, sourceMac: this.mac, source: this.#local.ip, destination };
  }

  async #transmit(frame: Uint8Array): Promise<void> {
    await this.#context.wait(this.#interface.driver.send(frame), "sending a frame");
  }

  #hear(frame: Uint8Array): void {
    const packet = decode(frame);
    if (packet === undefined) return;
    if (packet.kind === "arp") this.#hearArp(packet);
    else if (packet.kind === "icmp") this.#hearIcmp(packet);
    else if (packet.destinationPort === this.#port && this.#port !== 0 && this.#isForUs(packet.destination)) {
      if (this.#waiting.length >= MAX_WAITING) return;
      const { source, sourcePort, payload } = packet;
      // The frame's memory is the driver's.
      this.#waiting.push({ source, sourcePort, payload: payload.slice() });
    }
    this.#wake?.();
  }

  #isForUs(ip: Ip): boolean {
    return ip === BROADCAST_IP || this.#local.ip === 0 || ip === this.#local.ip;
  }

  #hearArp({ request, senderMac, senderIp, targetIp }: Extract<Packet, { kind: "arp" }>): void {
    const { ip } = this.#local;
    if (ip === 0 || targetIp !== ip) return;
    if (this.#neighbours.size < MAX_WAITING) this.#neighbours.set(senderIp, senderMac.slice());
    if (!request) return;
    const reply = encodeArp(false, this.#ends(senderMac, senderIp), senderMac);
    this.#interface.driver.send(reply).catch(() => undefined);
  }

  #hearIcmp({ source, destination, type, body }: Extract<Packet, { kind: "icmp" }>): void {
    const echo = this.#echo;
    if (echo === undefined || destination !== this.#local.ip) return;
    const id = body.length < 2 ? -1 : new DataView(body.buffer, body.byteOffset).getUint16(0);
    if (type === ICMP_ECHO_REPLY && source === echo.ip && id === echo.id) echo.answer = "reply";
    else if (type === ICMP_UNREACHABLE) echo.answer = "unreachable";
  }

  /** Waits until it is so, or the time is over. Throws on Ctrl-C, and when the device has failed. */
  async #until(met: () => boolean, milliseconds: number): Promise<void> {
    if (met()) return;
    let timer: NodeJS.Timeout | undefined;
    const done = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, milliseconds);
      this.#wake = () => {
        if (met()) resolve();
      };
    });
    try {
      await this.#context.wait(done, "the network", milliseconds + ARP_TIMEOUT);
    } finally {
      clearTimeout(timer);
      this.#wake = undefined;
    }
    const { failure } = this.#interface;
    if (failure !== undefined && !met()) throw new CommandError(failure.message);
  }
}
