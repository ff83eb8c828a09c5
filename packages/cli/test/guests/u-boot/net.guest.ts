import { mkdtempSync } from "node:fs";
import { join } from "node:path";

import { expect, test } from "vitest";

import { clause } from "@virtio/testkit/clause";
import { findProgram, needs } from "@virtio/testkit/needs";
import { HANG_MS } from "@virtio/testkit/until";
import { temporaryFolder } from "../../guest/virtio.ts";
import { socketPath, startMachine, type Transport } from "../lib/machine.ts";
import { serve, stop } from "../lib/serve.ts";
import { boards, UBoot, uBootImages, type Board } from "../lib/u-boot.ts";

const bootTimeout = HANG_MS;
const folder = temporaryFolder();

/** Two U-Boots on our hub. One answers pings only while it pings itself, so it asks for somebody who is not there. */
function pingTest(board: Board, transport: Transport, properties: string): void {
  const title = clause(
    "dev.net.tx",
    `U-Boot ${board.name}, ${transport}${properties}: two network devices of ours on a hub`,
  );
  test.skipIf(findProgram(board.kind.program) === undefined)(
    needs(board.kind.program, board.kind.debianPackage, title),
    { timeout: 4 * bootTimeout },
    async () => {
      const images = await uBootImages("bookworm");
      const work = mkdtempSync(join(folder, "net-"));
      const sockets = ["one", "other"].map((name) => socketPath(work, name));
      const server = await serve(
        sockets.flatMap((socket) => ["net", "--socket", socket, "--netdev", "hubport,hubid=0"]),
      );
      const consoles = sockets.map((socket, index) =>
        startMachine({
          kind: board.kind,
          transport,
          memory: 128,
          processors: 1,
          devices: [{ kind: "net", socket, properties: `,mac=52:54:00:00:00:0${index + 1}${properties}` }],
          boot: board.boot(images),
        }),
      );
      try {
        const [one, other] = consoles.map((console) => new UBoot(console));
        if (one === undefined || other === undefined) throw new Error("two were started");
        await Promise.all([one.ready(bootTimeout), other.ready(bootTimeout)]);
        // On riscv64 nothing has looked for PCI devices yet.
        for (const uBoot of [one, other]) await uBoot.run("virtio scan");
        await one.run("setenv ipaddr 10.0.0.1");
        await other.run("setenv ipaddr 10.0.0.2");
        const asking = other.run("ping 10.0.0.9", 3 * bootTimeout);
        const pings: string[] = [];
        for (let attempt = 0; attempt < 10; attempt++) pings.push(await one.run("ping 10.0.0.2"));
        expect(pings.filter((said) => said.endsWith("host 10.0.0.2 is alive"))).toHaveLength(10);
        expect(await asking).toContain("host 10.0.0.9 is not alive");
        for (const console of consoles) console.kill();
        await Promise.all(consoles.map(async (console) => console.ended));
        await stop(server);
      } catch (error) {
        const said = consoles.map((console) => console.tail).join("\n---\n");
        throw new Error(`the server said:\n${server.tail}\nU-Boot said:\n${said}`, { cause: error });
      } finally {
        for (const console of consoles) console.kill();
        server.kill();
      }
    },
  );
}

for (const board of boards.filter(({ name }) => ["qemu_arm64", "qemu-riscv64"].includes(name))) {
  pingTest(board, "pci", "");
  pingTest(board, "pci", ",disable-legacy=on");
  pingTest(board, "mmio", "");
}
