import { createHash } from "node:crypto";

import { messageOf, UserError } from "../user-error.ts";

export interface FetchOptions {
  /** The most that is read, in bytes; a longer answer is an error. */
  readonly largest: number;
  /** Milliseconds without a byte after which the server counts as lost. */
  readonly patience: number;
  /** Gets how many bytes there are so far. */
  readonly onBytes?: (count: number) => void;
}

const notFound = 404;

/** What is at an address; undefined when the server has no such file. Redirects are followed, for what comes is verified. */
export async function fetchFile(address: string, options: FetchOptions): Promise<Uint8Array | undefined> {
  const abort = new AbortController();
  let timer: NodeJS.Timeout | undefined;
  const wait = (): void => {
    clearTimeout(timer);
    timer = setTimeout(() => abort.abort(), options.patience);
  };
  wait();
  try {
    const response = await fetch(address, { signal: abort.signal });
    if (response.status === notFound) return undefined;
    if (!response.ok)
      throw new UserError(`the server says ${response.status} ${response.statusText}`.trimEnd());
    const chunks: Uint8Array[] = [];
    let count = 0;
    for await (const chunk of (response.body ?? []) as AsyncIterable<Uint8Array>) {
      wait();
      count += chunk.length;
      if (count > options.largest)
        throw new UserError(`it is longer than the ${options.largest} bytes it may have`);
      chunks.push(chunk);
      options.onBytes?.(count);
    }
    return Buffer.concat(chunks);
  } catch (error) {
    const seconds = options.patience / 1000;
    const why = abort.signal.aborted ? `the server sent nothing for ${seconds} seconds` : reason(error);
    throw new UserError(`${address} cannot be fetched: ${why}`);
  } finally {
    clearTimeout(timer);
    abort.abort();
  }
}

/** What `fetch` calls "fetch failed", and where it hides the reason. */
function reason(error: unknown): string {
  if (error instanceof UserError) return error.message;
  const cause = error instanceof Error && error.cause !== undefined ? error.cause : error;
  const code = cause instanceof Error && "code" in cause ? cause.code : undefined;
  if (code === "ECONNREFUSED") return "nothing listens at this address";
  if (code === "ENOTFOUND" || code === "EAI_AGAIN") return "there is no host of this name, or no network";
  if (code === "UND_ERR_SOCKET" || code === "ECONNRESET")
    return "the server ended the connection in the middle";
  return messageOf(cause);
}

export function sha256(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}
