/** Drivers and how they get at a device: their options that cannot be. */
import { InProcessMachine } from "@virtio/testkit/machine";
import {
  multiple,
  within,
  untouched,
  bits,
  flags,
  numbers,
  texts,
  words,
  type OptionRow,
} from "@virtio/testkit/option-table";
import { MemoryFileSystem } from "../../src/backends/memory-file-system.ts";
import { ninePDevice } from "../../src/devices/9p/device.ts";
import { DmaPool } from "../../src/driver/dma.ts";
import { InterruptController } from "../../src/driver/interrupt-controller.ts";
import { openMmio } from "../../src/driver/mmio-transport.ts";
import { WindowAllocator } from "../../src/driver/pci-bars.ts";
import { openPci } from "../../src/driver/pci-open.ts";
import { ReceiveBuffers } from "../../src/driver/receive-buffers.ts";
import { DriverSession } from "../../src/driver/session.ts";
import type { DriverTransport } from "../../src/driver/types.ts";
import { BalloonDriver } from "../../src/drivers/balloon/driver.ts";
import { BlkDriver } from "../../src/drivers/blk/driver.ts";
import { ConsoleDriver } from "../../src/drivers/console/driver.ts";
import { EntropyDriver } from "../../src/drivers/entropy/driver.ts";
import { GpuDriver } from "../../src/drivers/gpu/driver.ts";
import { InputDriver } from "../../src/drivers/input/driver.ts";
import { NetDriver } from "../../src/drivers/net/driver.ts";
import { NinePDriver } from "../../src/drivers/9p/driver.ts";
import { ScsiDriver } from "../../src/drivers/scsi/driver.ts";
import { VsockDriver } from "../../src/drivers/vsock/driver.ts";
import { RegionMemory } from "../../src/memory/region-memory.ts";
import { Loopback } from "../support/loopback.ts";
import { TestVsock } from "../vsock/host.ts";

const U16 = 0xffff;
const U32 = 0xffff_ffff;
const SAFE = Number.MAX_SAFE_INTEGER;
const memory = new RegionMemory([{ gpa: 0, bytes: new Uint8Array(4096) }]);
/** A driver's `open` on a device whose registers nobody may touch. */
type Opens = (transport: DriverTransport, options: never) => Promise<unknown>;
const openOf =
  (open: Opens): ((options: object) => Promise<unknown>) =>
  (options) =>
    open(untouched({ name: "it", deviceId: 1, close: () => undefined }), options as never);
const session = { type: { id: 1, name: "device" }, wanted: 0n };

const connections: readonly OptionRow[] = [
  flags("openMmio(options.legacy)", "MMIO: legacy", (legacy) =>
    openMmio(untouched(), { base: 0, length: 512, line: 0 }, { legacy }),
  ),
  words("openPci(options.interface)", "PCI: interface", 'one of "modern", "legacy"', (it) =>
    pci({ interface: it }),
  ),
  words("openPci(options.interrupts)", "PCI: interrupts", 'one of "msix", "intx"', (interrupts) =>
    pci({ interrupts }),
  ),
  words("openPci(options.access)", "PCI: access", 'one of "bar", "config"', (access) => pci({ access })),
  within("new DmaPool(gpa)", "DMA memory: gpa", 0, SAFE, (gpa) => new DmaPool(memory, gpa, 0)),
  within("new DmaPool(length)", "DMA memory: length", 0, SAFE, (length) => new DmaPool(memory, 0, length)),
  within(
    "new InterruptController(lines)",
    "interrupt controller: lines",
    0,
    1024,
    (lines) => new InterruptController(lines, false),
  ),
  flags(
    "new InterruptController(messages)",
    "interrupt controller: messages",
    (messages) => new InterruptController(1, messages),
  ),
  within(
    "new WindowAllocator(window.base)",
    "window of addresses: base",
    0,
    SAFE,
    (base) => new WindowAllocator({ base, length: 0 }),
  ),
  within(
    "new WindowAllocator(window.length)",
    "window of addresses: length",
    0,
    SAFE,
    (length) => new WindowAllocator({ base: 0, length }),
  ),
  within(
    "new ReceiveBuffers(count)",
    "receive buffers: count",
    1,
    SAFE,
    (count) => new ReceiveBuffers(untouched(), untouched(), count, 1, () => undefined),
  ),
  within(
    "new ReceiveBuffers(size)",
    "receive buffers: size",
    1,
    U32,
    (size) => new ReceiveBuffers(untouched(), untouched(), 1, size, () => undefined),
  ),
];

function pci(options: object): unknown {
  return openPci(untouched(), { bus: 0, device: 0, function: 0 }, options);
}

const OPENS = {
  BalloonDriver: openOf((transport, options) => BalloonDriver.open(transport, options)),
  BlkDriver: openOf((transport, options) => BlkDriver.open(transport, options)),
  ConsoleDriver: openOf((transport, options) => ConsoleDriver.open(transport, options)),
  EntropyDriver: openOf((transport, options) => EntropyDriver.open(transport, options)),
  GpuDriver: openOf((transport, options) => GpuDriver.open(transport, options)),
  InputDriver: openOf((transport, options) => InputDriver.open(transport, options)),
  NetDriver: openOf((transport, options) => NetDriver.open(transport, options)),
  NinePDriver: openOf((transport, options) => NinePDriver.open(transport, options)),
  ScsiDriver: openOf((transport, options) => ScsiDriver.open(transport, options)),
  VsockDriver: openOf((transport, options) => VsockDriver.open(transport, options)),
};

/** A row of a number of a driver's `open`. */
function opened(
  driver: keyof typeof OPENS,
  owner: string,
  option: string,
  least: number,
  most: number,
): OptionRow {
  const open = OPENS[driver];
  return within(`${driver}.open(options.${option})`, `${owner}: ${option}`, least, most, (value) =>
    open({ [option]: value }),
  );
}

const opens: readonly OptionRow[] = [
  ...Object.entries(OPENS).map(([driver, open]) =>
    bits(`${driver}.open(options.ring)`, "it: ring", (ring) => open({ ring })),
  ),
  flags("BalloonDriver.open(options.follow)", "balloon: follow", (follow) => OPENS.BalloonDriver({ follow })),
  opened("BalloonDriver", "balloon", "maxPages", 0, SAFE),
  opened("BalloonDriver", "balloon", "poison", 0, U32),
  ...(
    [
      ["BlkDriver", "blk"],
      ["ScsiDriver", "scsi"],
    ] as const
  ).flatMap(([driver, owner]) => [
    opened(driver, owner, "depth", 1, 32_768),
    opened(driver, owner, "queues", 1, U16),
    numbers(
      `${driver}.open(options.transferSize)`,
      `${owner}: transferSize`,
      multiple(512, 512, 2 ** 30),
      (transferSize) => OPENS[driver]({ transferSize }),
      0,
      1000,
      2 ** 31,
    ),
  ]),
  flags("ConsoleDriver.open(options.multiport)", "console: multiport", (multiport) =>
    OPENS.ConsoleDriver({ multiport }),
  ),
  opened("ConsoleDriver", "console", "receiveCount", 1, 32_768),
  opened("ConsoleDriver", "console", "receiveSize", 1, 2 ** 24),
  opened("ConsoleDriver", "console", "transmitCount", 1, 32_768),
  opened("ConsoleDriver", "console", "transmitSize", 1, 2 ** 24),
  opened("InputDriver", "input", "maxWaiting", 1, SAFE),
  bits("NetDriver.open(options.without)", "it: without", (without) => OPENS.NetDriver({ without })),
  opened("NetDriver", "net", "receiveCount", 1, 32_768),
  opened("NetDriver", "net", "receiveSize", 12, 2 ** 20),
  opened("NetDriver", "net", "maxWaiting", 1, SAFE),
  opened("NinePDriver", "9p", "msize", 4096, U32),
  opened("NinePDriver", "9p", "maxRequests", 1, 32_768),
  ...(["open", "start"] as const).flatMap((name) => {
    const open = openOf((transport, options: object) =>
      name === "open"
        ? DriverSession.open(transport, { ...session, ...options })
        : DriverSession.start(transport, { ...session, ...options }, () => undefined),
    );
    return [
      ...["wanted", "without", "required", "ring"].map((option) =>
        bits(`DriverSession.${name}(options.${option})`, `it: ${option}`, (value) =>
          open({ [option]: value }),
        ),
      ),
      within(`DriverSession.${name}(options.config)`, "it: config", 0, U32, (config) => open({ config })),
      within(`DriverSession.${name}(options.type.id)`, "it: id of the type", 0, U32, (id) =>
        open({ type: { id, name: "device" } }),
      ),
      within(
        `DriverSession.${name}(options.dependencies[].feature)`,
        "it: feature of a dependency",
        0,
        127,
        (feature) => open({ dependencies: [{ feature, needs: [] }] }),
      ),
      texts(
        `DriverSession.${name}(options.type.name)`,
        "it: name of the type",
        "a string that is not empty",
        (it) => open({ type: { id: 1, name: it } }),
      ),
    ];
  }),
];

/** Of drivers that are up. */
const driverMethods: readonly OptionRow[] = [
  ...(["connect", "listen"] as const).flatMap((method) => {
    const call = async (options: object): Promise<unknown> => {
      const driver = await VsockDriver.open(new Loopback(new TestVsock()));
      return method === "listen" ? driver.listen(80, options) : driver.connect({ cid: 2, port: 80 }, options);
    };
    const at = (option: string): string => `VsockDriver.${method}(options.${option})`;
    return [
      words(at("kind"), "vsock: kind", 'one of "stream", "seqpacket"', (kind) => call({ kind })),
      within(at("receiveBuffer"), "vsock: receiveBuffer", 1, 2 ** 31 - 1, (receiveBuffer) =>
        call({ receiveBuffer }),
      ),
      ...(method === "listen"
        ? [within(at("backlog"), "vsock: backlog", 1, SAFE, (backlog) => call({ backlog }))]
        : [within(at("localPort"), "vsock: localPort", 0, U32 - 1, (localPort) => call({ localPort }))]),
    ];
  }),
  within("NinePDriver.attach(options.uid)", "9p: uid", 0, U32, (uid) => attach({ uid })),
  texts("NinePDriver.attach(options.directory)", "9p: directory", "a string", (directory) =>
    attach({ directory }),
  ),
];

async function attach(options: object): Promise<unknown> {
  const machine = new InProcessMachine();
  const device = ninePDevice({ tag: "t", fileSystem: new MemoryFileSystem() });
  const driver = await NinePDriver.open(machine.plugMmio(device).open());
  return driver.attach(options);
}

export const drivers: readonly OptionRow[] = [...connections, ...opens, ...driverMethods];
