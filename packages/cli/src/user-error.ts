import { adviceOf, reasonOf } from "./reasons.ts";

/** What the user can mend: shown as its message alone, without a stack. */
export class UserError extends Error {
  override readonly name = "UserError";
}

/** The text of whatever was thrown. What the system says becomes a sentence: no code such as ENOENT is shown. */
export function messageOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  return isSystemError(error) ? systemMessage(error) : error.message;
}

/** An error of a system call, as Node throws it. */
export interface SystemError extends Error {
  readonly code: string;
  readonly syscall: string;
  readonly path?: string;
  readonly address?: string;
  readonly port?: number;
}

export function isSystemError(error: unknown): error is SystemError {
  if (!(error instanceof Error) || !("code" in error) || !("syscall" in error)) return false;
  return typeof error.code === "string" && typeof error.syscall === "string";
}

function systemMessage({ code, syscall, path, address, port }: SystemError): string {
  const place =
    path ?? (address === undefined ? undefined : port === undefined ? address : `${address}:${port}`);
  if (syscall.startsWith("spawn") && code === "ENOENT")
    return `${path ?? "the program"} is not installed, or not in PATH`;
  const reason = reasonOf(code) === code ? `the system refuses it (${syscall})` : reasonOf(code);
  return `${place === undefined ? "" : `${place}: `}${reason}${adviceOf(code)}`;
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
