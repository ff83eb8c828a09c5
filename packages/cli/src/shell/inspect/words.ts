/** A number of so many bytes. */
export function hexOf(value: number | bigint, bytes: number): string {
  return `0x${value.toString(16).padStart(2 * bytes, "0")}`;
}

/** One row: where, what, its value, and what that means. */
export function row(offset: number, name: string, value: string, meaning = ""): string {
  const left = `  ${hexOf(offset, 2)}  ${name.padEnd(22)} ${value.padEnd(18)}`;
  return `${meaning === "" ? left.trimEnd() : `${left} ${meaning}`}\n`;
}
