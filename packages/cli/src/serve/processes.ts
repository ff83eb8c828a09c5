import { openLog } from "../boot/open-log.ts";
import type { ServedDevice, ServeDescription } from "./describe.ts";
import { DeviceProcess } from "./device-process.ts";
import { DeviceSocket } from "./device-socket.ts";
import { timeNow, type Serving } from "./serving.ts";

/**
 * As `startServing`, with a process for each device: a front-end that takes guest memory away, or stops the thread that serves it,
 * ends its own device and no other one. The sockets stay here, so that a front-end finds them while a device is started again.
 */
export async function startProcesses(
  { devices, session }: ServeDescription,
  say: (message: string) => void,
): Promise<Serving> {
  const begun = timeNow();
  // Begins the file that the processes add to.
  (await openLog(session))?.close();
  const sockets: DeviceSocket[] = [];
  const all: DeviceProcess[] = [];
  const close = async (): Promise<void> => {
    await Promise.allSettled(all.map((one) => one.close()));
    for (const socket of sockets) socket.close();
  };
  try {
    for (const group of groupsOf(devices)) {
      const own = group.map((device) => new DeviceSocket(device));
      sockets.push(...own);
      all.push(await DeviceProcess.start({ sockets: own, session, begun }, say));
    }
  } catch (error) {
    await close();
    throw error;
  }
  return { closed: allEnded(all), close };
}

/** Devices by the process that serves them: those on one network hub share its memory, and are one. */
function groupsOf(devices: readonly ServedDevice[]): ServedDevice[][] {
  const hubs = new Map<number, ServedDevice[]>();
  const groups: ServedDevice[][] = [];
  for (const device of devices) {
    const { description } = device;
    const netdev = description.kind === "net" ? description.netdev : undefined;
    const hub = netdev?.kind === "hub" ? netdev.hub : undefined;
    const known = hub === undefined ? undefined : hubs.get(hub);
    if (known !== undefined) {
      known.push(device);
      continue;
    }
    const group = [device];
    if (hub !== undefined) hubs.set(hub, group);
    groups.push(group);
  }
  return groups;
}

/** What ended badly is told when the others have ended, too: one device must not be the end of another. */
async function allEnded(all: readonly DeviceProcess[]): Promise<void> {
  const ends = await Promise.allSettled(all.map(({ closed }) => closed));
  for (const end of ends) if (end.status === "rejected") throw end.reason;
}
