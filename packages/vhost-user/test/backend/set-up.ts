import type { VhostUserServer } from "@virtio/vhost-user/backend/server";
import { EchoDevice } from "./echo-device.ts";
import { Peer, PeerRing, serve } from "./peer.ts";

/** A served device, and a peer that has set up all but its ring. */
export interface SetUp {
  readonly device: EchoDevice;
  readonly server: VhostUserServer;
  readonly peer: Peer;
  readonly ring: PeerRing;
  readonly errors: Error[];
  readonly end: () => Promise<void>;
}

export async function setUp(features: bigint, device = new EchoDevice(), without?: bigint): Promise<SetUp> {
  const { server, socket, errors } = await serve(device);
  const peer = new Peer(socket);
  await peer.open(features, without);
  const ring = new PeerRing(peer, features);
  return {
    device,
    server,
    peer,
    ring,
    errors,
    end: async () => {
      ring.close();
      peer.close();
      await server.closed;
    },
  };
}
