import type { BootDescription } from "../options/describe.ts";
import type { DeviceDescription } from "./description.ts";

/** What is plugged in and what to try: shown above the guest's first prompt. */
export function welcome({ machine }: BootDescription): string {
  let disks = 0;
  const lines = machine.devices.flatMap((device) =>
    deviceLine(device, () => `/dev/vd${"abcdefgh"[disks++] ?? "?"}`),
  );
  const share = machine.mounts[0]?.folder;
  const tries = [
    disks > 0 ? "mount /dev/vda /media && ls /media" : undefined,
    share === undefined ? undefined : `ls ${share}`,
    machine.devices.some((device) => device.kind === "entropy")
      ? "head -c 16 /dev/hwrng | hexdump -C"
      : undefined,
  ];
  return (
    `Linux in the embedded machine, on VIRTIO devices written in TypeScript:\n${lines.join("")}` +
    `Try: ${tries.filter(Boolean).join("   ")}\nCtrl-A X leaves, Ctrl-A ? lists the keys.\n\n`
  );
}

function deviceLine(device: DeviceDescription, diskName: () => string): string[] {
  const row = (name: string, what: string): string[] => [`  ${name.padEnd(12)} ${what}\n`];
  switch (device.kind) {
    case "blk":
      return row(diskName(), `disk ${device.drive.file}`);
    case "entropy":
      return row("/dev/hwrng", "entropy of the host");
    case "9p":
      return row("/mnt/host", `directory ${device.directory.path}`);
    case "console":
      return row("/dev/hvc0", "this terminal");
    case "net":
      return row("eth0", "network");
  }
}
