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

/** Devices that are being served. */
export interface Serving {
  /** Resolves when no front-end will be served any more. */
  readonly closed: Promise<unknown>;
  /** Finishes what is in flight, and lets go of everything. */
  close(): Promise<void>;
}

/** Serves what is described until a signal ends it, or the last connection that was handed over does. Gives the exit status. */
export async function serve(description: ServeDescription): Promise<number> {
  const stopped = stopSignal();
  const serving = await startServing(description, warn);
  tell("READY=1");
  await Promise.race([stopped, serving.closed]);
  tell("STOPPING=1");
  await serving.close();
  return 0;
}

/** Serves what is described; resolves when every socket is there. A failure is a UserError that names the device. */
export async function startServing(
  { devices, session }: ServeDescription,
  say: (message: string) => void,
): Promise<Serving> {
  const log = await openLog(session);
  const builder = new DeviceBuilder({
    get terminal(): CharacterBackend {
      return new StreamCharacterBackend(process.stdin, process.stdout);
    },
    warn,
  });
  const servers: VhostUserServer[] = [];
  const close = async (): Promise<void> => {
    await Promise.all(servers.map((server) => server.close()));
    await builder.close();
    log?.close();
  };
  try {
    for (const served of devices) servers.push(await open(served, builder, log?.observer, say));
  } catch (error) {
    await close();
    throw error;
  }
  return { closed: Promise.all(servers.map((server) => server.closed)), close };
}

async function open(
  { description, socket }: ServedDevice,
  builder: DeviceBuilder,
  observer: VirtioObserver | undefined,
  say: (message: string) => void,
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
    say(`${label}: serving at ${typeof socket === "number" ? `descriptor ${socket}` : socket}`);
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
