import { UserError } from "../user-error.ts";

/** A socket that the service manager opened for us. */
export interface PassedSocket {
  readonly fd: number;
  /** Its `FileDescriptorName=`; without one, its unit's name. */
  readonly name: string;
}

/** The first descriptor behind the standard ones: SD_LISTEN_FDS_START. */
const FIRST = 3;
/** A manager that says more than this means something else. */
const MOST = 1024;

/**
 * The sockets of systemd's socket activation, as sd_listen_fds_with_names(3) finds them; none when they are another process's. Throws
 * a UserError for an environment that cannot be.
 */
export function passedSockets(
  environment: NodeJS.ProcessEnv = process.env,
  pid: number = process.pid,
): readonly PassedSocket[] {
  const { LISTEN_FDS: count = "", LISTEN_FDNAMES: names } = environment;
  if (count === "" || environment["LISTEN_PID"] !== `${pid}`) return [];
  if (!/^\d{1,4}$/.test(count) || Number(count) > MOST) {
    throw new UserError(`LISTEN_FDS=${count} is no number of sockets`);
  }
  const all = Array.from({ length: Number(count) }, (_, i) => FIRST + i);
  const given = names === undefined || names === "" ? all.map(() => "unknown") : names.split(":");
  if (given.length !== all.length) {
    throw new UserError(`LISTEN_FDNAMES has ${given.length} names for ${all.length} sockets`);
  }
  return all.map((fd, i) => ({ fd, name: given[i] ?? "" }));
}

/** Why there are none, for a message; empty when nobody passed any. */
export function whyNotPassed(
  environment: NodeJS.ProcessEnv = process.env,
  pid: number = process.pid,
): string {
  const { LISTEN_FDS: count, LISTEN_PID: whose } = environment;
  if (count === undefined || whose === `${pid}`) return "";
  return `; the sockets of LISTEN_FDS=${count} are for process ${whose ?? "(none)"}, and this is ${pid}: start virtio without npx or a shell`;
}
