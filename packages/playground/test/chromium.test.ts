import { findProgram, needs } from "@virtio/testkit/needs";
import { chromium, type Browser, type Page } from "playwright-core";
import { createServer, type ViteDevServer } from "vite";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

const browserPath = findProgram("chromium");
const BOOT = 90_000;
/** What ends a test is that nothing moves any more; this ends one that goes round in circles. */

describe.skipIf(browserPath === undefined)(needs("chromium", "chromium", "the guest in a page"), () => {
  let server: ViteDevServer;
  let browser: Browser;
  let page: Page;

  beforeAll(async () => {
    const configFile = new URL("../vite.config.ts", import.meta.url).pathname;
    server = await createServer({ configFile, server: { host: "127.0.0.1", port: 0 }, logLevel: "error" });
    await server.listen();
    browser = await chromium.launch({
      executablePath: browserPath ?? "",
      args: [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
      ],
    });
    page = await browser.newPage();
    const url = server.resolvedUrls?.local[0];
    if (url === undefined) throw new Error("the page's server has no address");
    await page.goto(url);
    // The kernel's own words, long before there is a console or a shell.
    await waitForText(/Linux version 6/, BOOT);
    expect(await page.locator("#status").textContent()).toBe("Booting");
    await waitForText(/[#$]$/m, BOOT);
  }, BOOT + 30_000);

  afterAll(async () => {
    await browser?.close();
    await server?.close();
  });

  const screen = (): Promise<string> => page.evaluate(() => window.guestConsole?.text ?? "");

  /** Waits for a text as long as something moves: on the screen, or in the virtqueues. */
  async function waitForText(pattern: RegExp, patience: number): Promise<string> {
    let last = "";
    let deadline = Date.now() + patience;
    for (;;) {
      const text = await screen();
      if (pattern.test(text)) return text;
      const state = `${text}${(await page.locator("#queues").textContent()) ?? ""}`;
      if (state !== last) deadline = Date.now() + patience;
      last = state;
      if (Date.now() > deadline) {
        const status = await page.locator("#status").textContent();
        throw new Error(`no ${String(pattern)} on the console; page says "${status}"; console:\n${text}`);
      }
      await page.waitForTimeout(100);
    }
  }

  /** Types a command and returns what it prints: what is between two markers that the typed line does not contain. */
  async function type(command: string): Promise<string> {
    const word = Math.random().toString(36).slice(2);
    await page.locator("#terminal textarea").focus();
    await page.keyboard.type(`echo "from"${word}; ${command}; echo "to"${word}\n`);
    const text = await waitForText(new RegExp(`^to${word}$`, "m"), 30_000);
    return text.slice(text.lastIndexOf(`from${word}`) + 4 + word.length, text.lastIndexOf(`to${word}`));
  }

  test("boots to a shell on our console", async () => {
    expect(await type("uname -sm")).toContain("Linux i686");
    expect(await page.locator("#status").textContent()).toBe("Running");
  });

  test("writes and reads a disk in memory", async () => {
    const output = await type(
      "cat /sys/block/vda/size; yes virtio | head -c 1048576 > /tmp/a; dd if=/tmp/a of=/dev/vda bs=64k conv=fsync 2>/dev/null; echo 3 > /proc/sys/vm/drop_caches; head -c 1048576 /dev/vda | cmp - /tmp/a && echo same",
    );
    expect(output).toMatch(/^131072$/m);
    expect(output).toMatch(/^same$/m);
  });

  test("reads entropy and a file of the page", async () => {
    expect(await type("cat /sys/class/misc/hw_random/rng_current; head -c 4096 /dev/hwrng | wc -c")).toMatch(
      /virtio_rng\.0\s+4096/,
    );
    const shared =
      "mkdir -p /tmp/page; mount -t 9p -o trans=virtio,version=9p2000.L page /tmp/page; cat /tmp/page/hello.txt; umount /tmp/page";
    expect(await type(shared)).toContain("This file lives in the page.");
  });

  test("shows the virtqueues at work", async () => {
    const rows = page.locator("#queues tr");
    await expect.poll(() => rows.count()).toBeGreaterThan(4);
    expect(await page.locator("#queues").textContent()).toContain("disk0");
  });

  test("underscores are visible", async () => {
    const shots: Buffer[] = [];
    for (const text of ["________", "        "]) {
      await type(`printf '\\033[2J\\033[H${text}\\n\\n'`);
      const box = await page.locator(".xterm-rows > div").first().boundingBox();
      if (box === null) throw new Error("the terminal has no rows");
      // The characters alone: the cursor is elsewhere, and the scroll bar may fade.
      shots.push(await page.screenshot({ clip: { ...box, width: 60 } }));
    }
    expect(shots[0]?.equals(shots[1] ?? Buffer.alloc(0))).toBe(false);
  });

  test("each line that the page says to try works; power off is seen", async () => {
    const lines = ((await page.locator("#try").textContent()) ?? "")
      .split("\n")
      .filter((line) => line.trim() !== "");
    expect(lines.length).toBeGreaterThan(3);
    expect(lines.at(-1)).toBe("poweroff");
    const outputs: string[] = [];
    for (const line of lines.slice(0, -1)) {
      const output = await type(`${line}; echo "status" $?`);
      expect(output, line).toMatch(/^status 0$/m);
      outputs.push(output);
    }
    expect(outputs.join("\n")).toContain("This file lives in the page.");
    await page.locator("#terminal textarea").focus();
    await page.keyboard.type("poweroff\n");
    await waitForText(/Power down/, 30_000);
    await expect.poll(() => page.locator("#status").textContent()).toMatch(/^Powered off/);
    expect(await screen()).not.toMatch(/not found|error/i);
  });
});
