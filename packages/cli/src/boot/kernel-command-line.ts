import { agentSlot } from "./agent.ts";
import type { MachineDescription } from "./description.ts";

/** What saves time, or has nothing to work on in this machine. Measured one by one: together four seconds of a boot. */
const fast =
  "tsc=reliable mitigations=off nokaslr apparmor=0 audit=0 cryptomgr.notests i8042.noaux 8250.nr_uarts=1 " +
  "lpj=4000000 nosmp noisapnp random.trust_cpu=off";

/** The command line of our own guest. */
export function guestCommandLine(machine: MachineDescription, verbose: boolean): string {
  const words = ["console=ttyS0", verbose ? "loglevel=7" : "quiet", fast];
  // The init of a whole system puts its login on /dev/console.
  if (machine.root !== undefined) words.push("console=hvc0");
  words.push(`virtio_control=0000:00:${agentSlot.toString(16).padStart(2, "0")}.0`);
  if (machine.append !== "") words.push(machine.append);
  return words.join(" ");
}
