// Frames of a guest's TCP as benchmarks write them into packet memory, and number anew for each run: a stream goes on, so the same
// frame cannot come twice.

import { getI32, getU16, setU16, setU32 } from '../src/base/bytes.ts';
import { finish, fold, sumBytes } from '../src/base/checksum.ts';
import { parseMac } from '../src/ethernet/mac.ts';
import { emitIpv4Header, pseudoHeaderSumV4 } from '../src/ip/ipv4.ts';
import { emitTcpHeader, emitTimestamps, FLAG_ACK, FLAG_SYN } from '../src/tcp/segment.ts';

export const GATEWAY_MAC: Uint8Array = parseMac('f6:16:36:bc:f9:c6')!;
export const GUEST_MAC: Uint8Array = parseMac('52:54:00:00:00:01')!;
/** Ethernet and IPv4. */
export const BELOW_TCP = 34;
/** All headers of a segment with timestamps. */
export const HEADERS = 66;

export interface SegmentFields {
  readonly src: number;
  readonly dst: number;
  readonly srcPort: number;
  readonly dstPort: number;
  readonly seq: number;
  readonly ack?: number;
  readonly flags?: number;
  readonly payload?: number;
  readonly tsVal?: number;
  readonly tsEcr?: number;
  /** For a SYN. */
  readonly mss?: number;
  readonly wnd?: number;
}

/** Writes a whole frame; its payload is what lies there already. @returns its length */
export function writeSegment(mem: Uint8Array, at: number, f: SegmentFields): number {
  const { flags = FLAG_ACK, payload = 0, mss } = f;
  const syn = (flags & FLAG_SYN) !== 0;
  const header = syn ? 40 : 32;
  const tcpLen = header + payload;
  const tcp = at + BELOW_TCP;
  mem.set(GATEWAY_MAC, at);
  mem.set(GUEST_MAC, at + 6);
  setU16(mem, at + 12, 0x0800);
  emitIpv4Header(mem, at + 14, 20 + tcpLen, 0, 0x4000, 64, 6, f.src, f.dst);
  emitTcpHeader(mem, tcp, f.srcPort, f.dstPort, f.seq, f.ack ?? 0, header, flags, f.wnd ?? 0xffff);
  if (syn) {
    // MSS, window scale 10, SACK permitted and timestamps.
    mem.set([2, 4, 0, 0, 1, 3, 3, 10, 4, 2, 8, 10, 0, 0, 0, 0, 0, 0, 0, 0], tcp + 20);
    setU16(mem, tcp + 22, mss ?? 1460);
    setU32(mem, tcp + 32, f.tsVal ?? 1);
  } else emitTimestamps(mem, tcp + 20, f.tsVal ?? 1, f.tsEcr ?? 0);
  setU16(mem, tcp + 16, finish(pseudoHeaderSumV4(f.src, f.dst, 6, tcpLen) + sumBytes(mem, tcp, tcpLen)));
  return BELOW_TCP + tcpLen;
}

/** Changes a 32-bit field of a segment and its checksum with it (RFC 1624). @param field offset from the TCP header */
function change(mem: Uint8Array, tcp: number, field: number, value: number): void {
  const old = getI32(mem, tcp + field);
  const sum = (~getU16(mem, tcp + 16) & 0xffff) + (~(old >>> 16) & 0xffff) + (~old & 0xffff);
  setU32(mem, tcp + field, value);
  setU16(mem, tcp + 16, ~fold(sum + (value >>> 16) + (value & 0xffff)) & 0xffff);
}

export function setSeq(mem: Uint8Array, frame: number, seq: number): void {
  change(mem, frame + BELOW_TCP, 4, seq);
}

export function setAck(mem: Uint8Array, frame: number, ack: number): void {
  change(mem, frame + BELOW_TCP, 8, ack);
}

/** Fills memory with bytes that are all over the place. */
export function noise(mem: Uint8Array, from = 0, to: number = mem.length): void {
  let x = 1;
  for (let i = from; i < to; i++) {
    x = (Math.imul(x, 1_103_515_245) + 12_345) | 0;
    mem[i] = x >>> 16;
  }
}
