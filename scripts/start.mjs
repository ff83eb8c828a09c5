/**
 * npm start [-- OPTION…]: sets up what is missing and boots Linux in the embedded machine. The options are those of
 * `virtio boot`; without devices among them it has a sample disk, a shared directory and an entropy source.
 */
import { ensureBuild, ensureDependencies } from "./setup.mjs";

ensureDependencies();
ensureBuild("packages/cli");
const { main } = await import("../packages/cli/dist/main.js");
process.exit(await main(["boot", "--sample", ...process.argv.slice(2)]));
