/** Devices behind a real hypervisor, and drivers on anybody's back-end: the vhost-user protocol from both ends. */
export { openDescriptors } from "./native/descriptor.ts";
export { serveVhostUser, type VhostUserServer } from "./backend/server.ts";
export type { VhostUserOptions } from "./backend/options.ts";
export type { ObjectSharer, SharedObjectExchange } from "./backend/shared-objects.ts";
export type { CryptoSessionKeeper } from "./backend/crypto-sessions.ts";
export type { AsymmetricSession, CryptoSession, SymmetricSession } from "./protocol/crypto-session.ts";
export { mainLoopPoller } from "./native/poller.ts";
export { BlockingLoop } from "./native/blocking-loop.ts";
export { VhostUserTransport } from "./frontend/transport.ts";
export type { FrontendOptions, ReconnectOptions } from "./frontend/options.ts";
export { SharedObjectTable, type ObjectExporter } from "./frontend/shared-objects.ts";
