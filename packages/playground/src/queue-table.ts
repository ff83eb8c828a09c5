import type { EmbeddedMachine } from "@virtio/v86";

const PERIOD = 500;
/** Chains a second that fill the bar. */
const FULL_RATE = 20_000;
const BAR_WIDTH = 80;

const bytes = (count: number): string =>
  count < 10_000
    ? `${count} B`
    : count < 10_000_000
      ? `${Math.round(count / 1024)} KiB`
      : `${Math.round(count / 2 ** 20)} MiB`;

/** Shows what each virtqueue does, twice a second. */
export function showQueues(machine: EmbeddedMachine, body: HTMLElement): void {
  const last = new Map<string, number>();
  setInterval(() => {
    body.replaceChildren(
      ...machine.devices.flatMap(({ label, instance }) =>
        instance.counters.flatMap((counters, index) => {
          const name = instance.device.queues[index]?.name ?? String(index);
          const key = `${label}/${index}`;
          const rate = ((counters.chains - (last.get(key) ?? 0)) * 1000) / PERIOD;
          last.set(key, counters.chains);
          const { chains, readableBytes, writtenBytes, notificationsReceived } = counters;
          return [
            row(
              [
                label,
                name,
                `${chains}`,
                bytes(readableBytes),
                bytes(writtenBytes),
                `${notificationsReceived}`,
              ],
              rate,
            ),
          ];
        }),
      ),
    );
  }, PERIOD);
}

function row(cells: readonly string[], rate: number): HTMLTableRowElement {
  const element = document.createElement("tr");
  for (const text of cells) element.insertCell().textContent = text;
  const bar = document.createElement("span");
  bar.className = "bar";
  // A logarithm: one request and ten thousand are both to be seen.
  bar.style.width = `${Math.min(1, Math.log1p(rate) / Math.log1p(FULL_RATE)) * BAR_WIDTH}px`;
  element.insertCell().append(bar);
  return element;
}
