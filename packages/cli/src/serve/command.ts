import { requireNative } from "@virtio/node/native/platform";

import { parseArguments } from "../options/arguments.ts";
import { usageError } from "../user-error.ts";
import { describeServe, deviceWord } from "./describe.ts";
import { passedSockets, whyNotPassed } from "./socket-activation.ts";
import { deviceWords, serveOptions } from "./table.ts";

/** Runs `virtio serve`; gives its exit status. What serves is not loaded before the options are right. */
export async function serveCommand(argv: readonly string[]): Promise<number> {
  // Everything else is to be ignored then, says vhost-user's "Backend program conventions".
  if (argv.some((word) => /^--?print-capabilities$/.test(word))) {
    const names = deviceWords.map(({ word }) => word);
    const isShare = (candidate: string): boolean => /^--?share(=|$)/.test(candidate);
    const first = argv.find((word) => names.includes(word.split(",")[0] ?? "") || isShare(word)) ?? "";
    return print(`${JSON.stringify(deviceWord(isShare(first) ? "9p" : first).capabilities)}\n`);
  }
  const words = deviceWords.map(({ word }) => word);
  const given = parseArguments(argv, serveOptions, words);
  const { serveHelp } = await import("./help.ts");
  if (given.length === 0) return usageError(serveHelp());
  if (given.some(({ name }) => name === "help")) return print(serveHelp());
  const asked = given.find(({ name, value }) => name === "" && /,(help|\?)$/.test(value));
  if (asked !== undefined) {
    const { deviceHelp } = await import("../options/help.ts");
    const { deviceType } = await import("../options/describe-device.ts");
    return print(deviceHelp(deviceType(deviceWord(asked.value).driver)));
  }
  const description = describeServe(given, { sockets: passedSockets(), why: whyNotPassed() });
  requireNative("virtio serve");
  const { serve } = await import("./serve.ts");
  return serve(description);
}

function print(text: string): number {
  process.stdout.write(text);
  return 0;
}
