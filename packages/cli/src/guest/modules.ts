import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";

import { decompressXz, isXz, xzSize } from "@virtio/v86/decompress/xz";

/** A kernel module: what its own `.modinfo` section says. Names use `_`, as `lsmod` shows them. */
export interface KernelModule {
  readonly name: string;
  /** Path under `lib/modules/RELEASE`, of the module as it is when it is not compressed. */
  readonly path: string;
  readonly data: Uint8Array;
  /** Modules whose symbols it uses. */
  readonly depends: readonly string[];
  /** Patterns by which the kernel or a bus asks for it. */
  readonly aliases: readonly string[];
}

/** No module is larger; a damaged size must not make us allocate more. */
const LARGEST_MODULE = 64 << 20;

/**
 * The modules of one kernel. Debian's package holds no `modules.dep`: `depmod` makes it where the package is installed.
 * So dependencies are read from the modules.
 */
export class ModuleTree {
  readonly #folder: string;
  readonly #paths = new Map<string, string>();
  /** The path of each by its name. */
  readonly #builtin = new Map<string, string>();

  /** `folder` is `lib/modules/RELEASE`. */
  constructor(folder: string) {
    this.#folder = folder;
    for (const path of readdirSync(join(folder, "kernel"), { recursive: true, encoding: "utf8" })) {
      if (/\.ko(\.xz)?$/.test(path)) this.#paths.set(moduleName(path), join("kernel", path));
    }
    const builtin = readFileSync(join(folder, "modules.builtin"), "utf8");
    for (const path of builtin.split("\n").filter(Boolean)) this.#builtin.set(moduleName(path), path);
  }

  /** The text of `modules.builtin` for those of the names that are built in: `modprobe` then takes them for loaded. */
  builtinText(names: readonly string[]): string {
    const paths = names.map((name) => this.#builtin.get(name.replaceAll("-", "_")));
    return paths.flatMap((path) => (path === undefined ? [] : [`${path}\n`])).join("");
  }

  /**
   * These modules and all they need, each once, what is needed before what needs it. Modules built into the kernel are
   * left out; one that does not exist is an error.
   */
  closure(names: readonly string[]): KernelModule[] {
    const found = new Map<string, KernelModule>();
    for (const name of names) this.#add(name.replaceAll("-", "_"), found);
    return [...found.values()];
  }

  #add(name: string, found: Map<string, KernelModule>): void {
    if (found.has(name) || this.#builtin.has(name)) return;
    const path = this.#paths.get(name);
    if (path === undefined) throw new Error(`this kernel has no module "${name}"`);
    const data = decompressed(readFileSync(join(this.#folder, path)));
    const fields = moduleInfo(data).map((field) => field.split("=", 2));
    const all = (key: string): string[] =>
      fields.flatMap(([k, value]) => (k === key && value ? [value] : []));
    const depends = all("depends").flatMap((list) =>
      list.split(",").map((other) => other.replaceAll("-", "_")),
    );
    // Modules are needed in an order without cycles, so the recursion ends.
    for (const other of depends) this.#add(other, found);
    found.set(name, { name, path: path.replace(/\.xz$/, ""), data, depends, aliases: all("alias") });
  }
}

/** The text of `modules.dep`: each module with the whole of what it needs, nearest first, as `depmod` writes it. */
export function dependencyText(modules: readonly KernelModule[]): string {
  const byName = new Map(modules.map((module) => [module.name, module]));
  const collect = (module: KernelModule, into: Set<string>): Set<string> => {
    for (const name of module.depends) {
      const other = byName.get(name);
      if (!other) continue;
      into.delete(other.path);
      into.add(other.path);
      collect(other, into);
    }
    return into;
  };
  return modules.map((module) => `${module.path}: ${[...collect(module, new Set())].join(" ")}\n`).join("");
}

/** The text of `modules.alias`. */
export function aliasText(modules: readonly KernelModule[]): string {
  const lines = modules.flatMap((module) => module.aliases.map((alias) => `alias ${alias} ${module.name}\n`));
  return lines.join("");
}

/** Debian compresses modules since trixie. */
function decompressed(file: Uint8Array): Uint8Array {
  return isXz(file) ? decompressXz(file, xzSize(file, LARGEST_MODULE)) : file;
}

/** The `key=value` fields of the `.modinfo` section of a little-endian ELF file. */
function moduleInfo(elf: Uint8Array): string[] {
  const { view, table, entrySize, count, namesIndex, section } = elfSections(elf);
  const names = section(view, table + namesIndex * entrySize).offset;
  const wanted = Buffer.from(".modinfo\0");
  for (let index = 0; index < count; index++) {
    const { name, offset, size } = section(view, table + index * entrySize);
    if (wanted.equals(elf.subarray(names + name, names + name + wanted.length))) {
      return Buffer.from(elf.subarray(offset, offset + size))
        .toString("latin1")
        .split("\0")
        .filter(Boolean);
    }
  }
  return [];
}

interface ElfSections {
  readonly view: DataView;
  /** Where the table of sections is. */
  readonly table: number;
  readonly entrySize: number;
  readonly count: number;
  /** The section with the names of the others. */
  readonly namesIndex: number;
  readonly section: typeof section32;
}

function elfSections(elf: Uint8Array): ElfSections {
  const view = new DataView(elf.buffer, elf.byteOffset, elf.byteLength);
  const bits = elf[4] === 1 ? 32 : 64;
  if (view.getUint32(0, false) !== 0x7f454c46 || (bits === 64 && elf[4] !== 2) || elf[5] !== 1)
    throw new Error("not a little-endian ELF file");
  const at = bits === 32 ? 46 : 58;
  return {
    view,
    table: bits === 32 ? view.getUint32(32, true) : Number(view.getBigUint64(40, true)),
    entrySize: view.getUint16(at, true),
    count: view.getUint16(at + 2, true),
    namesIndex: view.getUint16(at + 4, true),
    section: bits === 32 ? section32 : section64,
  };
}

function section32(view: DataView, at: number): { name: number; offset: number; size: number } {
  return {
    name: view.getUint32(at, true),
    offset: view.getUint32(at + 16, true),
    size: view.getUint32(at + 20, true),
  };
}

function section64(view: DataView, at: number): { name: number; offset: number; size: number } {
  return {
    name: view.getUint32(at, true),
    offset: Number(view.getBigUint64(at + 24, true)),
    size: Number(view.getBigUint64(at + 32, true)),
  };
}

function moduleName(path: string): string {
  return path
    .slice(path.lastIndexOf("/") + 1)
    .replace(/\.ko(\.xz)?$/, "")
    .replaceAll("-", "_");
}
