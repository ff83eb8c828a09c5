export { FileBlockBackend, type FileBlockOptions } from "./block/file-block.ts";
export { FileCharacterBackend } from "./character/file.ts";
export { SocketCharacterBackend } from "./character/socket.ts";
export { StreamCharacterBackend } from "./character/stream.ts";
export { hostEntropy } from "./entropy.ts";
export type { EndpointOptions, SocketAddress } from "./net/endpoint.ts";
export { StreamNetBackend } from "./net/stream.ts";
export { HostDirectory, type HostDirectoryOptions } from "./directory/host-directory.ts";
export type { SecurityModel } from "./directory/ownership.ts";
