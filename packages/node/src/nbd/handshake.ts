import { NbdError, NbdProtocolError, serverText } from "./errors.ts";
import {
  isMagic,
  NBD_CLISERV_MAGIC,
  NBD_DEFAULT_MAX_PAYLOAD,
  NBD_FLAG_FIXED_NEWSTYLE,
  NBD_FLAG_HAS_FLAGS,
  NBD_FLAG_NO_ZEROES,
  NBD_INFO_BLOCK_SIZE,
  NBD_INFO_EXPORT,
  NBD_MAGIC,
  NBD_MAX_MINIMUM_BLOCK,
  NBD_OPT_ABORT,
  NBD_OPT_EXPORT_NAME,
  NBD_OPT_GO,
  NBD_OPT_STARTTLS,
  NBD_OPT_STRUCTURED_REPLY,
  NBD_OPTS_MAGIC,
  NBD_REP_ACK,
  NBD_REP_ERR_BLOCK_SIZE_REQD,
  NBD_REP_ERR_INVALID,
  NBD_REP_ERR_PLATFORM,
  NBD_REP_ERR_POLICY,
  NBD_REP_ERR_SHUTDOWN,
  NBD_REP_ERR_TLS_REQD,
  NBD_REP_ERR_TOO_BIG,
  NBD_REP_ERR_UNKNOWN,
  NBD_REP_ERR_UNSUP,
  NBD_REP_FLAG_ERROR,
  NBD_REP_INFO,
  NBD_REP_MAGIC,
  readBe16,
  readBe32,
  readBe64,
  writeBe16,
  writeBe32,
} from "./protocol.ts";

/** What the handshake is led over. */
export interface HandshakeStream {
  /** Exactly so many bytes; rejects when the connection ends before. */
  read(length: number): Promise<Uint8Array>;
  write(bytes: Uint8Array): void;
  /** Throws when the server sent more than was read. */
  startTls(): Promise<void>;
}

/** What the server said of the export. */
export interface NbdExport {
  /** Bytes. */
  readonly size: number;
  /** `NBD_FLAG_…`. */
  readonly flags: number;
  /** Replies to reads are structured. */
  readonly structured: boolean;
  /** Bytes, a power of two up to 65536. */
  readonly minimumBlock: number;
  /** Bytes of data in one read or write. */
  readonly maximumPayload: number;
}

/** Bytes of one option reply: two strings of 4096 bytes would fit. */
const MAX_OPTION_REPLY = 16_384;
/** Replies to one option; a server that sends more never comes to an end. */
const MAX_OPTION_REPLIES = 64;
const ZEROES_SIZE = 124;
const REFUSALS: Readonly<Record<number, string>> = {
  [NBD_REP_ERR_UNSUP]: "it does not know the option",
  [NBD_REP_ERR_POLICY]: "its policy does not allow it",
  [NBD_REP_ERR_INVALID]: "it takes the option for malformed",
  [NBD_REP_ERR_PLATFORM]: "its platform cannot",
  [NBD_REP_ERR_TLS_REQD]: "it wants TLS: use nbds://",
  [NBD_REP_ERR_UNKNOWN]: "it has no such export",
  [NBD_REP_ERR_SHUTDOWN]: "it is shutting down",
  [NBD_REP_ERR_BLOCK_SIZE_REQD]: "it wants NBD_INFO_BLOCK_SIZE, which was asked for",
  [NBD_REP_ERR_TOO_BIG]: "the option is too long for it",
};

/** An error reply of the server to an option. */
class Refused extends NbdError {
  readonly reply: number;

  constructor(reply: number, text: string) {
    const reason = REFUSALS[reply] ?? `error 0x${reply.toString(16)}`;
    super("EPERM", `the NBD server refuses: ${reason}${text === "" ? "" : ` ("${text}")`}`);
    this.reply = reply;
  }
}

/**
 * Leads the handshake ("Fixed newstyle negotiation", or an older one where the server has no other) to where requests can be
 * sent. `tls`: encrypted, or not at all. Rejects with an NbdError that says what the server refuses.
 */
export async function handshake(
  stream: HandshakeStream,
  exportName: string,
  tls: boolean,
): Promise<NbdExport> {
  const head = await stream.read(16);
  if (!isMagic(head, 0, NBD_MAGIC))
    throw new NbdError("EPERM", "there is no NBD server: it does not begin with NBDMAGIC");
  if (isMagic(head, 8, NBD_CLISERV_MAGIC)) return oldstyle(stream, exportName, tls);
  if (!isMagic(head, 8, NBD_OPTS_MAGIC))
    throw new NbdProtocolError("neither IHAVEOPT nor the old magic follows NBDMAGIC");
  const offered = readBe16(await stream.read(2), 0);
  const flags = offered & (NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
  const answer = new Uint8Array(4);
  writeBe32(answer, 0, flags);
  stream.write(answer);
  const fixed = (flags & NBD_FLAG_FIXED_NEWSTYLE) !== 0;
  if (tls) {
    // "The client MUST NOT issue NBD_OPT_STARTTLS unless the server set flag NBD_FLAG_FIXED_NEWSTYLE"
    if (!fixed) throw new NbdError("EPERM", "the NBD server is too old for TLS");
    await polite(stream, option(stream, NBD_OPT_STARTTLS));
    await stream.startTls();
  }
  if (!fixed) return byName(stream, exportName, flags, false);
  const structured = await supports(stream, NBD_OPT_STRUCTURED_REPLY);
  return (
    (await polite(stream, go(stream, exportName, structured))) ??
    byName(stream, exportName, flags, structured)
  );
}

/** "Oldstyle negotiation": one export, and no questions. */
async function oldstyle(stream: HandshakeStream, exportName: string, tls: boolean): Promise<NbdExport> {
  if (tls) throw new NbdError("EPERM", "the NBD server is too old for TLS");
  if (exportName !== "")
    throw new NbdError("EPERM", `the NBD server is too old for names of exports ("${exportName}")`);
  const rest = await stream.read(12 + ZEROES_SIZE);
  return checkedExport({ size: readBe64(rest, 0), flags: readBe32(rest, 8) & 0xffff, structured: false });
}

/** NBD_OPT_EXPORT_NAME: the server answers with the export or hangs up. */
async function byName(
  stream: HandshakeStream,
  exportName: string,
  flags: number,
  structured: boolean,
): Promise<NbdExport> {
  send(stream, NBD_OPT_EXPORT_NAME, new TextEncoder().encode(exportName));
  const zeroes = (flags & NBD_FLAG_NO_ZEROES) === 0 ? ZEROES_SIZE : 0;
  const rest = await stream.read(10 + zeroes);
  return checkedExport({ size: readBe64(rest, 0), flags: readBe16(rest, 8), structured });
}

/** NBD_OPT_GO; undefined when the server does not know it. */
async function go(
  stream: HandshakeStream,
  exportName: string,
  structured: boolean,
): Promise<NbdExport | undefined> {
  const name = new TextEncoder().encode(exportName);
  const data = new Uint8Array(4 + name.length + 4);
  writeBe32(data, 0, name.length);
  data.set(name, 4);
  writeBe16(data, 4 + name.length, 1);
  writeBe16(data, 6 + name.length, NBD_INFO_BLOCK_SIZE);
  let said: { size: number; flags: number } | undefined;
  let blocks: { minimumBlock: number; maximumPayload: number } | undefined;
  try {
    await option(stream, NBD_OPT_GO, data, (info) => {
      const type = info.length < 2 ? -1 : readBe16(info, 0);
      if (type === NBD_INFO_EXPORT) {
        if (info.length !== 12) throw new NbdProtocolError(`NBD_INFO_EXPORT of ${info.length} bytes`);
        said = { size: readBe64(info, 2), flags: readBe16(info, 10) };
      } else if (type === NBD_INFO_BLOCK_SIZE) {
        if (info.length !== 14) throw new NbdProtocolError(`NBD_INFO_BLOCK_SIZE of ${info.length} bytes`);
        blocks = { minimumBlock: readBe32(info, 2), maximumPayload: readBe32(info, 10) };
      }
    });
  } catch (error) {
    if (error instanceof Refused && error.reply === NBD_REP_ERR_UNSUP) return undefined;
    throw error;
  }
  if (said === undefined) throw new NbdProtocolError("NBD_OPT_GO is acknowledged without NBD_INFO_EXPORT");
  return checkedExport({ ...said, ...blocks, structured });
}

async function supports(stream: HandshakeStream, wanted: number): Promise<boolean> {
  try {
    await option(stream, wanted);
    return true;
  } catch (error) {
    // "clients SHOULD be prepared to also handle NBD_REP_ERR_UNSUP"; what really matters is refused again by NBD_OPT_GO.
    if (error instanceof Refused) return false;
    throw error;
  }
}

/** Sends an option and waits for its final reply; `info` takes the NBD_REP_INFO before it. Throws `Refused` for an error. */
async function option(
  stream: HandshakeStream,
  wanted: number,
  data: Uint8Array = new Uint8Array(0),
  info?: (data: Uint8Array) => void,
): Promise<void> {
  send(stream, wanted, data);
  for (let replies = 0; replies < MAX_OPTION_REPLIES; replies++) {
    const head = await stream.read(20);
    if (!isMagic(head, 0, NBD_REP_MAGIC)) throw new NbdProtocolError("an option reply has the wrong magic");
    const [answered, type, length] = [readBe32(head, 8), readBe32(head, 12), readBe32(head, 16)];
    if (answered !== wanted) throw new NbdProtocolError(`a reply to option ${answered}, asked was ${wanted}`);
    if (length > MAX_OPTION_REPLY) {
      throw new NbdProtocolError(`an option reply of ${length} bytes; ${MAX_OPTION_REPLY} are the most`);
    }
    const body = await stream.read(length);
    if (type >= NBD_REP_FLAG_ERROR) throw new Refused(type, serverText(body));
    if (type === NBD_REP_ACK) return;
    if (type !== NBD_REP_INFO || info === undefined) {
      throw new NbdProtocolError(`reply type ${type} to option ${wanted}`);
    }
    info(body);
  }
  throw new NbdProtocolError(`more than ${MAX_OPTION_REPLIES} replies to option ${wanted}`);
}

function send(stream: HandshakeStream, wanted: number, data: Uint8Array): void {
  const bytes = new Uint8Array(16 + data.length);
  writeBe32(bytes, 0, NBD_OPTS_MAGIC[0]);
  writeBe32(bytes, 4, NBD_OPTS_MAGIC[1]);
  writeBe32(bytes, 8, wanted);
  writeBe32(bytes, 12, data.length);
  bytes.set(data, 16);
  stream.write(bytes);
}

/** "In the client's case, if it wishes to [terminate] it MUST use soft disconnect". */
async function polite<T>(stream: HandshakeStream, work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (error) {
    if (error instanceof Refused) send(stream, NBD_OPT_ABORT, new Uint8Array(0));
    throw error;
  }
}

function checkedExport(said: {
  size: number;
  flags: number;
  structured: boolean;
  minimumBlock?: number;
  maximumPayload?: number;
}): NbdExport {
  const { size, structured, minimumBlock = 1, maximumPayload = NBD_DEFAULT_MAX_PAYLOAD } = said;
  if (!Number.isSafeInteger(size)) {
    throw new NbdError("EOVERFLOW", `the NBD server has an export of 2^53 bytes or more (${size})`);
  }
  if (!Number.isInteger(Math.log2(minimumBlock)) || minimumBlock > NBD_MAX_MINIMUM_BLOCK) {
    throw new NbdProtocolError(`a minimum block size of ${minimumBlock}: it is a power of two up to 65536`);
  }
  if (maximumPayload < Math.max(minimumBlock, 512)) {
    throw new NbdProtocolError(`a maximum payload of ${maximumPayload}, blocks are ${minimumBlock}`);
  }
  // Without NBD_FLAG_HAS_FLAGS the other bits mean nothing.
  const flags = (said.flags & NBD_FLAG_HAS_FLAGS) === 0 ? 0 : said.flags;
  return { size, flags, structured, minimumBlock, maximumPayload };
}
