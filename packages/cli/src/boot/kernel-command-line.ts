import { KERNEL_PARAMETERS } from "@virtio/v86/boot";

import { agentSlot } from "./agent.ts";
import type { MachineDescription } from "./description.ts";

/** The command line of our own guest. */
export function guestCommandLine(machine: MachineDescription, verbose: boolean): string {
  const words = ["console=ttyS0", verbose ? "loglevel=7" : "quiet", KERNEL_PARAMETERS, "noisapnp"];
  // The init of a whole system puts its login on /dev/console.
  if (machine.root !== undefined) words.push("console=hvc0");
  words.push(`virtio_control=0000:00:${agentSlot.toString(16).padStart(2, "0")}.0`);
  if (machine.append !== "") words.push(machine.append);
  return words.join(" ");
}
