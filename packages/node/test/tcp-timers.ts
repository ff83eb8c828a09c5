import { readFileSync } from "node:fs";

/**
 * Milliseconds until TCP's keep-alive asks for the peer, of each of this machine's connections to or from a port; undefined: it does not
 * ask. Linux only.
 */
export function keepAliveTimers(port: number): (number | undefined)[] {
  const end = `:${port.toString(16).toUpperCase().padStart(4, "0")}`;
  // Of each connection: local and remote address, state, queues, "timer:when" in hundredths of a second (proc_pid_net(5)).
  return ["tcp", "tcp6"]
    .flatMap((name) => readFileSync(`/proc/net/${name}`, "latin1").split("\n"))
    .map((line) => line.trim().split(/ +/))
    .filter(([, local, remote, state]) => state === "01" && [local, remote].some((one) => one?.endsWith(end)))
    .map(([, , , , , timer = ""]) =>
      timer.startsWith("02:") ? 10 * Number.parseInt(timer.slice(3), 16) : undefined,
    );
}
