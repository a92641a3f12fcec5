// The UDP header of both IP families: a view with its checks, and the emitter. Flows and sockets are forwarder business.
// RFC 768, RFC 1122 4.1; over IPv6 the checksum is not optional (RFC 8200 8.1).

import { getU16, setU16 } from '../base/bytes.ts';
import { finish, fold, sumBytes } from '../base/checksum.ts';
import { Drop } from '../base/drop.ts';

/** Bytes of the header. */
export const UDP_HEADER = 8;
/** Largest payload of an IPv4 datagram. */
export const UDP_MAX_PAYLOAD = 65507;

/** Sums bytes of the memory that a view lies in: base/checksum's Checksummer, or a faster twin. */
export interface Summer {
  sum(off: number, len: number): number;
}

/** One datagram in [off, end), cut to its own length. Reused: re-aim it with `wrap`, keep nothing of it. */
export class UdpView {
  buf: Uint8Array = new Uint8Array(0);
  off = 0;
  end = 0;

  /** Aims the view. @returns UdpMalformed for a bad length, UdpPortZero for destination port 0; check `verify` too. */
  wrap(buf: Uint8Array, off: number, end: number): Drop {
    this.buf = buf;
    this.off = off;
    this.end = end;
    if (end - off < UDP_HEADER) return Drop.UdpMalformed;
    const length = getU16(buf, off + 4);
    if (length < UDP_HEADER || length > end - off) return Drop.UdpMalformed;
    this.end = off + length;
    return getU16(buf, off + 2) === 0 ? Drop.UdpPortZero : Drop.None;
  }

  /**
   * Checks the checksum.
   * @param pseudo partial sum of the pseudo-header over `length`.
   * @param summer sums the memory that `buf` is; undefined where `buf` is other memory.
   * @param required true over IPv6: a zero checksum is an error there.
   */
  verify(pseudo: number, summer: Summer | undefined, required: boolean): Drop {
    if (getU16(this.buf, this.off + 6) === 0) return required ? Drop.UdpBadChecksum : Drop.None;
    const len = this.end - this.off;
    const sum = summer === undefined ? sumBytes(this.buf, this.off, len) : summer.sum(this.off, len);
    return fold(pseudo + sum) === 0xffff ? Drop.None : Drop.UdpBadChecksum;
  }

  get srcPort(): number {
    return getU16(this.buf, this.off);
  }

  get dstPort(): number {
    return getU16(this.buf, this.off + 2);
  }

  /** Header and payload. */
  get length(): number {
    return this.end - this.off;
  }

  get payloadOff(): number {
    return this.off + UDP_HEADER;
  }

  get payloadLength(): number {
    return this.end - this.off - UDP_HEADER;
  }
}

/**
 * Writes a header with its checksum (a computed 0 goes out as 0xFFFF).
 * @param payloadLength bytes that follow the header.
 * @param pseudo partial sum of the pseudo-header over `payloadLength + 8`.
 * @param payloadSum partial sum of the payload.
 * @returns its length, 8.
 */
export function emitUdpHeader(
  buf: Uint8Array,
  off: number,
  srcPort: number,
  dstPort: number,
  payloadLength: number,
  pseudo: number,
  payloadSum: number,
): number {
  const length = payloadLength + UDP_HEADER;
  setU16(buf, off, srcPort);
  setU16(buf, off + 2, dstPort);
  setU16(buf, off + 4, length);
  const checksum = finish(pseudo + srcPort + dstPort + length + payloadSum);
  setU16(buf, off + 6, checksum === 0 ? 0xffff : checksum);
  return UDP_HEADER;
}
