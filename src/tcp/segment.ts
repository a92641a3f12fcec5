// The TCP header as a reused view over packet memory (RFC 9293 3.1) with its options parsed (RFC 9293 3.2, 7323, 2018).
// It judges form only; acceptability is input's business. Bad option lengths end the option walk, never the segment.

import { getI32, getU16, setU16, setU32 } from '../base/bytes.ts';
import { Drop } from '../base/drop.ts';

export const TCP_HEADER = 20;
/** Largest TCP header with options. */
export const TCP_HEADER_MAX = 60;

export const FLAG_FIN = 0x01;
export const FLAG_SYN = 0x02;
export const FLAG_RST = 0x04;
export const FLAG_PSH = 0x08;
export const FLAG_ACK = 0x10;
export const FLAG_URG = 0x20;

export const OPT_END = 0;
export const OPT_NOP = 1;
export const OPT_MSS = 2;
export const OPT_WINDOW_SCALE = 3;
export const OPT_SACK_PERMITTED = 4;
export const OPT_SACK = 5;
export const OPT_TIMESTAMPS = 8;

/** SACK blocks that fit 40 bytes of options. */
export const SACK_BLOCKS_MAX = 4;

/** One received segment. `wrap` is the gate; options are valid after it too. */
export class SegmentView {
  buf: Uint8Array = new Uint8Array(0);
  off = 0;
  srcPort = 0;
  dstPort = 0;
  segSeq = 0;
  segAck = 0;
  flags = 0;
  /** As on the wire, not scaled. */
  segWnd = 0;
  payloadOff = 0;
  payloadLen = 0;
  /** -1 when absent. MSS, window scale and SACK-permitted are read from SYNs only (RFC 9293 MUST-65). */
  mss = -1;
  wndShift = -1;
  sackPermitted = false;
  hasTs = false;
  tsVal = 0;
  tsEcr = 0;
  sackCount = 0;
  /** Left and right edges, alternating. */
  readonly sack: Int32Array = new Int32Array(2 * SACK_BLOCKS_MAX);

  /** @param end offset behind the IP payload. @returns Drop.None, or why the segment is not one. */
  wrap(buf: Uint8Array, off: number, end: number): Drop {
    if (end - off < TCP_HEADER) return Drop.TcpMalformed;
    const dataOff = (buf[off + 12]! >>> 4) * 4;
    if (dataOff < TCP_HEADER || off + dataOff > end) return Drop.TcpMalformed;
    this.buf = buf;
    this.off = off;
    this.srcPort = getU16(buf, off);
    this.dstPort = getU16(buf, off + 2);
    this.segSeq = getI32(buf, off + 4);
    this.segAck = getI32(buf, off + 8);
    // Deviation: no ECN (RFC 9293 SHLD-8): nothing on this link marks packets, so its bits are not looked at (TCP-OPT-17).
    this.flags = buf[off + 13]! & 0x3f;
    this.segWnd = getU16(buf, off + 14);
    this.payloadOff = off + dataOff;
    this.payloadLen = end - off - dataOff;
    this.mss = -1;
    this.wndShift = -1;
    this.sackPermitted = false;
    this.hasTs = false;
    this.tsVal = 0;
    this.tsEcr = 0;
    this.sackCount = 0;
    if (dataOff > TCP_HEADER) {
      // The form nearly every segment of a flow has: NOP NOP Timestamps.
      if (dataOff === 32 && getI32(buf, off + 20) === 0x0101080a) {
        this.hasTs = true;
        this.tsVal = getI32(buf, off + 24);
        this.tsEcr = getI32(buf, off + 28);
      } else this.#parseOptions(off + TCP_HEADER, off + dataOff);
    }
    return Drop.None;
  }

  /** SEG.LEN: payload plus one each for SYN and FIN. */
  get segLen(): number {
    return this.payloadLen + (this.flags & FLAG_SYN ? 1 : 0) + (this.flags & FLAG_FIN ? 1 : 0);
  }

  #parseOptions(at: number, end: number): void {
    const buf = this.buf;
    const syn = (this.flags & FLAG_SYN) !== 0;
    while (at < end) {
      const kind = buf[at]!;
      if (kind === OPT_END) return;
      if (kind === OPT_NOP) {
        at++;
        continue;
      }
      if (at + 1 >= end) return;
      const len = buf[at + 1]!;
      if (len < 2 || at + len > end) return;
      // Of repeated options the last one counts.
      if (kind === OPT_TIMESTAMPS && len === 10) {
        this.hasTs = true;
        this.tsVal = getI32(buf, at + 2);
        this.tsEcr = getI32(buf, at + 6);
      } else if (kind === OPT_SACK && len >= 10 && (len - 2) % 8 === 0) {
        this.sackCount = Math.min((len - 2) >>> 3, SACK_BLOCKS_MAX);
        for (let i = 0; i < 2 * this.sackCount; i++) this.sack[i] = getI32(buf, at + 2 + 4 * i);
      } else if (syn && kind === OPT_MSS && len === 4) this.mss = getU16(buf, at + 2);
      else if (syn && kind === OPT_WINDOW_SCALE && len === 3) this.wndShift = buf[at + 2]!;
      else if (syn && kind === OPT_SACK_PERMITTED && len === 2) this.sackPermitted = true;
      at += len;
    }
  }
}

/** Writes a TCP header without options; checksum 0, urgent pointer 0. @param headerLen with options, a multiple of 4. */
export function emitTcpHeader(
  buf: Uint8Array,
  off: number,
  srcPort: number,
  dstPort: number,
  seq: number,
  ack: number,
  headerLen: number,
  flags: number,
  wnd: number,
): void {
  setU16(buf, off, srcPort);
  setU16(buf, off + 2, dstPort);
  setU32(buf, off + 4, seq);
  setU32(buf, off + 8, ack);
  buf[off + 12] = headerLen << 2;
  buf[off + 13] = flags;
  setU16(buf, off + 14, wnd);
  setU32(buf, off + 16, 0);
}

/** Writes NOP NOP Timestamps: 12 bytes. */
export function emitTimestamps(buf: Uint8Array, off: number, tsVal: number, tsEcr: number): void {
  setU32(buf, off, 0x0101080a);
  setU32(buf, off + 4, tsVal);
  setU32(buf, off + 8, tsEcr);
}
