import type { FileSystem } from "../../src/backends/file-system.ts";
import { MemoryFileSystem } from "../../src/backends/memory-file-system.ts";

/** Methods that stay plain calls in an asynchronous file system. */
const PLAIN: ReadonlySet<string> = new Set(["retain", "release", "place", "directoryPosition"]);

export interface SlowFileSystem {
  readonly fs: FileSystem;
  readonly memory: MemoryFileSystem;
  /** Calls that wait; each call of `step` lets one through, in the order `pick` says. */
  readonly waiting: (() => void)[];
}

/** A file system in memory whose every method takes its time: `turns` microtasks, or until `waiting` is let through. */
export function slowFileSystem(
  turns: (() => number) | "by hand",
  memory: MemoryFileSystem = new MemoryFileSystem(),
): SlowFileSystem {
  const waiting: (() => void)[] = [];
  const delay = async (): Promise<void> => {
    if (turns === "by hand") return new Promise((resolve) => void waiting.push(resolve));
    for (let left = turns(); left >= 0; left--) await Promise.resolve();
  };
  const fs = new Proxy<FileSystem>(memory, {
    get(target, name) {
      if (name === "asynchronous") return true;
      const value: unknown = Reflect.get(target, name, target);
      if (typeof value !== "function") return value;
      const method = (...args: unknown[]): unknown => Reflect.apply(value, target, args);
      if (typeof name === "string" && PLAIN.has(name)) return method;
      return async (...args: unknown[]) => {
        await delay();
        return method(...args);
      };
    },
  });
  return { fs, memory, waiting };
}
