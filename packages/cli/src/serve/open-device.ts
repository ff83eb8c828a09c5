import type { Poller } from "@virtio/node/native/poller";
import { ringFeatures as carriedFeatures } from "@virtio/vhost-user/backend/features";
import { serveVhostUser, type VhostUserServer } from "@virtio/vhost-user/backend/server";
import type { VirtioObserver } from "virtio/device/observer";
import type { Scheduler } from "virtio/device/scheduler";
import { VIRTIO_F_IN_ORDER, featureBits } from "virtio/spec/core";

import { ringFeatures, type DeviceBuilder } from "../boot/build.ts";
import { optional } from "../optional.ts";
import { messageOf, UserError } from "../user-error.ts";
import { placeOf, type ServedDevice, type ServeSession } from "./describe.ts";

/** The thread that a device is served on, and who watches it. */
export interface ServingThread {
  readonly builder: DeviceBuilder;
  readonly poller?: Poller;
  readonly scheduler?: Scheduler;
  readonly observer?: VirtioObserver | undefined;
  readonly session: ServeSession;
  /** Something went wrong. */
  readonly warn: (message: string) => void;
  /** How it goes. */
  readonly say: (message: string) => void;
}

/** Makes a device and serves it on this thread. */
export async function openDevice(
  served: ServedDevice,
  { builder, poller, scheduler, observer, session, warn, say }: ServingThread,
): Promise<VhostUserServer> {
  const { description, socket } = served;
  const { label, ring } = description;
  const { device } = await builder.build(description);
  // IN_ORDER is carried, though not offered unless it was asked for.
  const features = ringFeatures(ring) & (carriedFeatures(undefined) | featureBits(VIRTIO_F_IN_ORDER));
  try {
    const server = await serveVhostUser(device, {
      socket,
      label,
      features,
      sealedMemoryOnly: session.sealedMemory,
      onError: (error) => warn(`${label}: ${messageOf(error)}`),
      ...optional("observer", observer),
      ...optional("poller", poller),
      ...optional("scheduler", scheduler),
    });
    say(`${label}: serving at ${placeOf(served)}`);
    return server;
  } catch (error) {
    throw new UserError(`${label}: ${messageOf(error)}`);
  }
}
