import { ringFeatures as carriedFeatures } from "@virtio/vhost-user/backend/features";
import { serveVhostUser, type VhostUserServer } from "@virtio/vhost-user/backend/server";
import type { CharacterBackend } from "virtio/backends/character";
import type { VirtioObserver } from "virtio/device/observer";
import { VIRTIO_F_IN_ORDER, featureBits } from "virtio/spec/core";
import { StreamCharacterBackend } from "@virtio/node";

import { DeviceBuilder, ringFeatures } from "../boot/build.ts";
import { openLog } from "../boot/open-log.ts";
import { optional } from "../optional.ts";
import { messageOf, UserError } from "../user-error.ts";
import type { ServeDescription, ServedDevice } from "./describe.ts";
import { notifyManager } from "./notify.ts";

/** Serves what is described until a signal ends it, or the last connection that was handed over does. Gives the exit status. */
export async function serve({ devices, session }: ServeDescription): Promise<number> {
  const stopped = stopSignal();
  const log = await openLog(session);
  const builder = new DeviceBuilder({
    get terminal(): CharacterBackend {
      return new StreamCharacterBackend(process.stdin, process.stdout);
    },
    warn,
  });
  const servers: VhostUserServer[] = [];
  try {
    for (const served of devices) servers.push(await open(served, builder, log?.observer));
    tell("READY=1");
    await Promise.race([stopped, Promise.all(servers.map((server) => server.closed))]);
    tell("STOPPING=1");
    return 0;
  } finally {
    await Promise.all(servers.map((server) => server.close()));
    await builder.close();
    log?.close();
  }
}

async function open(
  { description, socket }: ServedDevice,
  builder: DeviceBuilder,
  observer: VirtioObserver | undefined,
): Promise<VhostUserServer> {
  const { label, ring } = description;
  const { device } = await builder.build(description);
  // IN_ORDER is carried, though not offered unless it was asked for.
  const features = ringFeatures(ring) & (carriedFeatures(undefined) | featureBits(VIRTIO_F_IN_ORDER));
  try {
    const server = await serveVhostUser(device, {
      socket,
      label,
      features,
      onError: (error) => warn(`${label}: ${error.message}`),
      ...optional("observer", observer),
    });
    warn(`${label}: serving at ${typeof socket === "number" ? `descriptor ${socket}` : socket}`);
    return server;
  } catch (error) {
    throw new UserError(`${label}: ${messageOf(error)}`);
  }
}

/** Resolves at the first SIGTERM or SIGINT; a second one ends the process at once, as ever. */
function stopSignal(): Promise<void> {
  return new Promise((resolve) => {
    const stop = (): void => {
      process.off("SIGTERM", stop).off("SIGINT", stop);
      resolve();
    };
    process.on("SIGTERM", stop).on("SIGINT", stop);
  });
}

/** A service manager that cannot be told is no reason to stop. */
function tell(state: string): void {
  try {
    notifyManager(state);
  } catch (error) {
    warn(messageOf(error));
  }
}

function warn(message: string): void {
  process.stderr.write(`virtio: ${message}\n`);
}
