import { outputOf, type Console } from "../../lib/console.ts";

const PORT = 7000;

export const mac = (number: number): string => `52:54:00:00:00:0${number}`;
export const address = (number: number): string => `10.0.0.${number}`;

/** Gives a guest its address. */
export async function configure(guest: Console, number: number): Promise<void> {
  await outputOf(guest, `ip addr add ${address(number)}/24 dev eth0 && ip link set eth0 up`);
}

/** Takes one transfer, in the background: as nobody's child, for a busybox that waits for a line ends when one of its own does. */
export async function receive(guest: Console): Promise<void> {
  // Its own input must not end before the other's, or the other takes that for the end.
  const listen = `nc -l -p ${PORT} <>/tmp/never`;
  await outputOf(guest, `mkfifo /tmp/never; ((${listen} | md5sum >/tmp/received) &) ; sleep 1`);
}

/** The sum of what was taken. */
export async function sumOf(guest: Console): Promise<string> {
  return outputOf(guest, "until [ -s /tmp/received ]; do sleep 1; done; cat /tmp/received");
}

/** Sends so many MiB, the same one again and again, to another guest; gives their sum. */
export async function send(guest: Console, to: number, megabytes: number): Promise<string> {
  return outputOf(guest, sendWhile(to, `[ $n -lt ${megabytes} ]`), 5 * 60_000);
}

/** The same as a command, for so many seconds. */
export function sendFor(to: number, seconds: number): string {
  return sendWhile(to, `[ $(cut -d . -f 1 /proc/uptime) -lt $((start + ${seconds})) ]`);
}

/** What is sent is counted, and that many are summed in the end. */
function sendWhile(to: number, condition: string): string {
  const loop = `while ${condition}; do cat /tmp/one; n=$((n + 1)); echo $n >/tmp/count; done`;
  const again = "n=$(cat /tmp/count); while [ $n -gt 0 ]; do cat /tmp/one; n=$((n - 1)); done";
  return (
    "head -c 1048576 /dev/urandom >/tmp/one; n=0; start=$(cut -d . -f 1 /proc/uptime); " +
    `(${loop}) | nc ${address(to)} ${PORT} && (${again}) | md5sum`
  );
}
