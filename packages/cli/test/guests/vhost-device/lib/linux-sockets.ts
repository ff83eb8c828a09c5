import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { SyscallPort } from "@virtio/cli/boot/syscalls";

/** System calls of Linux for i386. */
const SYSCALL = {
  read: 3,
  write: 4,
  close: 6,
  mmap2: 192,
  socket: 359,
  bind: 361,
  connect: 362,
  listen: 363,
  accept4: 364,
  shutdown: 373,
} as const;
const AF_VSOCK = 40;
const SOCK_STREAM = 1;
const VMADDR_CID_ANY = 0xffffffff;
export const SHUT_WR = 1;
const PROT_READ_WRITE = 3;
const MAP_PRIVATE_ANONYMOUS = 0x22;
/** Error numbers, as calls give them. */
export const ECONNRESET = -104;

/** Sockets of a Linux guest, whose system calls are made for us by the program of guest/syscall-program.ts at the end of a port. */
export class LinuxSockets {
  readonly #port: SyscallPort;
  readonly #socket: Socket;
  #memory = 0;

  private constructor(port: SyscallPort, socket: Socket) {
    this.#port = port;
    this.#socket = socket;
  }

  /** `path`: the socket of QEMU's end of the port. `room`: bytes of memory that data goes through. */
  static async open(path: string, room: number): Promise<LinuxSockets> {
    const socket = connect(path);
    await once(socket, "connect");
    const port = new SyscallPort();
    socket.on("data", (bytes) => port.write(bytes));
    port.attach({
      receive: (bytes) => (socket.write(bytes), bytes.length),
      ready: () => undefined,
      setOpen: () => undefined,
      resize: () => undefined,
    });
    port.guestOpen(true);
    const sockets = new LinuxSockets(port, socket);
    sockets.#memory = await port.call(SYSCALL.mmap2, 0, room, PROT_READ_WRITE, MAP_PRIVATE_ANONYMOUS, -1, 0);
    return sockets;
  }

  /** A descriptor of a socket that listens. */
  async listen(port: number): Promise<number> {
    const socket = await this.#create();
    await this.#must(SYSCALL.bind, socket, address(VMADDR_CID_ANY, port), 16);
    await this.#must(SYSCALL.listen, socket, 8);
    return socket;
  }

  accept(listener: number): Promise<number> {
    return this.#must(SYSCALL.accept4, listener, 0, 0, 0);
  }

  /** A descriptor, or an error number. */
  async connect(cid: number, port: number): Promise<number> {
    const socket = await this.#create();
    const result = await this.#port.call(SYSCALL.connect, socket, address(cid, port), 16);
    if (result === 0) return socket;
    await this.close(socket);
    return result;
  }

  /** Reads into the guest's memory, from `at` on; gives the bytes that came, 0 at the end. */
  read(socket: number, at: number, length: number): Promise<number> {
    return this.#must(SYSCALL.read, socket, this.#memory + at, length);
  }

  /** Writes from the guest's memory. Gives the bytes that were taken, or an error number. */
  write(socket: number, at: number, length: number): Promise<number> {
    return this.#port.call(SYSCALL.write, socket, this.#memory + at, length);
  }

  async shutdown(socket: number, how: number): Promise<void> {
    await this.#must(SYSCALL.shutdown, socket, how);
  }

  async close(socket: number): Promise<void> {
    await this.#must(SYSCALL.close, socket);
  }

  /** Lets go of the port. */
  end(): void {
    this.#socket.destroy();
  }

  #create(): Promise<number> {
    return this.#must(SYSCALL.socket, AF_VSOCK, SOCK_STREAM, 0);
  }

  async #must(number: number, ...values: readonly (number | Uint8Array)[]): Promise<number> {
    const result = await this.#port.call(number, ...values);
    if (result < 0) throw new Error(`system call ${number} of the guest gives ${result}`);
    return result;
  }
}

/** `struct sockaddr_vm`. */
function address(cid: number, port: number): Uint8Array {
  const bytes = Buffer.alloc(16);
  bytes.writeUInt16LE(AF_VSOCK, 0);
  bytes.writeUInt32LE(port, 4);
  bytes.writeUInt32LE(cid, 8);
  return bytes;
}
