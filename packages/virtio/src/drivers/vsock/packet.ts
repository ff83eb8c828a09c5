import { readLe16, readLe32, readLe64, writeLe16, writeLe32, writeLe64 } from "../../memory/bytes.ts";
import { VIRTIO_VSOCK_HDR as AT, VIRTIO_VSOCK_HDR_SIZE } from "../../spec/vsock.ts";

/** One end of a connection. */
export interface VsockAddress {
  /** Context ID: 2 is the host. */
  readonly cid: number;
  readonly port: number;
}

/** struct virtio_vsock_hdr. */
export interface VsockHeader {
  readonly source: VsockAddress;
  readonly destination: VsockAddress;
  /** VIRTIO_VSOCK_TYPE_…. */
  readonly type: number;
  /** VIRTIO_VSOCK_OP_…. */
  readonly op: number;
  readonly flags: number;
  /** Bytes of the payload. */
  readonly length: number;
  readonly bufAlloc: number;
  readonly fwdCnt: number;
}

export function writeHeader(header: VsockHeader): Uint8Array {
  const bytes = new Uint8Array(VIRTIO_VSOCK_HDR_SIZE);
  writeLe64(bytes, AT.src_cid, header.source.cid);
  writeLe64(bytes, AT.dst_cid, header.destination.cid);
  writeLe32(bytes, AT.src_port, header.source.port);
  writeLe32(bytes, AT.dst_port, header.destination.port);
  writeLe32(bytes, AT.len, header.length);
  writeLe16(bytes, AT.type, header.type);
  writeLe16(bytes, AT.op, header.op);
  writeLe32(bytes, AT.flags, header.flags);
  writeLe32(bytes, AT.buf_alloc, header.bufAlloc);
  writeLe32(bytes, AT.fwd_cnt, header.fwdCnt);
  return bytes;
}

export function readHeader(bytes: Uint8Array): VsockHeader {
  return {
    source: { cid: readLe64(bytes, AT.src_cid), port: readLe32(bytes, AT.src_port) },
    destination: { cid: readLe64(bytes, AT.dst_cid), port: readLe32(bytes, AT.dst_port) },
    length: readLe32(bytes, AT.len),
    type: readLe16(bytes, AT.type),
    op: readLe16(bytes, AT.op),
    flags: readLe32(bytes, AT.flags),
    bufAlloc: readLe32(bytes, AT.buf_alloc),
    fwdCnt: readLe32(bytes, AT.fwd_cnt),
  };
}
