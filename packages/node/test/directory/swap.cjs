// Swaps a directory and a symlink that leads out of the share, again and again, until it is told to stop.
const { renameSync, existsSync } = require("node:fs");
const [name, aside, other, stop] = process.argv.slice(2);
process.stdout.write("go\n");
let rounds = 0;
do {
  for (let i = 0; i < 200; i++, rounds++) {
    renameSync(name, aside);
    renameSync(other, name);
    renameSync(name, other);
    renameSync(aside, name);
  }
} while (!existsSync(stop));
process.stdout.write(`${rounds}\n`);
