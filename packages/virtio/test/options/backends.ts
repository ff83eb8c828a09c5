/** Backends in memory: their options that cannot be. */
import { whole, within, flags, numbers, parts, texts, type OptionRow } from "@virtio/testkit/option-table";
import { MemoryBlockBackend } from "../../src/backends/memory-block.ts";
import { MemoryBudget } from "../../src/backends/memory-budget.ts";
import { MemoryFileSystem } from "../../src/backends/memory-file-system.ts";
import { MemoryTree } from "../../src/backends/memory-tree.ts";
import { NetHub } from "../../src/backends/net-hub.ts";
import { OverlayBlockBackend } from "../../src/backends/overlay-block.ts";
import { ReadOnlyBlockBackend } from "../../src/backends/read-only-block.ts";
import { RingCharacterBackend } from "../../src/backends/ring-character.ts";
import { SparseBlockBackend } from "../../src/backends/sparse-block.ts";

const SAFE = Number.MAX_SAFE_INTEGER;
const disk = new MemoryBlockBackend(4096);
const overlay = (base: unknown, top?: unknown, budget?: unknown): unknown =>
  new OverlayBlockBackend(base as never, top as never, budget as never);

const budget = numbers(
  "new MemoryBudget(limit)",
  "memory budget of a disk",
  whole(1, SAFE),
  (limit) => new MemoryBudget(limit, "a disk"),
  0,
);

export const backends: readonly OptionRow[] = [
  // Without a bound is a budget as well.
  { ...budget, wrong: budget.wrong.filter((value) => value !== Infinity) },
  within(
    "new MemoryTree(maxBytes)",
    "memory file system: maxBytes",
    0,
    SAFE,
    (maxBytes) => new MemoryTree(maxBytes, 1, Date.now),
  ),
  within(
    "new MemoryTree(maxInodes)",
    "memory file system: maxInodes",
    1,
    SAFE,
    (maxInodes) => new MemoryTree(1, maxInodes, Date.now),
  ),
  within(
    "new MemoryBlockBackend(contents)",
    "memory disk: size",
    0,
    SAFE,
    (size) => new MemoryBlockBackend(size),
  ),
  within(
    "new MemoryBlockBackend(options.maxBytes)",
    "memory disk: maxBytes",
    0,
    SAFE,
    (maxBytes) => new MemoryBlockBackend(4096, { maxBytes }),
  ),
  within(
    "new MemoryFileSystem(options.maxBytes)",
    "memory file system: maxBytes",
    0,
    SAFE,
    (maxBytes) => new MemoryFileSystem({ maxBytes }),
  ),
  within(
    "new MemoryFileSystem(options.maxInodes)",
    "memory file system: maxInodes",
    1,
    SAFE,
    (maxInodes) => new MemoryFileSystem({ maxInodes }),
  ),
  flags(
    "new MemoryFileSystem(options.readOnly)",
    "memory file system: readOnly",
    (readOnly) => new MemoryFileSystem({ readOnly }),
  ),
  within(
    "new SparseBlockBackend(size)",
    "disk in RAM: size",
    0,
    SAFE,
    (size) => new SparseBlockBackend(size),
  ),
  within(
    "new RingCharacterBackend(size)",
    "ring of characters: size",
    1,
    2 ** 31 - 1,
    (size) => new RingCharacterBackend(size),
  ),
  texts(
    "new MemoryBudget(what)",
    "what takes a memory budget",
    "a string that is not empty",
    (what) => new MemoryBudget(1, what),
    "",
  ),
  parts("new OverlayBlockBackend(base)", "overlay disk: base", "a BlockBackend", (base) => overlay(base)),
  parts("new OverlayBlockBackend(top)", "overlay disk: top", "a BlockBackend", (top) => overlay(disk, top)),
  parts("new OverlayBlockBackend(budget)", "overlay disk: budget", "a MemoryBudget", (budget) =>
    overlay(disk, undefined, budget),
  ),
  parts(
    "new ReadOnlyBlockBackend(base)",
    "read-only disk: base",
    "a BlockBackend",
    (base) => new ReadOnlyBlockBackend(base),
  ),
  parts("NetHub.plug(backend)", "net hub: backend", "a NetBackend", (backend) => new NetHub().plug(backend)),
];
