/** What a command could not do, shown as one line; the command's status is 1. */
export class CommandError extends Error {
  override readonly name = "CommandError";
}

/** The arguments are not those of the command: its usage is shown. */
export class UsageError extends Error {
  override readonly name = "UsageError";
}

/** Ctrl-C. */
export class Interrupt extends Error {
  override readonly name = "Interrupt";

  constructor() {
    super("interrupted");
  }
}

/** `exit`: nothing after it is run. */
export class Exit extends Error {
  override readonly name = "Exit";
  readonly status: number;

  constructor(status: number) {
    super("exit");
    this.status = status;
  }
}
