/** Small tools that every benchmark shares: medians, and a table whose last column is us divided by the peer. */

export const median = (values) => {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)];
};

const number = (value) =>
  value >= 1000 ? Math.round(value).toString() : value >= 10 ? value.toFixed(1) : value.toFixed(2);

/**
 * Prints a Markdown table. `rows`: { what, unit, ours, peer, better: "more" | "less", aim? }, where `ours` and `peer`
 * are lists of samples taken alternately. Ratios above 1 mean that we are better.
 */
export function printTable(title, peerName, rows) {
  console.log(`\n### ${title}\n`);
  console.log(`| what | unit | ours, median [range] | ${peerName}, median [range] | ratio | aim |`);
  console.log("|---|---|---|---|---|---|");
  for (const { what, unit, ours, peer, better, aim } of rows) {
    const range = (samples) =>
      `${number(median(samples))} [${number(Math.min(...samples))}-${number(Math.max(...samples))}]`;
    const ratio = better === "more" ? median(ours) / median(peer) : median(peer) / median(ours);
    console.log(
      `| ${what} | ${unit} | ${range(ours)} | ${range(peer)} | ${ratio.toFixed(2)}x | ${aim ?? ""} |`,
    );
  }
}
