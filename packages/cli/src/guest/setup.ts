import { unknown } from "../options/values.ts";
import { guestArchitectures, guestSource } from "./architectures.ts";
import { installGuest } from "./assets.ts";
import { Progress } from "./progress.ts";

/** `virtio setup ARCHITECTURE…`: kernels and initial root file systems for QEMU. Gives the text to show. */
export async function setupArchitectures(home: string, words: readonly string[]): Promise<string> {
  const architectures = words.map((word) => {
    const found = guestArchitectures.find((name) => name === word);
    if (found === undefined) throw unknown("architecture", word, guestArchitectures);
    return found;
  });
  let text = "";
  for (const architecture of architectures) {
    const { release } = await installGuest(home, new Progress(), architecture);
    text += `Guest kernel ${release}: vmlinuz and initrd in ${home}/${guestSource(architecture).folder}\n`;
  }
  return text;
}
