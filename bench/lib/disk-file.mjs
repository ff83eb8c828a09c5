import { closeSync, fsyncSync, openSync, rmSync, writeFileSync, writeSync } from "node:fs";

const BLOCK = 4096;

/**
 * A disk of `size` bytes in which each block of 4 KiB starts with its number. It is written block by block, as guests do: of what comes
 * in large pieces ext4 makes large folios (Linux 6.18), and every write then walks through one.
 */
export function makeDisk(file, size) {
  rmSync(file, { force: true });
  writeFileSync(file, "");
  dirtyDisk(file, size);
}

/**
 * Nothing waits to be written any more; then every page is made dirty, with the content of a new disk. Otherwise writes would meet pages
 * that are on their way to the disk, or turn clean ones dirty: that costs ext4 10 to 70 us each, whoever writes, and would be what is
 * measured.
 */
export function dirtyDisk(file, size) {
  const fd = openSync(file, "r+");
  fsyncSync(fd);
  const block = Buffer.alloc(BLOCK);
  for (let at = 0; at < size; at += BLOCK) {
    block.writeUInt32LE(at / BLOCK, 0);
    writeSync(fd, block, 0, BLOCK, at);
  }
  closeSync(fd);
}
