import type { CommandSpec } from "../command.ts";
import { basicCommands } from "./basics.ts";
import { bdinfo } from "./board.ts";
import { environmentCommands } from "./environment.ts";
import { fileCommands } from "./files.ts";
import { memoryCommands } from "./memory.ts";
import { networkCommands } from "./network.ts";
import { rng } from "./random.ts";
import { virtio } from "./virtio.ts";

/** Every command of the shell. */
export const commands: readonly CommandSpec[] = [
  ...basicCommands,
  ...environmentCommands,
  ...fileCommands,
  ...memoryCommands,
  ...networkCommands,
  bdinfo,
  rng,
  virtio,
];
