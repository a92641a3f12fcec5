// The IPv4 header: a view with all of its checks, the martian test, the emitter and the pseudo-header sum.
// It owns no routing and no reassembly. RFC 791, RFC 1122 3.2.1; identification RFC 6864.

import { getI32, getU8, getU16, setU8, setU16, setU32 } from '../base/bytes.ts';
import { finish, fold, sumBytes } from '../base/checksum.ts';
import { Drop } from '../base/drop.ts';
import type { Random } from '../base/random.ts';
import { type Cidr4, isMartianV4 } from './address.ts';

/** Bytes of a header without options: the only kind we emit. */
export const IPV4_HEADER = 20;
/** Largest packet, header included. */
export const IPV4_MAX = 65535;

export const PROTO_ICMP = 1;
export const PROTO_TCP = 6;
export const PROTO_UDP = 17;

/** Bits of the flags and fragment offset word. */
export const IPV4_DF = 0x4000;
export const IPV4_MF = 0x2000;
/** TTL of everything we emit (RFC 1700). */
export const DEFAULT_TTL = 64;

const OPT_EOL = 0;
const OPT_NOP = 1;
const OPT_LSRR = 131;
const OPT_SSRR = 137;

/** One packet in [off, end), padding cut. Reused: re-aim it with `wrap`, keep nothing of it. */
export class Ipv4View {
  buf: Uint8Array = new Uint8Array(0);
  off = 0;
  /** End of the packet by its total length; Ethernet padding lies beyond. */
  end = 0;
  /** Offset of the payload. */
  payloadOff = 0;

  /** Aims the view. @returns Ip4Malformed, Ip4BadChecksum, Ip4BadOption or Ip4TtlZero for what must be dropped. */
  wrap(buf: Uint8Array, off: number, end: number): Drop {
    this.buf = buf;
    this.off = off;
    this.end = end;
    this.payloadOff = off;
    if (end - off < IPV4_HEADER) return Drop.Ip4Malformed;
    const first = getU8(buf, off);
    const headerLength = (first & 15) * 4;
    const totalLength = getU16(buf, off + 2);
    if (first >>> 4 !== 4 || headerLength < IPV4_HEADER) return Drop.Ip4Malformed;
    if (totalLength < headerLength || totalLength > end - off) return Drop.Ip4Malformed;
    this.end = off + totalLength;
    this.payloadOff = off + headerLength;
    if (fold(sumBytes(buf, off, headerLength)) !== 0xffff) return Drop.Ip4BadChecksum;
    if (headerLength > IPV4_HEADER && !optionsAllowed(buf, off + IPV4_HEADER, off + headerLength)) {
      return Drop.Ip4BadOption;
    }
    if (getU8(buf, off + 8) === 0) return Drop.Ip4TtlZero;
    return Drop.None;
  }

  get headerLength(): number {
    return this.payloadOff - this.off;
  }

  get totalLength(): number {
    return this.end - this.off;
  }

  get payloadLength(): number {
    return this.end - this.payloadOff;
  }

  get id(): number {
    return getU16(this.buf, this.off + 4);
  }

  get dontFragment(): boolean {
    return (getU8(this.buf, this.off + 6) & 0x40) !== 0;
  }

  get moreFragments(): boolean {
    return (getU8(this.buf, this.off + 6) & 0x20) !== 0;
  }

  /** Bytes of payload before this fragment's. */
  get fragmentOffset(): number {
    return (getU16(this.buf, this.off + 6) & 0x1fff) * 8;
  }

  get isFragment(): boolean {
    return (getU16(this.buf, this.off + 6) & 0x3fff) !== 0;
  }

  get ttl(): number {
    return getU8(this.buf, this.off + 8);
  }

  get protocol(): number {
    return getU8(this.buf, this.off + 9);
  }

  /** Source address, int32. */
  get src(): number {
    return getI32(this.buf, this.off + 12);
  }

  /** Destination address, int32. */
  get dst(): number {
    return getI32(this.buf, this.off + 16);
  }
}

/** Walks the options: bad lengths and source routes (RFC 7126 4.3, 4.4) are refused, everything else is skipped. */
function optionsAllowed(buf: Uint8Array, off: number, end: number): boolean {
  while (off < end) {
    const kind = getU8(buf, off);
    if (kind === OPT_EOL) return true;
    if (kind === OPT_NOP) {
      off++;
      continue;
    }
    if (kind === OPT_LSRR || kind === OPT_SSRR || off + 1 >= end) return false;
    const len = getU8(buf, off + 1);
    if (len < 2 || len > end - off) return false;
    off += len;
  }
  return true;
}

/** What the martian test must know of the network. */
export interface MartianRules {
  readonly network: Cidr4;
  /** Whether an address is one of the stack's own. */
  isOurs(ip: number): boolean;
}

/**
 * Whether no guest can be the sender (RFC 1122 3.2.1.3, RFC 1812 5.3.7): groups, broadcast, 127/8, 240/4, 0/8, our own addresses.
 * @param allowUnspecified true for DHCP's datagrams only: 0.0.0.0 passes.
 */
export function isMartianSource(src: number, rules: MartianRules, allowUnspecified: boolean): boolean {
  if (src === 0) return !allowUnspecified;
  if (isMartianV4(src) || rules.isOurs(src)) return true;
  return isNetworkEdge(src, rules.network);
}

/** The network's own broadcast or network address; a /31 or /32 has neither (RFC 3021). */
export function isNetworkEdge(ip: number, network: Cidr4): boolean {
  return network.prefix < 31 && (ip === network.network || ip === network.broadcast);
}

/** Broadcast of either kind, or a group. */
export function isBroadcastOrGroup(ip: number, network: Cidr4): boolean {
  return ip >>> 28 === 14 || ip === -1 || isNetworkEdge(ip, network);
}

/**
 * Writes a 20-byte header with its checksum.
 * @param totalLength header and payload, at most 65,535.
 * @param flagsFragment IPV4_DF, IPV4_MF and the fragment offset in units of 8 bytes.
 * @returns its length, 20.
 */
export function emitIpv4Header(
  buf: Uint8Array,
  off: number,
  totalLength: number,
  id: number,
  flagsFragment: number,
  ttl: number,
  protocol: number,
  src: number,
  dst: number,
): number {
  const sum =
    0x4500 +
    totalLength +
    id +
    flagsFragment +
    ((ttl << 8) | protocol) +
    (src >>> 16) +
    (src & 0xffff) +
    (dst >>> 16) +
    (dst & 0xffff);
  setU16(buf, off, 0x4500);
  setU16(buf, off + 2, totalLength);
  setU16(buf, off + 4, id);
  setU16(buf, off + 6, flagsFragment);
  setU8(buf, off + 8, ttl);
  setU8(buf, off + 9, protocol);
  setU16(buf, off + 10, finish(sum));
  setU32(buf, off + 12, src);
  setU32(buf, off + 16, dst);
  return IPV4_HEADER;
}

/** Partial sum of the pseudo-header (RFC 768, RFC 9293 3.1). @param length bytes of transport header and payload. */
export function pseudoHeaderSumV4(src: number, dst: number, protocol: number, length: number): number {
  return (src >>> 16) + (src & 0xffff) + (dst >>> 16) + (dst & 0xffff) + protocol + length;
}

const ID_COUNTERS = 1024;

/**
 * Identification for packets that may be fragmented (RFC 6864 4.2): counters shared by hash of (src, dst, protocol), so that one
 * pair's IDs repeat only after 65,536 of its own packets and one guest learns nothing of another's. Atomic packets (DF) take ID 0.
 */
export class IpIds {
  readonly #next: Uint16Array = new Uint16Array(ID_COUNTERS);
  readonly #seed: number;

  constructor(random: Random) {
    this.#seed = random.i32();
    for (let i = 0; i < ID_COUNTERS; i++) this.#next[i] = random.i32();
  }

  next(src: number, dst: number, protocol: number): number {
    let h = Math.imul(src ^ this.#seed, 0x9e3779b1);
    h = Math.imul(h ^ (h >>> 15) ^ dst, 0x85ebca6b);
    h = Math.imul(h ^ (h >>> 13) ^ protocol, 0xc2b2ae35);
    h = (h ^ (h >>> 16)) & (ID_COUNTERS - 1);
    const id = this.#next[h]!;
    this.#next[h] = id + 1;
    return id;
  }
}
