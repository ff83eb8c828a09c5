import { serveVhostUser } from "@virtio/vhost-user";
import { SegmentWriter } from "virtio/memory/cursor";

/** Most that one request gets: what a driver can make us hold is bounded. */
const MAX_ROLLS = 4096;

/**
 * Dice, for a guest that takes them for an entropy device: what it reads from /dev/hwrng is rolls.
 * @type {import("virtio/device/device").VirtioDevice}
 */
const dice = {
  id: 4,
  name: "entropy",
  features: 0n,
  queues: [
    {
      name: "requestq",
      maxSize: 256,
      serve(chain, { memory }) {
        const length = Math.min(chain.writableLength, MAX_ROLLS);
        return new SegmentWriter(memory).start(chain.writable).copy(rolls(length));
      },
    },
  ],
};

/** So many bytes: digits from 1 to 6. */
function rolls(length) {
  return Uint8Array.from({ length }, () => 0x31 + Math.floor(6 * Math.random()));
}

const [socket = "/tmp/dice.sock"] = process.argv.slice(2);
const server = await serveVhostUser(dice, {
  socket,
  label: "dice",
  onConnect: () => console.log("a guest sits down"),
  onDisconnect: () => console.log("and goes"),
  onError: (error) => console.error(error.message),
});
console.log(`dice at ${socket}`);
for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, () => void server.close());
