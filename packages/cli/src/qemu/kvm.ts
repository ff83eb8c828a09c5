import { tryKeyval, type QemuOption } from "./command-line.ts";

/** Whether the command line asks for KVM, first or after what is not there. */
export function asksForKvm(program: string, options: readonly QemuOption[]): boolean {
  const accelerators = options.flatMap(({ name, value }) => {
    if (name === "enable-kvm") return ["kvm"];
    if (name === "accel") return [value.split(",")[0] ?? ""];
    if (!["machine", "M"].includes(name)) return [];
    return (tryKeyval(value, "type")?.get("accel") ?? "").split(":").filter((word) => word !== "");
  });
  // A QEMU that is called so takes it by itself.
  if (accelerators.length === 0) return program.endsWith("kvm");
  return accelerators.includes("kvm") && accelerators.indexOf("tcg") !== 0;
}
