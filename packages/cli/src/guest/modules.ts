import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";

/** A kernel module: what its own `.modinfo` section says. Names use `_`, as `lsmod` shows them. */
export interface KernelModule {
  readonly name: string;
  /** Path under `lib/modules/RELEASE`. */
  readonly path: string;
  readonly data: Uint8Array;
  /** Modules whose symbols it uses. */
  readonly depends: readonly string[];
  /** Patterns by which the kernel or a bus asks for it. */
  readonly aliases: readonly string[];
}

/**
 * The modules of one kernel. Debian's package holds no `modules.dep`: `depmod` makes it where the package is installed.
 * So dependencies are read from the modules.
 */
export class ModuleTree {
  readonly #folder: string;
  readonly #paths = new Map<string, string>();
  readonly #builtin = new Set<string>();

  /** `folder` is `lib/modules/RELEASE`. */
  constructor(folder: string) {
    this.#folder = folder;
    for (const path of readdirSync(join(folder, "kernel"), { recursive: true, encoding: "utf8" })) {
      if (path.endsWith(".ko")) this.#paths.set(moduleName(path), join("kernel", path));
    }
    const builtin = readFileSync(join(folder, "modules.builtin"), "utf8");
    for (const path of builtin.split("\n").filter(Boolean)) this.#builtin.add(moduleName(path));
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
    const data = readFileSync(join(this.#folder, path));
    const fields = moduleInfo(data).map((field) => field.split("=", 2));
    const all = (key: string): string[] =>
      fields.flatMap(([k, value]) => (k === key && value ? [value] : []));
    const depends = all("depends").flatMap((list) =>
      list.split(",").map((other) => other.replaceAll("-", "_")),
    );
    // Modules are needed in an order without cycles, so the recursion ends.
    for (const other of depends) this.#add(other, found);
    found.set(name, { name, path, data, depends, aliases: all("alias") });
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

/** The `key=value` fields of the `.modinfo` section of a 32-bit little-endian ELF file. */
function moduleInfo(elf: Uint8Array): string[] {
  const view = new DataView(elf.buffer, elf.byteOffset, elf.byteLength);
  if (view.getUint32(0, false) !== 0x7f454c46 || elf[4] !== 1) throw new Error("not a 32-bit ELF file");
  const table = view.getUint32(32, true);
  const entrySize = view.getUint16(46, true);
  const count = view.getUint16(48, true);
  const section = (index: number): { name: number; offset: number; size: number } => {
    const at = table + index * entrySize;
    return {
      name: view.getUint32(at, true),
      offset: view.getUint32(at + 16, true),
      size: view.getUint32(at + 20, true),
    };
  };
  const names = section(view.getUint16(50, true)).offset;
  const wanted = Buffer.from(".modinfo\0");
  for (let index = 0; index < count; index++) {
    const { name, offset, size } = section(index);
    if (wanted.equals(elf.subarray(names + name, names + name + wanted.length))) {
      return Buffer.from(elf.subarray(offset, offset + size))
        .toString("latin1")
        .split("\0")
        .filter(Boolean);
    }
  }
  return [];
}

function moduleName(path: string): string {
  return path.slice(path.lastIndexOf("/") + 1, -".ko".length).replaceAll("-", "_");
}
