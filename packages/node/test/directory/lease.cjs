// Holds a read lease on a file until its standard input ends, and does not give it up when it is asked to.
const { openSync } = require("node:fs");
const koffi = require("koffi");

const F_SETLEASE = 1024;
const F_RDLCK = 0;
process.on("SIGIO", () => {});
const fcntl = koffi.load(null).func("int fcntl(int fd, int command, int argument)");
const held = fcntl(openSync(process.argv[2], "r"), F_SETLEASE, F_RDLCK) === 0;
process.stdout.write(held ? "lease\n" : "none\n");
process.stdin.resume().on("end", () => process.exit(0));
