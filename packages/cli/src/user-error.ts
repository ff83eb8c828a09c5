/** What the user can mend: shown as its message alone, without a stack. */
export class UserError extends Error {
  override readonly name = "UserError";
}

/** The text of whatever was thrown. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** Says on standard error what does not end the command. */
export function warn(message: string): void {
  process.stderr.write(`virtio: ${message}\n`);
}
