import { QemuProcess } from "../src/process.ts";

/** A process that has a child and does nothing until it is ended: `node owner.js`. */
const child = new QemuProcess("sleep", ["1000"], []);
process.stdout.write(`${child.pid}\n`);
setInterval(() => undefined, 1000);
