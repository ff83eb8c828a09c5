import { createServer, type Server, type Socket } from "node:net";
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";

export interface FakeRequest {
  readonly flags: number;
  readonly command: number;
  readonly cookie: Buffer;
  readonly offset: number;
  readonly length: number;
  readonly data: Buffer;
}

export interface FakeOptions {
  readonly size?: number;
  /** Of its socket, where another one was before. */
  readonly path?: string;
  /** On a TCP port of this machine instead of a Unix socket. */
  readonly port?: true;
  readonly flags?: number;
  /** Default "fixed". */
  readonly style?: "oldstyle" | "newstyle" | "fixed";
  /** NBD_OPT_GO is known. Default true. */
  readonly go?: boolean;
  /** Structured replies are known. Default true. */
  readonly structured?: boolean;
  /** NBD_INFO_BLOCK_SIZE: minimum, preferred, maximum. */
  readonly blocks?: readonly [number, number, number];
  /** Bytes instead of what the server would say first. */
  readonly greeting?: Buffer;
  /** The answer to an option, or undefined: as it should be. */
  readonly onOption?: (option: number, data: Buffer) => Buffer | undefined;
  /**
   * The answer to a request, or undefined: as it should be. "hang up" ends the connection, "silence" says nothing, "later" says
   * it when `onLater` is told to.
   */
  readonly onRequest?: (
    request: FakeRequest,
    connection: number,
  ) => Buffer | "hang up" | "silence" | "later" | undefined;
  readonly onLater?: (answer: () => void) => void;
}

export const EVERYTHING = 0x1 | 0x4 | 0x8 | 0x20 | 0x40;

export function be(...fields: readonly (readonly [size: 1 | 2 | 4 | 8, value: number | bigint])[]): Buffer {
  return Buffer.concat(
    fields.map(([size, value]) => {
      const bytes = Buffer.alloc(8);
      bytes.writeBigUInt64BE(BigInt(value));
      return bytes.subarray(8 - size);
    }),
  );
}

export function optionReply(option: number, type: number, data: Buffer = Buffer.alloc(0)): Buffer {
  return Buffer.concat([be([8, 0x3e889045565a9], [4, option], [4, type], [4, data.length]), data]);
}

export function simple(cookie: Buffer, error: number, data: Buffer = Buffer.alloc(0)): Buffer {
  return Buffer.concat([be([4, 0x67446698], [4, error]), cookie, data]);
}

export function chunk(
  cookie: Buffer,
  flags: number,
  type: number,
  payload: Buffer = Buffer.alloc(0),
): Buffer {
  return Buffer.concat([
    be([4, 0x668e33ef], [2, flags], [2, type]),
    cookie,
    be([4, payload.length]),
    payload,
  ]);
}

/** An NBD server on a disk in memory that can be told to lie. */
export class FakeServer {
  readonly disk: Buffer;
  readonly requests: FakeRequest[] = [];
  readonly options: number[] = [];
  connections = 0;
  readonly path: string;
  readonly #options: FakeOptions;
  readonly #folder: string;
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();

  static async start(options: FakeOptions = {}): Promise<FakeServer> {
    const server = new FakeServer(options);
    await new Promise<void>((resolve) => {
      if (options.port === true) server.#server.listen(0, "127.0.0.1", resolve);
      else server.#server.listen(server.path, resolve);
    });
    return server;
  }

  private constructor(options: FakeOptions) {
    this.#options = options;
    this.disk = Buffer.alloc(options.size ?? 1 << 20);
    this.path = options.path ?? join(mkdtempSync(join(tmpdir(), "virtio-nbd-")), "socket");
    this.#folder = dirname(this.path);
    mkdirSync(this.#folder, { recursive: true });
    this.#server = createServer((socket) => this.#serve(socket));
  }

  get port(): number {
    const address = this.#server.address();
    return typeof address === "object" && address !== null ? address.port : 0;
  }

  get uri(): string {
    if (this.#options.port === true) return `nbd://127.0.0.1:${this.port}/`;
    return `nbd+unix:///?socket=${this.path}`;
  }

  /** Connections that are there now. */
  get live(): number {
    return this.#sockets.size;
  }

  /** Ends the oldest connection. */
  hangUpOne(): void {
    for (const socket of this.#sockets) return void socket.destroy();
  }

  /** Ends all connections. */
  hangUp(): void {
    for (const socket of this.#sockets) socket.destroy();
  }

  async stop(): Promise<void> {
    this.hangUp();
    await new Promise((resolve) => this.#server.close(resolve));
    rmSync(this.#folder, { recursive: true });
  }

  #serve(socket: Socket): void {
    const connection = this.connections++;
    this.#sockets.add(socket);
    socket.on("error", () => {}).on("close", () => this.#sockets.delete(socket));
    let bytes = Buffer.alloc(0);
    const steps = this.#steps(socket, connection);
    let wanted = steps.next().value;
    socket.on("data", (piece: Buffer) => {
      bytes = Buffer.concat([bytes, piece]);
      while (typeof wanted === "number" && bytes.length >= wanted) {
        const taken = bytes.subarray(0, wanted);
        bytes = bytes.subarray(wanted);
        wanted = steps.next(taken).value;
      }
    });
  }

  /** Yields how many bytes it wants next. */
  *#steps(socket: Socket, connection: number): Generator<number, void, Buffer> {
    const { style = "fixed", greeting } = this.#options;
    if (greeting !== undefined) {
      socket.write(greeting);
      for (;;) yield 1;
    }
    const { flags = EVERYTHING } = this.#options;
    let structured = false;
    if (style === "oldstyle") {
      const head = be([8, 0x4e42444d41474943n], [8, 0x00420281861253n], [8, this.disk.length], [4, flags]);
      socket.write(Buffer.concat([head, Buffer.alloc(124)]));
    } else {
      socket.write(be([8, 0x4e42444d41474943n], [8, 0x49484156454f5054n], [2, style === "fixed" ? 3 : 0]));
      yield 4;
      for (;;) {
        const head = yield 16;
        const option = head.readUInt32BE(8);
        this.options.push(option);
        const data = yield* this.#some(head.readUInt32BE(12));
        const answer = this.#options.onOption?.(option, data) ?? this.answer(option);
        socket.write(answer);
        if (option === 8 && this.#options.structured !== false) structured = true;
        if (option === 1 || answer.subarray(-20).equals(optionReply(7, 1))) break;
      }
    }
    for (;;) {
      const head = yield 28;
      const command = head.readUInt16BE(6);
      const length = head.readUInt32BE(24);
      const data = command === 1 ? yield* this.#some(length) : Buffer.alloc(0);
      const request: FakeRequest = {
        flags: head.readUInt16BE(4),
        command,
        cookie: Buffer.from(head.subarray(8, 16)),
        offset: Number(head.readBigUInt64BE(16)),
        length,
        data,
      };
      this.requests.push(request);
      if (command === 2) return void socket.end();
      const said = this.#options.onRequest?.(request, connection);
      if (said === "hang up") return void socket.destroy();
      if (said === "silence") continue;
      const answer = (): void =>
        void socket.write(typeof said === "object" ? said : this.execute(request, structured));
      if (said === "later") this.#options.onLater?.(answer);
      else answer();
    }
  }

  *#some(length: number): Generator<number, Buffer, Buffer> {
    return length === 0 ? Buffer.alloc(0) : Buffer.from(yield length);
  }

  /** The right answer to an option. */
  answer(option: number): Buffer {
    const { flags = EVERYTHING, blocks, style = "fixed" } = this.#options;
    if (option === 1) {
      return Buffer.concat([
        be([8, this.disk.length], [2, flags]),
        Buffer.alloc(style === "fixed" ? 0 : 124),
      ]);
    }
    if (option === 8 && this.#options.structured !== false) return optionReply(8, 1);
    if (option !== 7 || this.#options.go === false) return optionReply(option, 2 ** 31 + 1);
    const info = optionReply(7, 3, be([2, 0], [8, this.disk.length], [2, flags]));
    const sizes =
      blocks === undefined
        ? Buffer.alloc(0)
        : optionReply(7, 3, be([2, 3], [4, blocks[0]], [4, blocks[1]], [4, blocks[2]]));
    return Buffer.concat([info, sizes, optionReply(7, 1)]);
  }

  /** The right answer. */
  execute({ command, cookie, offset, length, data }: FakeRequest, structured: boolean): Buffer {
    if (command === 0) {
      const read = Buffer.from(this.disk.subarray(offset, offset + length));
      return structured
        ? chunk(cookie, 1, 1, Buffer.concat([be([8, offset]), read]))
        : simple(cookie, 0, read);
    }
    if (command === 1) this.disk.set(data, offset);
    else if (command === 4 || command === 6) this.disk.fill(0, offset, offset + length);
    return structured ? chunk(cookie, 1, 0) : simple(cookie, 0);
  }
}
