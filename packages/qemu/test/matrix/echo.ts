import { createServer, type Server, type Socket } from "node:net";

/** Gives back whatever it gets: the far end of a network card or of a serial port of QEMU. */
export class EchoServer {
  readonly path: string;
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();

  private constructor(path: string, server: Server) {
    this.path = path;
    this.#server = server;
    server.on("connection", (socket) => {
      this.#sockets.add(socket);
      socket.on("data", (bytes) => socket.write(bytes));
      // QEMU ends without a word.
      socket.on("error", () => socket.destroy());
      socket.on("close", () => this.#sockets.delete(socket));
    });
  }

  static listen(path: string): Promise<EchoServer> {
    const server = createServer();
    return new Promise((resolve, reject) => {
      server.once("error", reject);
      server.listen(path, () => resolve(new EchoServer(path, server)));
    });
  }

  close(): void {
    this.#server.close();
    for (const socket of this.#sockets) socket.destroy();
  }
}
