/**
 * What this package needs of every JavaScript host and what `lib: es2023` leaves out, declared by hand so that it
 * compiles without Node's and without the DOM's types.
 */

interface WebAssemblyApi {
  instantiate(
    bytes: ArrayBuffer | Uint8Array,
    imports: object,
  ): Promise<{ readonly instance: { readonly exports: object } }>;
}

interface StreamReader {
  read(): Promise<{ readonly done: boolean; readonly value?: Uint8Array }>;
}

interface ByteStream {
  pipeThrough(transform: object): ByteStream;
  getReader(): StreamReader;
}

interface HostGlobals {
  readonly WebAssembly: WebAssemblyApi;
  readonly setTimeout: (callback: () => void, milliseconds: number) => unknown;
  /** Node only. */
  readonly setImmediate?: (callback: () => void) => unknown;
  readonly MessageChannel?: new () => {
    readonly port1: { onmessage: (() => void) | null };
    readonly port2: { postMessage(message: null): void };
  };
  readonly Blob: new (parts: readonly Uint8Array[]) => { stream(): ByteStream };
  readonly DecompressionStream: new (format: "gzip") => object;
  readonly TextEncoder: new () => { encode(text: string): Uint8Array<ArrayBuffer> };
  readonly TextDecoder: new (
    label?: string,
    options?: { fatal?: boolean },
  ) => { decode(bytes: Uint8Array): string };
}

export const host: HostGlobals = globalThis as typeof globalThis & HostGlobals;
