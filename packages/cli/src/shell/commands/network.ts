import type { CommandSpec, Context } from "../command.ts";
import { CommandError, UsageError } from "../errors.ts";
import { ipText, macText, parseIp, type Ip } from "../net/addresses.ts";
import { askForLease, type Lease } from "../net/dhcp.ts";
import { Stack, type LocalAddress } from "../net/stack.ts";
import { getFile } from "../net/tftp.ts";
import { hex, sizeText } from "../numbers.ts";

/** As U-Boot: a mark for ten blocks, 65 of them on a line. */
const BLOCKS_A_MARK = 10;
const MARKS_A_LINE = 65;
const UNKNOWN: LocalAddress = { ip: 0, netmask: 0, gateway: 0 };

/** Runs with a stack on the interface that `ethact` names, or the first. */
async function withStack<T>(
  context: Context,
  local: LocalAddress,
  work: (stack: Stack, name: string) => Promise<T>,
): Promise<T> {
  const all = await context.devices.driven(context, "net");
  const wanted = context.environment.get("ethact");
  const net = wanted === undefined ? all[0] : all.find(({ number }) => `virtio-net#${number}` === wanted);
  if (net === undefined) throw new CommandError("*** ERROR: No ethernet found.");
  const { net: driven } = net.driver;
  if (driven.failure !== undefined) throw new CommandError(`${net.name}: ${driven.failure.message}`);
  const suffix = net.number === 0 ? "" : String(net.number);
  context.environment.set(`eth${suffix}addr`, macText(driven.driver.mac));
  if (!driven.driver.linkUp) throw new CommandError(`*** ERROR: ${net.name} has no link`);
  const stack = new Stack(driven, local, context);
  try {
    return await work(stack, `virtio-net#${net.number}`);
  } finally {
    stack.close();
  }
}

function localAddress({ environment }: Context): LocalAddress {
  const of = (name: string): Ip => {
    const text = environment.get(name);
    return text === undefined ? 0 : parseIp(text, name);
  };
  const ip = of("ipaddr");
  if (ip === 0) throw new CommandError("*** ERROR: `ipaddr' not set");
  return { ip, netmask: of("netmask"), gateway: of("gatewayip") };
}

const ping: CommandSpec = {
  name: "ping",
  summary: "send ICMP ECHO_REQUEST to network host",
  help: "pingAddress",
  words: 2,
  repeats: true,
  async run(context, [, text]) {
    if (text === undefined) throw new UsageError();
    const ip = parseIp(text, "ping");
    const alive = await withStack(context, localAddress(context), async (stack, name) => {
      context.out.write(`Using ${name} device\n`);
      try {
        return await stack.ping(ip);
      } catch (error) {
        if (!(error instanceof CommandError)) throw error;
        context.out.write(`${error.message}\n`);
        return false;
      }
    });
    context.out.write(
      alive ? `host ${ipText(ip)} is alive\n` : `ping failed; host ${ipText(ip)} is not alive\n`,
    );
    return Number(!alive);
  },
};

const dhcp: CommandSpec = {
  name: "dhcp",
  summary: "boot image via network using DHCP/TFTP protocol",
  help: "[loadAddress] [[hostIPaddr:]bootfilename]",
  words: 3,
  async run(context, words) {
    const { environment, out } = context;
    const started = performance.now();
    const lease = await withStack(context, UNKNOWN, (stack) =>
      askForLease(stack, (count) => out.write(`BOOTP broadcast ${count}\n`)),
    );
    if (lease === undefined) throw new CommandError("\nRetry time exceeded");
    keep(context, lease);
    const took = Math.round(performance.now() - started);
    out.write(`DHCP client bound to address ${ipText(lease.ip)} (${took} ms)\n`);
    const automatic = !/^(n|no)$/i.test(environment.get("autoload") ?? "yes");
    // A server that names no file, and nobody who does: there is nothing to load.
    const named = words.length > 1 || environment.get("bootfile") !== undefined;
    return automatic && named ? load(context, words) : 0;
  },
};

/** Into the variables that U-Boot has for it. */
function keep({ environment }: Context, lease: Lease): void {
  const set = (name: string, value: string): void => {
    if (value !== "") environment.set(name, value);
  };
  const address = (ip: Ip | undefined): string => (ip === undefined || ip === 0 ? "" : ipText(ip));
  set("ipaddr", address(lease.ip));
  set("netmask", address(lease.netmask));
  set("gatewayip", address(lease.gateway));
  set("serverip", address(lease.server));
  set("dnsip", address(lease.dns[0]));
  set("dnsip2", address(lease.dns[1]));
  set("hostname", lease.hostname);
  set("domain", lease.domain);
  set("rootpath", lease.rootPath);
  set("bootfile", lease.bootFile);
}

const tftpboot: CommandSpec = {
  name: "tftpboot",
  summary: "load file via network using TFTP protocol",
  help: "[loadAddress] [[hostIPaddr:]bootfilename]",
  words: 3,
  run: load,
};

/** With one word it is the address when it can be one, else the file. */
async function load(context: Context, [, first, second]: readonly string[]): Promise<number> {
  const { environment, memory, out } = context;
  const addressFirst = second !== undefined || (first !== undefined && /^(0x)?[0-9a-f]+$/i.test(first));
  const address = hex(addressFirst ? first : environment.get("loadaddr"), "tftpboot");
  const local = localAddress(context);
  const { server, file } = whatToLoad(context, addressFirst ? second : first, local.ip);
  const room = memory.room(address);
  const started = performance.now();
  const length = await withStack(context, local, (stack, name) => {
    out.write(`Using ${name} device\n${routeText(local, server)}\nFilename '${file}'.\n`);
    out.write(`Load address: 0x${address.toString(16)}\nLoading: `);
    let blocks = 0;
    return getFile(stack, {
      server,
      file,
      room,
      block: (data, at) => {
        memory.writable(address + at, data.length).set(data);
        if (blocks % BLOCKS_A_MARK === 0) out.write("#");
        if (++blocks % (BLOCKS_A_MARK * MARKS_A_LINE) === 0) out.write("\n\t ");
      },
      timeout: () => out.write("T "),
    });
  });
  const milliseconds = Math.round(performance.now() - started);
  if (milliseconds > 0) out.write(`\n\t ${sizeText(Math.floor(length / milliseconds) * 1000)}/s`);
  out.write(`\ndone\nBytes transferred = ${length} (${length.toString(16)} hex)\n`);
  environment.setHex("filesize", length);
  environment.setHex("fileaddr", address);
  return 0;
}

function routeText({ ip, netmask, gateway }: LocalAddress, server: Ip): string {
  const far = gateway !== 0 && netmask !== 0 && ((ip ^ server) & netmask) !== 0;
  const through = far ? `; sending through gateway ${ipText(gateway)}` : "";
  return `TFTP from server ${ipText(server)}; our IP address is ${ipText(ip)}${through}`;
}

function whatToLoad(
  { environment, out }: Context,
  text: string | undefined,
  ip: Ip,
): { server: Ip; file: string } {
  let name = text ?? environment.get("bootfile");
  if (name === undefined) {
    name = `${ip.toString(16).toUpperCase().padStart(8, "0")}.img`;
    out.write(`*** Warning: no boot file name; using '${name}'\n`);
  }
  const match = /^(\d+\.\d+\.\d+\.\d+):(.*)$/.exec(name);
  const host = match?.[1] ?? environment.get("serverip");
  const file = match?.[2] ?? name;
  if (host === undefined) throw new CommandError("*** ERROR: `serverip' not set");
  if (file.length > 400 || file === "" || file.includes("\0"))
    throw new CommandError(`*** ERROR: "${file.slice(0, 40)}" is no name of a file`);
  return { server: parseIp(host, "serverip"), file };
}

export const networkCommands: readonly CommandSpec[] = [ping, dhcp, tftpboot];
