import { randomInt } from "node:crypto";
import { CommandError } from "../errors.ts";
import type { Ip } from "./addresses.ts";
import type { Stack } from "./stack.ts";

const PORT = 69;
const READ_REQUEST = 1;
const DATA = 3;
const ACKNOWLEDGE = 4;
const ERROR = 5;
const OPTIONS = 6;
const DEFAULT_BLOCK = 512;
/** What fits an Ethernet frame. */
const BLOCK = 1468;
const TIMEOUT = 1000;
/** In a row. */
const MAX_TIMEOUTS = 10;

export interface TftpRequest {
  readonly server: Ip;
  readonly file: string;
  /** Bytes that there is room for. */
  readonly room: number;
  /** Gets the blocks in order, with the number of bytes before. */
  block(data: Uint8Array, at: number): void;
  /** Nothing came in time, and it was asked again. */
  timeout(): void;
}

/** Gets a file (RFC 1350, with the block size of RFC 2348). Gives its length; throws a CommandError. */
export async function getFile(stack: Stack, request: TftpRequest): Promise<number> {
  stack.listen(1024 + randomInt(60_000));
  const { server } = request;
  let port = PORT;
  let last = readRequest(request.file);
  let blockSize = DEFAULT_BLOCK;
  let next = 1;
  let length = 0;
  await stack.send(server, port, last);
  let due = Date.now() + TIMEOUT;
  for (let timeouts = 0; ;) {
    const datagram = await stack.receive(Math.max(0, due - Date.now()));
    // What is of no use does not put it off.
    if (datagram === undefined || Date.now() > due) {
      due = Date.now() + TIMEOUT;
      if (++timeouts > MAX_TIMEOUTS) throw new CommandError("\nRetry count exceeded");
      request.timeout();
      await stack.send(server, port, last);
      continue;
    }
    const { source, sourcePort, payload } = datagram;
    // The server answers from a port of its own, which is the transfer's from then on.
    if (source !== server || payload.length < 4 || (port !== PORT && sourcePort !== port)) continue;
    const view = new DataView(payload.buffer, payload.byteOffset, payload.length);
    const operation = view.getUint16(0);
    if (operation === ERROR) throw new CommandError(errorText(view.getUint16(2), payload.subarray(4)));
    if (operation === OPTIONS && port === PORT) {
      blockSize = blockSizeOf(payload.subarray(2));
      last = acknowledge(0);
    } else if (operation === DATA && view.getUint16(2) === (next & 0xffff)) {
      const data = payload.subarray(4);
      if (data.length > blockSize) throw new CommandError(`\nTFTP error: a block of ${data.length} bytes`);
      if (length + data.length > request.room)
        throw new CommandError("\nTFTP error: the file does not fit the memory from this address on");
      request.block(data, length);
      length += data.length;
      last = acknowledge(next++ & 0xffff);
      if (data.length < blockSize) {
        await stack.send(server, sourcePort, last);
        return length;
      }
    } else {
      // A block that came before: its acknowledgement is on the way, and another would double everything.
      continue;
    }
    timeouts = 0;
    due = Date.now() + TIMEOUT;
    port = sourcePort;
    await stack.send(server, port, last);
  }
}

function readRequest(file: string): Uint8Array {
  const text = new TextEncoder().encode(`${file}\0octet\0blksize\0${BLOCK}\0`);
  const bytes = new Uint8Array(2 + text.length);
  bytes[1] = READ_REQUEST;
  bytes.set(text, 2);
  return bytes;
}

function acknowledge(block: number): Uint8Array {
  return Uint8Array.of(0, ACKNOWLEDGE, block >> 8, block & 0xff);
}

function blockSizeOf(options: Uint8Array): number {
  const words = new TextDecoder("latin1").decode(options).split("\0");
  const at = words.findIndex((word, index) => index % 2 === 0 && word.toLowerCase() === "blksize");
  const size = at < 0 ? DEFAULT_BLOCK : Number(words[at + 1]);
  if (!Number.isInteger(size) || size < 8 || size > BLOCK)
    throw new CommandError(`\nInvalid blk size(=${words[at + 1]?.slice(0, 20)})`);
  return size;
}

function errorText(code: number, bytes: Uint8Array): string {
  const [text = ""] = new TextDecoder("latin1").decode(bytes.subarray(0, 200)).split("\0");
  return `\nTFTP error: '${text.replace(/[^\x20-\x7e]/g, "?")}' (${code})\nNot retrying...`;
}
