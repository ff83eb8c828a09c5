import { featureNames } from "virtio/spec/feature-names";
import type { Context } from "../command.ts";
import { findDevices, heading } from "./find.ts";
import { hexOf } from "./words.ts";

const BITS = 64;

/** `virtio features`: what is offered, and what the driver accepted. */
export async function showFeatures(context: Context, text: string | undefined): Promise<number> {
  for (const device of await findDevices(context, text)) {
    const { transport } = device;
    context.out.write(`${heading(device)}\n`);
    if (transport === undefined) continue;
    const offered = transport.readDeviceFeatures();
    const accepted = transport.driverFeatures;
    context.out.write(`  offered  ${hexOf(offered, 8)}\n`);
    context.out.write(
      `  accepted ${accepted === undefined ? "nothing yet: no driver" : hexOf(accepted, 8)}\n`,
    );
    for (let bit = 0; bit < BITS; bit++) {
      const mask = 1n << BigInt(bit);
      if (((offered | (accepted ?? 0n)) & mask) === 0n) continue;
      const [name = ""] = featureNames(transport.deviceId, mask);
      const used = ((accepted ?? 0n) & mask) === 0n ? "offered" : "accepted";
      context.out.write(`  ${String(bit).padStart(2)}  ${name.padEnd(22)} ${used}\n`);
    }
  }
  return 0;
}
