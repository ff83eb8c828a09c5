/**
 * What a device pays for a descriptor: our split and packed rings beside v86's own virtqueue, on the same guest memory
 * (v86's wasm memory), the same chains, in the same run, alternately.
 *
 *     npm run bench:ring
 */
import { createRequire } from "node:module";
import { VIRTIO_F_INDIRECT_DESC } from "virtio/spec/core";
import { createDeviceQueue, createDriverQueue } from "virtio/virtqueue/create";
import { RegionMemory } from "virtio/memory/region-memory";
import { printTable } from "./lib/table.mjs";

const SIZE = 256;
const ROUNDS = 400;
const SAMPLES = 9;
const DESCRIPTOR_AREA = 0x10_0000;
const DRIVER_AREA = 0x11_0000;
const DEVICE_AREA = 0x12_0000;
const INDIRECT_TABLES = 0x20_0000;
const BUFFERS = 0x100_0000;
const INDIRECT_ENTRIES = 32;

const cpu = await v86Cpu();
const guestBytes = new Uint8Array(cpu.wasm_memory.buffer, cpu.mem8.byteOffset, cpu.memory_size[0]);
const memory = new RegionMemory([{ gpa: 0, bytes: guestBytes }]);

const shapes = [
  { what: "1 descriptor a chain", readable: 1, writable: 0, indirect: false },
  { what: "3 descriptors a chain", readable: 1, writable: 2, indirect: false },
  { what: "16 descriptors a chain", readable: 1, writable: 15, indirect: false },
  { what: "3 descriptors, indirect", readable: 1, writable: 2, indirect: true },
];
const rows = [];
for (const shape of shapes)
  for (const packed of [false, true]) {
    const ours = [];
    const peer = [];
    for (let sample = 0; sample < SAMPLES; sample++) {
      ours.push(measure(shape, packed, oursLoop));
      peer.push(measure(shape, false, v86Loop));
    }
    rows.push({
      what: `${packed ? "packed" : "split"}, ${shape.what}`,
      unit: "ns a descriptor",
      // The first samples are the compiler's.
      ours: ours.slice(2),
      peer: peer.slice(2),
      better: "less",
      aim: "<= 30 ns, >= 5x",
    });
  }
printTable("Ring, device side", "v86's virtqueue (split)", rows);
process.exit(0);

/** Nanoseconds a descriptor, device side only; the driver side runs between the measurements. */
function measure(shape, packed, makeLoop) {
  guestBytes.fill(0, DESCRIPTOR_AREA, DEVICE_AREA + 0x1_0000);
  const config = {
    index: 0,
    size: SIZE,
    descriptorArea: DESCRIPTOR_AREA,
    driverArea: DRIVER_AREA,
    deviceArea: DEVICE_AREA,
    indirect: shape.indirect,
  };
  const tables = { gpa: INDIRECT_TABLES, entries: INDIRECT_ENTRIES };
  const driver = createDriverQueue(memory, config, packed, tables);
  const loop = makeLoop(config, packed);
  const count = shape.readable + shape.writable;
  // An indirect chain has one descriptor more: the one that names the table.
  const descriptors = shape.indirect ? count + 1 : count;
  const chains = Math.floor(SIZE / (shape.indirect ? 1 : count)) - 1;
  const segments = Array.from({ length: count }, (_, i) => ({ gpa: BUFFERS + 4096 * i, length: 4096 }));
  const readable = segments.slice(0, shape.readable);
  const writable = segments.slice(shape.readable);
  let nanoseconds = 0n;
  for (let round = 0; round < ROUNDS; round++) {
    for (let i = 0; i < chains; i++) driver.addAvailable(readable, writable);
    driver.takeNotification();
    const start = process.hrtime.bigint();
    const served = loop();
    nanoseconds += process.hrtime.bigint() - start;
    if (served !== chains) throw new Error(`served ${served} of ${chains}`);
    while (driver.popUsed() !== undefined);
  }
  return Number(nanoseconds) / (ROUNDS * chains * descriptors);
}

function oursLoop(config, packed) {
  const queue = createDeviceQueue(memory, config, packed);
  return () => {
    let served = 0;
    queue.setNotifications(false);
    for (let chain = queue.popAvailable(); chain !== undefined; chain = queue.popAvailable()) {
      queue.addUsed(chain, chain.writableLength);
      served++;
    }
    queue.takeNotification();
    queue.setNotifications(true);
    return served;
  };
}

/** The same work with v86's own class, as its devices use it. */
function v86Loop(config) {
  const queue = cpu.devices.virtio_console.virtio.queues[0];
  queue.reset();
  queue.set_size(config.size);
  queue.desc_addr = config.descriptorArea;
  queue.avail_addr = config.driverArea;
  queue.used_addr = config.deviceArea;
  queue.virtio.raise_irq = () => {};
  // Without VIRTIO_F_INDIRECT_DESC it would take a table's descriptor for a buffer.
  queue.virtio.is_feature_negotiated = (bit) => bit === VIRTIO_F_INDIRECT_DESC;
  return () => {
    let served = 0;
    while (queue.has_request()) {
      const chain = queue.pop_request();
      chain.length_written = chain.length_writable;
      queue.push_reply(chain);
      served++;
    }
    queue.flush_replies();
    return served;
  };
}

async function v86Cpu() {
  const { V86 } = await import("v86");
  const wasm = createRequire(import.meta.url)
    .resolve("v86")
    .replace(/[^/]*$/, "v86.wasm");
  const emulator = new V86({
    wasm_path: wasm,
    autostart: false,
    memory_size: 64 << 20,
    virtio_console: true,
    disable_keyboard: true,
    disable_mouse: true,
    disable_speaker: true,
  });
  await new Promise((resolve) => emulator.add_listener("emulator-loaded", resolve));
  return emulator.v86.cpu;
}
