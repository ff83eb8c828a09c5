import { plainly } from "./reasons.ts";

/** What the user can mend: shown as its message alone, without a stack. */
export class UserError extends Error {
  override readonly name = "UserError";
}

/** The text of whatever was thrown. What the system says becomes a sentence: no code such as ENOENT is shown. */
export function messageOf(error: unknown): string {
  return plainly(error instanceof Error ? error.message : String(error));
}

/** An error of a system call, as Node throws it. */
export function isSystemError(error: unknown): boolean {
  return error instanceof Error && "code" in error && "syscall" in error;
}

/** Milliseconds for which the same is not said again. */
const SILENCE = 1000;

/** Passes on what a guest could cause without end; the same again only after a second. */
export function sparingly(say: (message: string) => void): (error: unknown) => void {
  let last = "";
  let until = 0;
  return (error) => {
    const message = messageOf(error);
    const now = performance.now();
    if (message === last && now < until) return;
    last = message;
    until = now + SILENCE;
    say(message);
  };
}

/** Says on standard error what does not end the command. */
export function warn(message: string): void {
  process.stderr.write(`virtio: ${message}\n`);
}

/** Shows how a command is used that was given nothing; its exit status. */
export function usageError(usage: string): number {
  process.stderr.write(usage);
  return 1;
}
