import { Progress } from "../guest/progress.ts";
import type { Transfer } from "./output.ts";

/** What is done sooner is not worth a bar. */
const DELAY = 500;

/** Bars for transfers that take a while. */
export function terminalTransfer(output: NodeJS.WriteStream): (title: string, total: number) => Transfer {
  return (title, total) => {
    const started = performance.now();
    let progress: Progress | undefined;
    return {
      progress(done) {
        if (progress === undefined) {
          if (performance.now() - started < DELAY || done >= total) return;
          progress = new Progress(output);
          output.write("\n");
          progress.step(title);
        }
        progress.fraction(total === 0 ? 1 : done / total);
      },
      end: () => progress?.end(),
    };
  };
}
