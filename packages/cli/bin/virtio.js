#!/usr/bin/env node
import { existsSync } from "node:fs";

const build = new URL("../dist/main.js", import.meta.url);
if (!existsSync(build)) {
  process.stderr.write("virtio: not compiled yet; npm start in the clone does that\n");
  process.exit(1);
}
const { main } = await import(build.href);
// Output is written synchronously, so nothing is lost; whatever would still keep the process alive is not waited for.
process.exit(await main(process.argv.slice(2)));
