import { bound } from "@virtio/testkit/bound";
import * as vu from "@virtio/vhost-user/protocol/numbers";
import { afterEach, beforeEach, test } from "vitest";
import { GUEST, PeerRing, RAM, VERSION_1 } from "../../../vhost-user/test/backend/peer.ts";
import { Served } from "./lib/served.ts";

/** Front-ends that keep a device busy, beside another device of the same process. */

const TRANSMIT = 1;
const CHAINS = 128;

let served: Served;
beforeEach(() => {
  served = new Served();
});
afterEach(() => served.remove());

test("one kick of a console with long buffers", async () => {
  await served.start("console --socket a --chardev ringbuf entropy --socket b", 2);
  const peer = served.peer("a");
  await peer.open(VERSION_1);
  const ring = new PeerRing(peer, VERSION_1, CHAINS, TRANSMIT);
  await ring.start();
  const victim = served.peer("b");
  await victim.open(VERSION_1);
  for (let i = 0; i < CHAINS; i++) ring.driver.addAvailable([{ gpa: GUEST, length: RAM }], []);
  ring.notify(true);
  let longest = 0;
  let used = 0;
  while (used < CHAINS) {
    const before = served.processor();
    await victim.u64(vu.GET_FEATURES);
    longest = Math.max(longest, served.processor() - before);
    while (ring.driver.popUsed() !== undefined) used++;
  }
  bound({
    what: `${CHAINS} buffers of ${RAM >> 20} MiB to a console, one kick: processor time that another device waits`,
    measured: longest,
    limit: 20,
    unit: "ms",
  });
});
