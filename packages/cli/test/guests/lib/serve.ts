import { root } from "../../guest/virtio.ts";
import { Console } from "./console.ts";

/** `virtio serve` as a process of its own, when its sockets are there. */
export async function serve(argv: readonly string[]): Promise<Console> {
  const count = argv.filter((word) => word === "--socket").length;
  const server = new Console(
    "virtio serve",
    process.execPath,
    ["packages/cli/bin/virtio.js", "serve", ...argv],
    root,
  );
  for (let index = 0; index < count; index++) await server.until(/serving at/, 30_000);
  return server;
}

/** Ends it as a service manager does. */
export async function stop(server: Console): Promise<void> {
  server.child.kill("SIGTERM");
  const status = await server.finish(20_000);
  if (status !== 0) throw server.error(`ended with ${String(status)}`);
  // Node.js', of something that was not let go of.
  if (/Warning: /.test(server.tail)) throw server.error("said something that a user must not see");
}
