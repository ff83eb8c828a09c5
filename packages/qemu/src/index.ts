/** QEMU machines without a guest: our drivers on the devices of a real QEMU, over qtest and QMP. */
export { splitCommandLine } from "./command-line.ts";
export { QemuError } from "./error.ts";
export { QemuMachine, type QemuDevice, type QemuMachineOptions } from "./machine/machine.ts";
export { QmpClient, QmpError, type QmpEvent, type QmpGreeting } from "./qmp/client.ts";
export { QtestClient, type QtestOptions } from "./qtest/client.ts";
