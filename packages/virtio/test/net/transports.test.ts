import { expect, test } from "vitest";
import { NetHub } from "../../src/backends/net-hub.ts";
import { NetDevice } from "../../src/devices/net/device.ts";
import { NetDriver } from "../../src/drivers/net/driver.ts";
import { firstDifference } from "../support/ends.ts";
import { settle } from "../support/loopback.ts";
import { WAYS } from "../support/ways.ts";
import { BROADCAST, MAC, PEER, frame } from "./frames.ts";

test.each(WAYS)("two machines on a hub, over $name", async ({ connect, legacy }) => {
  const hub = new NetHub();
  const options = { speed: 1000, mtu: 1500 };
  const devices = [MAC, PEER].map((mac) => new NetDevice({ backend: hub.port(), mac, ...options }));
  const drivers = await Promise.all(devices.map((device) => NetDriver.open(connect(device))));
  const [here, there] = drivers;
  const [device] = devices;
  if (here === undefined || there === undefined || device === undefined) throw new Error("unreachable");
  for (const driver of drivers) await driver.control.setRxMode("promiscuous", false);
  for (let i = 0; i < 300; i++) {
    await here.send(frame(i % 10 === 0 ? BROADCAST : PEER, 60 + (i % 1400), i));
    expect((await there.receive())?.length).toBe(60 + (i % 1400));
    await there.send(frame(MAC, 1514, i));
    const got = await here.receive();
    expect(got && firstDifference(got, frame(MAC, 1514, i))).toBe(-1);
  }
  // Nobody else's frames.
  await here.send(frame(Uint8Array.of(2, 2, 2, 2, 2, 2), 60));
  expect(devices[1]?.counters.filtered).toBe(1);
  expect([here.mtu, here.speed, here.fullDuplex]).toEqual([
    1500,
    legacy ? undefined : 1000,
    legacy ? undefined : true,
  ]);
  let announced = 0;
  here.onAnnounce = () => void announced++;
  device.announce();
  device.setLink(false);
  await settle();
  expect([here.linkUp, announced]).toEqual([false, 1]);
  for (const driver of drivers) await driver.close();
});
