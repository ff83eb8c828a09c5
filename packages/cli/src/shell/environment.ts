import { CommandError } from "./errors.ts";

/** Bytes of the whole environment, as it would be stored. */
const MAX_SIZE = 65_532;
const NAME = /^[^\s=$;&|"'\\#{}]{1,128}$/;

/** Variables, as `printenv` and `setenv` know them. */
export class Environment {
  readonly #values = new Map<string, string>();
  #size = 1;

  get(name: string): string | undefined {
    return this.#values.get(name);
  }

  /** Throws a CommandError when the name is none, or there is no room. */
  set(name: string, value: string): void {
    if (!NAME.test(name))
      throw new CommandError(`## Error: "${name.slice(0, 40)}" is no name for a variable`);
    const size = this.#size - this.#sizeOf(name) + name.length + value.length + 2;
    if (size > MAX_SIZE)
      throw new CommandError(`## Error: environment overflow, "${name}" does not fit ${MAX_SIZE} bytes`);
    this.#values.set(name, value);
    this.#size = size;
  }

  setHex(name: string, value: number): void {
    this.set(name, value.toString(16));
  }

  delete(name: string): boolean {
    this.#size -= this.#sizeOf(name);
    return this.#values.delete(name);
  }

  names(): string[] {
    return [...this.#values.keys()].sort();
  }

  /** Bytes it takes, and may take. */
  get size(): { readonly used: number; readonly most: number } {
    return { used: this.#size, most: MAX_SIZE };
  }

  #sizeOf(name: string): number {
    const value = this.#values.get(name);
    return value === undefined ? 0 : name.length + value.length + 2;
  }
}
