import type { Console } from "../../lib/console.ts";
import { outputOf } from "../../lib/console.ts";

/** fio on the disk of the tools, which the guest mounts. */
const FIO = "/tools/loader --library-path /tools/lib /tools/fio";

export async function mountTools(shell: Console, disk: string): Promise<void> {
  await outputOf(shell, `mount -t ext4 -o ro ${disk} /tools`);
}

/** How often fio has to go over a disk to take as many seconds at least; it writes and reads some 25 MiB a second here. */
export function loopsFor(seconds: number, megabytes: number): number {
  return Math.max(1, Math.ceil((seconds * 25) / megabytes));
}

export interface FioOptions {
  readonly disk: string;
  readonly megabytes: number;
  /** Over the whole disk, each time with other contents. */
  readonly loops: number;
  readonly depth?: number;
  /** As many processes, each with a part of the disk of its own. */
  readonly jobs?: number;
  /** Also while writing: as many blocks back. */
  readonly backlog?: number;
}

/**
 * A command: writes all blocks of a disk in random order, of random sizes, past the page cache, with what is needed to tell
 * each from any other, reads them all and checks them; and all of this again. A block that is not what it has to be is an error.
 */
export function fioVerify({ disk, megabytes, loops, depth = 16, jobs = 1, backlog }: FioOptions): string {
  const share = Math.floor(megabytes / jobs);
  return (
    `${FIO} --name=verify --filename=${disk} --size=${share}M --offset_increment=${share}M --numjobs=${jobs} ` +
    `--ioengine=libaio --direct=1 --iodepth=${depth} --rw=randwrite --bsrange=4k-64k --verify=crc32c --do_verify=1 ` +
    `--verify_fatal=1 --verify_state_save=0 --serialize_overlap=1 --loops=${loops} --randrepeat=0 --fsync=200 ` +
    `--thread --group_reporting --eta=never --output=/tmp/fio` +
    (backlog === undefined ? "" : ` --verify_backlog=${backlog}`)
  );
}

/** What fio said it did: operations, amounts and errors. */
export async function fioReport(shell: Console): Promise<string> {
  const report = await outputOf(shell, "cat /tmp/fio");
  const lines = report.split("\n").filter((line) => /err=|issued rwts|READ:|WRITE:/.test(line));
  return lines.map((line) => line.trim()).join("; ");
}
