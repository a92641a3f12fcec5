// ICMP for IPv4: message view, echo, errors with their quote, the rules when an error may be sent at all and how often, and the
// view of what a received error quotes. RFC 792, RFC 1122 3.2.2, RFC 1812 4.3.2, next-hop MTU RFC 1191.

import { copyBytes, getI32, getU8, getU16, setU8, setU16, setU32 } from '../base/bytes.ts';
import { finish, fold, sumBytes } from '../base/checksum.ts';
import type { Millis } from '../base/clock.ts';
import { Drop } from '../base/drop.ts';
import { type Cidr4, isMartianV4 } from './address.ts';
import {
  DEFAULT_TTL,
  emitIpv4Header,
  IPV4_HEADER,
  type Ipv4View,
  isBroadcastOrGroup,
  isNetworkEdge,
  PROTO_ICMP,
  PROTO_UDP,
} from './ipv4.ts';
import { type Summer, UDP_HEADER } from './udp.ts';

/** Bytes of the header of every message. */
export const ICMP_HEADER = 8;

export const ICMP_ECHO_REPLY = 0;
export const ICMP_UNREACHABLE = 3;
export const ICMP_SOURCE_QUENCH = 4;
export const ICMP_REDIRECT = 5;
export const ICMP_ECHO_REQUEST = 8;
export const ICMP_TIME_EXCEEDED = 11;
export const ICMP_PARAMETER_PROBLEM = 12;

/** Codes of ICMP_UNREACHABLE. */
export const UNREACHABLE_NET = 0;
export const UNREACHABLE_HOST = 1;
export const UNREACHABLE_PROTOCOL = 2;
export const UNREACHABLE_PORT = 3;
export const UNREACHABLE_FRAG_NEEDED = 4;
export const UNREACHABLE_PROHIBITED = 13;

/** Codes of ICMP_TIME_EXCEEDED. */
export const EXCEEDED_TTL = 0;
export const EXCEEDED_REASSEMBLY = 1;

/** Bytes of a quote at most, so that header, ICMP header and quote make 576 (RFC 1812 4.3.2.3). */
export const ICMP_MAX_QUOTE: number = 576 - IPV4_HEADER - ICMP_HEADER;

/** One message in [off, end). Reused: re-aim it with `wrap`, keep nothing of it. */
export class IcmpView {
  buf: Uint8Array = new Uint8Array(0);
  off = 0;
  end = 0;

  /**
   * Aims the view.
   * @param summer sums the memory that `buf` is; undefined where `buf` is other memory.
   * @returns IcmpMalformed under 8 bytes, IcmpBadChecksum.
   */
  wrap(buf: Uint8Array, off: number, end: number, summer: Summer | undefined): Drop {
    this.buf = buf;
    this.off = off;
    this.end = end;
    if (end - off < ICMP_HEADER) return Drop.IcmpMalformed;
    const sum = summer === undefined ? sumBytes(buf, off, end - off) : summer.sum(off, end - off);
    return fold(sum) === 0xffff ? Drop.None : Drop.IcmpBadChecksum;
  }

  get type(): number {
    return getU8(this.buf, this.off);
  }

  get code(): number {
    return getU8(this.buf, this.off + 1);
  }

  /** Echo: identifier. */
  get id(): number {
    return getU16(this.buf, this.off + 4);
  }

  /** Echo: sequence number. */
  get seq(): number {
    return getU16(this.buf, this.off + 6);
  }

  /** Fragmentation needed: the next hop's MTU, 0 from routers older than RFC 1191. */
  get mtu(): number {
    return getU16(this.buf, this.off + 6);
  }

  /** Unreachable, source quench, redirect, time exceeded or parameter problem. */
  get isError(): boolean {
    return isErrorType(getU8(this.buf, this.off));
  }

  /** Echo data, or an error's quote. */
  get payloadOff(): number {
    return this.off + ICMP_HEADER;
  }

  get payloadLength(): number {
    return this.end - this.off - ICMP_HEADER;
  }
}

function isErrorType(type: number): boolean {
  return (
    type === ICMP_UNREACHABLE ||
    type === ICMP_SOURCE_QUENCH ||
    type === ICMP_REDIRECT ||
    type === ICMP_TIME_EXCEEDED ||
    type === ICMP_PARAMETER_PROBLEM
  );
}

/** What an ICMP error quotes: an IPv4 header and at least 8 bytes behind it. No checksum is checked: it may have been cut or changed. */
export class QuoteView {
  buf: Uint8Array = new Uint8Array(0);
  off = 0;
  end = 0;
  /** Offset of the quoted transport header. */
  transportOff = 0;

  /** Aims the view. @returns IcmpMalformed if there is no IPv4 header with 8 bytes behind it, or if it is a later fragment's. */
  wrap(buf: Uint8Array, off: number, end: number): Drop {
    this.buf = buf;
    this.off = off;
    this.end = end;
    this.transportOff = off;
    if (end - off < IPV4_HEADER + 8) return Drop.IcmpMalformed;
    const headerLength = (getU8(buf, off) & 15) * 4;
    if (getU8(buf, off) >>> 4 !== 4 || headerLength < IPV4_HEADER) return Drop.IcmpMalformed;
    if (end - off < headerLength + 8 || (getU16(buf, off + 6) & 0x1fff) !== 0) return Drop.IcmpMalformed;
    this.transportOff = off + headerLength;
    return Drop.None;
  }

  get protocol(): number {
    return getU8(this.buf, this.off + 9);
  }

  /** Total length of the quoted packet as its sender wrote it. */
  get totalLength(): number {
    return getU16(this.buf, this.off + 2);
  }

  get src(): number {
    return getI32(this.buf, this.off + 12);
  }

  get dst(): number {
    return getI32(this.buf, this.off + 16);
  }

  get srcPort(): number {
    return getU16(this.buf, this.transportOff);
  }

  get dstPort(): number {
    return getU16(this.buf, this.transportOff + 2);
  }

  /** TCP: sequence number of the quoted segment, int32. */
  get seq(): number {
    return getI32(this.buf, this.transportOff + 4);
  }
}

/** Turns an echo request of a length checked before into its reply, where it lies: type and checksum change (RFC 1624). */
export function echoReplyInPlace(buf: Uint8Array, off: number): void {
  setU8(buf, off, ICMP_ECHO_REPLY);
  // HC' = ~(~HC + ~m + m') with m = 0x0800 and m' = 0. Of a message that is all zero 0 would be wrong, and 0xffff is right for all.
  setU16(buf, off + 2, finish((~getU16(buf, off + 2) & 0xffff) + 0xf7ff) || 0xffff);
}

/**
 * Writes an echo header; the payload is the caller's to put behind it.
 * @param payloadSum partial sum of the payload.
 * @returns its length, 8.
 */
export function emitEcho(
  buf: Uint8Array,
  off: number,
  type: number,
  id: number,
  seq: number,
  payloadSum: number,
): number {
  setU8(buf, off, type);
  setU8(buf, off + 1, 0);
  setU16(buf, off + 2, finish((type << 8) + id + seq + payloadSum));
  setU16(buf, off + 4, id);
  setU16(buf, off + 6, seq);
  return ICMP_HEADER;
}

/**
 * Writes an error: header and as much of the quote as 576 bytes in all allow (RFC 1812 4.3.2.3).
 * @param rest32 the second word: next-hop MTU, pointer or 0.
 * @returns its length, 8 to 556.
 */
export function emitIcmpError(
  buf: Uint8Array,
  off: number,
  type: number,
  code: number,
  rest32: number,
  quoteBuf: Uint8Array,
  quoteOff: number,
  quoteLen: number,
): number {
  const quoted = Math.min(quoteLen, ICMP_MAX_QUOTE);
  copyBytes(quoteBuf, quoteOff, buf, off + ICMP_HEADER, quoted);
  setU8(buf, off, type);
  setU8(buf, off + 1, code);
  setU16(buf, off + 2, 0);
  setU32(buf, off + 4, rest32);
  setU16(buf, off + 2, finish(sumBytes(buf, off, ICMP_HEADER + quoted)));
  return ICMP_HEADER + quoted;
}

/** Bytes that `emitUdpQuote` writes. */
export const UDP_QUOTE: number = IPV4_HEADER + UDP_HEADER;

/**
 * Writes the headers of a guest's datagram anew, as a quote for an error that arrives when the datagram itself is gone.
 * @param src the guest's address, int32.
 * @returns 28.
 */
export function emitUdpQuote(
  buf: Uint8Array,
  off: number,
  src: number,
  srcPort: number,
  dst: number,
  dstPort: number,
  payloadLength: number,
): number {
  const length = payloadLength + UDP_HEADER;
  emitIpv4Header(buf, off, IPV4_HEADER + length, 0, 0, DEFAULT_TTL, PROTO_UDP, src, dst);
  setU16(buf, off + IPV4_HEADER, srcPort);
  setU16(buf, off + IPV4_HEADER + 2, dstPort);
  setU16(buf, off + IPV4_HEADER + 4, length);
  // The checksum cannot be known any more; 0 says that there was none (RFC 768).
  setU16(buf, off + IPV4_HEADER + 6, 0);
  return UDP_QUOTE;
}

/** Whether an error about this packet may be sent (RFC 1122 3.2.2): never about errors, later fragments, groups, broadcasts, martians. */
export function mayError(ip: Ipv4View, network: Cidr4): boolean {
  if (ip.fragmentOffset !== 0) return false;
  if (isBroadcastOrGroup(ip.dst, network)) return false;
  const src = ip.src;
  if (src === 0 || isMartianV4(src) || isNetworkEdge(src, network)) return false;
  if (ip.protocol !== PROTO_ICMP) return true;
  // An ICMP message too short to have a type could be an error.
  return ip.payloadLength > 0 && !isErrorType(getU8(ip.buf, ip.payloadOff));
}

/** A token bucket for errors to one VM (RFC 1812 4.3.2.8). */
export class IcmpRateLimiter {
  /** Errors not sent. */
  limited = 0;
  readonly #perMs: number;
  readonly #burst: number;
  #tokens: number;
  #at: Millis = Number.NEGATIVE_INFINITY;

  /** @param perSecond errors a second in the long run. @param burst errors at once. */
  constructor(perSecond = 100, burst = 50) {
    this.#perMs = perSecond / 1000;
    this.#burst = burst;
    this.#tokens = burst;
  }

  /** Takes one token. @returns false (counted) when there is none. */
  take(now: Millis): boolean {
    if (now > this.#at) {
      if (this.#at !== Number.NEGATIVE_INFINITY) {
        this.#tokens = Math.min(this.#burst, this.#tokens + (now - this.#at) * this.#perMs);
      }
      this.#at = now;
    }
    if (this.#tokens < 1) {
      this.limited++;
      return false;
    }
    this.#tokens--;
    return true;
  }
}
