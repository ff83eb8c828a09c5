import type { GuestArchitecture } from "./architectures.ts";

/**
 * SHA-256 of packages that this project was tested with, as Debian's signed indexes have them, by `NAME VERSION`. They are what is
 * trusted where no signature can be checked. A release of Debian replaces its kernel some times a year; older ones are then
 * on archives that keep everything.
 */
export const pinnedPackages: Readonly<Record<GuestArchitecture, Readonly<Record<string, string>>>> = {
  i386: {
    "linux-image-6.1.0-47-686 6.1.170-3": "67c724a5d15f4a95edc3cbe7c15fbc6dd89eb2d4a247ce06cbf3a8d21854356a",
    "linux-image-6.1.0-50-686 6.1.176-1": "526c469c5148a2b61c4241c3f6575427096575e0ffef9541b6729351c600b3e4",
    "busybox-static 1:1.35.0-4+deb12u1+b1":
      "725ef9e6fbac4ab79b353165b05005e8c140d6e42177ebbc202ff1e13ded8b7c",
  },
  amd64: {
    "linux-image-6.1.0-47-amd64 6.1.170-3":
      "e0061f95dbe31f5646e5a29ba9a62293f6b625a70e81fc2b04344d8ab7589c34",
    "linux-image-6.1.0-50-amd64 6.1.176-1":
      "7b5597492a0a65aee61985a492e6bcc3f2cde830072a0e3b3d8c7e1b90279bd3",
    "busybox-static 1:1.35.0-4+deb12u1+b1":
      "3d3fdbe91d4660c873e14b092c213fe81c1da6362daa236eb25d0171eb108744",
  },
  arm64: {
    "linux-image-6.1.0-47-arm64 6.1.170-3":
      "ce3bc5a69b6182ba6d6a16f6c1aed27dbeab0a4c401c186aff692b75ce23e364",
    "linux-image-6.1.0-50-arm64 6.1.176-1":
      "914f75b57a8e165d85fb910c3e2dcc7000a05a9fea3f42f90b26e8dd590d5f06",
    "busybox-static 1:1.35.0-4+deb12u1+b1":
      "732c9135564fc71337e0e05fb4da4d11e6c28c1834bce3e405e575afef2a52f5",
  },
  armhf: {
    "linux-image-6.1.0-47-armmp 6.1.170-3":
      "997b223b65d6d93b56d1bcce2d465e2424e7981a564450450c8ac2284bb91acf",
    "linux-image-6.1.0-50-armmp 6.1.176-1":
      "ddd1d8dd0c6beabb9eb96bcfab26549eb30c63331bae31de481ffae4af0e982a",
    "busybox-static 1:1.35.0-4+deb12u1+b1":
      "2f68dbeaebeda49f3cde34ac421d5add85fb1c837ff7c4a4971945340d9d66ff",
  },
  riscv64: {
    "linux-image-6.12.117+deb13-riscv64 6.12.117-1":
      "f5d9424b6f6a4518197202effc7e8eeaa90f8d73466c2dba2470f6ea7fb4f55c",
    "busybox-static 1:1.37.0-6+b9": "4add476d2b185c5b487c285b38d790f0881a7e4a8e2ddde835f917e770eb8633",
  },
};
