import { unknown } from "../options/values.ts";
import { guestArchitectures, guestSource } from "./architectures.ts";
import { installedGuest, installGuest, type GuestAssets } from "./assets.ts";
import type { MirrorOptions } from "./mirror.ts";
import { Progress } from "./progress.ts";

/** `virtio setup ARCHITECTURE…`: kernels and initial root file systems for QEMU. Gives the text to show. */
export async function setupArchitectures(
  home: string,
  words: readonly string[],
  mirror?: MirrorOptions,
): Promise<string> {
  const architectures = words.map((word) => {
    const found = guestArchitectures.find((name) => name === word);
    if (found === undefined) throw unknown("architecture", word, guestArchitectures);
    return found;
  });
  let text = "";
  for (const architecture of architectures) {
    const { release } = await installGuest(home, new Progress(), architecture, mirror);
    text += `Guest kernel ${release}: vmlinuz and initrd in ${home}/${guestSource(architecture).folder}\n`;
  }
  return text;
}

/** The guest of the embedded machine; what is not here yet is fetched. */
export async function guestAssets(
  home: string,
  mirror: MirrorOptions | undefined = mirrorOf(process.env),
): Promise<GuestAssets> {
  return installedGuest(home) ?? installGuest(home, new Progress(), "i386", mirror);
}

/** The mirror that `VIRTIO_MIRROR` names. */
export function mirrorOf(environment: NodeJS.ProcessEnv): MirrorOptions | undefined {
  const url = environment["VIRTIO_MIRROR"];
  return url === undefined || url === "" ? undefined : { url };
}
