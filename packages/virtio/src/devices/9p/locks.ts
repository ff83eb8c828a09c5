import type { MaybePromise } from "../../device/device.ts";
import { Errno } from "../../backends/errno.ts";
import type { FileHandle, FileLock, LockOwner } from "../../backends/file-system.ts";
import type { MessageReader } from "../../protocols/9p/message.ts";
import {
  LOCK_BLOCKED,
  LOCK_FLAGS_BLOCK,
  LOCK_FLAGS_RECLAIM,
  LOCK_SUCCESS,
  LOCK_TYPE_RDLCK,
  LOCK_TYPE_UNLCK,
  LOCK_TYPE_WRLCK,
} from "../../protocols/9p/numbers.ts";
import { writeRgetlock } from "../../protocols/9p/replies.ts";
import { readTgetlock, readTlock } from "../../protocols/9p/requests.ts";
import type { Exchange } from "./exchange.ts";
import { after } from "./fids.ts";
import { MAX_CLIENT_ID } from "./limits.ts";
import type { Session } from "./session.ts";

/**
 * Tlock and Tgetlock. A lock that another holds is answered with "blocked" at once, even when the client would wait:
 * it asks again (Linux every 30 seconds), and a request that waits for another guest would keep this one from pausing.
 */
export function lock(s: Session, x: Exchange, r: MessageReader): MaybePromise<number> {
  const m = readTlock(r);
  const handle = openHandle(s, m.fid);
  if ((m.flags & ~(LOCK_FLAGS_BLOCK | LOCK_FLAGS_RECLAIM)) !== 0) throw Errno.of("EINVAL");
  const wanted = lockOf(m);
  if (m.type === LOCK_TYPE_UNLCK) {
    const { owner, start, length } = wanted;
    return after(s.fs.unlock(handle, owner, start, length), () => {
      s.fids.locks.unlock(handle, owner, start, length);
      x.reply.u8(LOCK_SUCCESS);
      return 0;
    });
  }
  return after(s.fs.lock(handle, wanted), (granted) => {
    if (granted) s.fids.locks.lock(handle, wanted);
    x.reply.u8(granted ? LOCK_SUCCESS : LOCK_BLOCKED);
    return 0;
  });
}

export function testLock(s: Session, x: Exchange, r: MessageReader): MaybePromise<number> {
  const m = readTgetlock(r);
  const handle = openHandle(s, m.fid);
  const wanted = lockOf(m);
  return after(m.type === LOCK_TYPE_UNLCK ? undefined : s.fs.testLock(handle, wanted), (found) => {
    if (found === undefined) {
      const { start, length } = wanted;
      writeRgetlock(x.reply, { ...m, start, length, type: LOCK_TYPE_UNLCK });
      return 0;
    }
    const type = found.exclusive ? LOCK_TYPE_WRLCK : LOCK_TYPE_RDLCK;
    const { start, length, owner } = found;
    writeRgetlock(x.reply, { type, start, length, process: owner.process, client: owner.client });
    return 0;
  });
}

function openHandle(s: Session, number: number): FileHandle {
  const { handle } = s.file(number);
  if (handle === undefined) throw Errno.of("EBADF");
  return handle;
}

function lockOf(m: {
  readonly type: number;
  readonly start: number;
  readonly length: number;
  readonly process: number;
  readonly client: string;
}): FileLock {
  if (m.type > LOCK_TYPE_UNLCK || m.client.length > MAX_CLIENT_ID) throw Errno.of("EINVAL");
  if (m.start > Number.MAX_SAFE_INTEGER) throw Errno.of("EOVERFLOW");
  const owner: LockOwner = {
    key: `${m.process} ${m.client}`,
    process: m.process,
    client: m.client,
  };
  // So long a lock reaches the end of any file.
  const length = m.start + m.length > Number.MAX_SAFE_INTEGER ? 0 : m.length;
  return { exclusive: m.type === LOCK_TYPE_WRLCK, start: m.start, length, owner };
}
