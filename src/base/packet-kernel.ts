// The packet kernel's border, and its plain twin: what is done to every byte of payload, in as few passes as can be, in place in the
// one packet memory. The shell makes the WebAssembly one (kernel/packet.as.ts) over the same memory, and tests hold both to the same
// bytes; where an engine has no SIMD, `PlainKernel` serves. It knows where fields lie, and nothing of connections.

import { copyBytes, getI32, getU16, setU16, setU32 } from './bytes.ts';
import { Checksummer, fold, sumBytes } from './checksum.ts';

/** Ethernet, IPv4 without options and TCP without options. */
const PLAIN_HEADERS = 54;
/** The first word of NOP NOP Timestamps. */
const NOP_NOP_TIMESTAMPS = 0x0101080a;

/** Offsets count in the packet memory. Partial sums are of big-endian words, folded to 16 bits (RFC 1071). */
export interface PacketKernel {
  /** Partial sum of [off, off + len), at most 512 KiB. */
  sum(off: number, len: number): number;
  /** The same while it copies the bytes to `dst`, which does not overlap them. */
  copySum(dst: number, off: number, len: number): number;
  /**
   * Makes `count` frames of TCP segments of `mss` bytes each, back to back `stride` apart. The first frame's headers are there, of
   * `headerLen` bytes with the TCP header at `tcpAt`; the others get the same with their own sequence number. Payload comes from a
   * ring at [ring, ring + ringCap), from `ringAt` on; `mss` is at least 16. Each gets its TCP checksum.
   * @param partial sum of the pseudo-header and of the TCP header with sequence number and checksum zero.
   * @param lastFlags TCP flags of the last frame.
   */
  segmentize(
    frame: number,
    stride: number,
    count: number,
    headerLen: number,
    tcpAt: number,
    mss: number,
    ring: number,
    ringCap: number,
    ringAt: number,
    partial: number,
    lastFlags: number,
  ): void;
  /**
   * Takes in frames that do nothing but carry on: TCP over IPv4 with the addresses, ports, acknowledgement, window and options' form of
   * the frame at `model`, each in sequence from `seq` on, whole, sound in both checksums, ACK and perhaps PSH set and no other flag, a
   * timestamp (where `headerLen` has room for it) not older than `tsRecent`. Their payload is copied to `dst`, up to `room` bytes; bytes
   * there behind what is taken may be written, too. It stops before the first frame that is anything else.
   * @param prefix bytes of the length before each frame: 4 big-endian, 2 little-endian.
   * @param headerLen of the model: 54, or 66 with timestamps.
   * @returns how many frames were taken. If any, the first 16 bytes at `at` are overwritten with four big-endian words: bytes of input
   *   used, of payload, of the longest frame, of the last payload.
   */
  receiveRun(
    at: number,
    end: number,
    prefix: number,
    model: number,
    headerLen: number,
    seq: number,
    tsRecent: number,
    dst: number,
    room: number,
    maxFrames: number,
  ): number;
  /**
   * Passes over acknowledgements that the next one makes needless: frames without data of the flow of the frame at `model`, of
   * `headerLen` bytes each, at `seq`, sound in both checksums, ACK and no other flag set, each acknowledging more than the one before it
   * and more than `ack`, none more than `sndNxt`, a timestamp not older than `tsRecent`. The last of them is left.
   * @returns bytes passed over, lengths included.
   */
  skipAcks(
    at: number,
    end: number,
    prefix: number,
    model: number,
    headerLen: number,
    seq: number,
    ack: number,
    sndNxt: number,
    tsRecent: number,
  ): number;
}

/** The kernel in TypeScript. */
export class PlainKernel implements PacketKernel {
  readonly #mem: Uint8Array;
  readonly #summer: Checksummer;

  /** @param mem starts at a 4-byte boundary of its buffer. */
  constructor(mem: Uint8Array) {
    this.#mem = mem;
    this.#summer = new Checksummer(mem);
  }

  sum(off: number, len: number): number {
    return fold(this.#summer.sum(off, len));
  }

  copySum(dst: number, off: number, len: number): number {
    this.#mem.copyWithin(dst, off, off + len);
    return this.sum(dst, len);
  }

  segmentize(
    frame: number,
    stride: number,
    count: number,
    headerLen: number,
    tcpAt: number,
    mss: number,
    ring: number,
    ringCap: number,
    ringAt: number,
    partial: number,
    lastFlags: number,
  ): void {
    const mem = this.#mem;
    const first = getI32(mem, frame + tcpAt + 4);
    const flags = mem[frame + tcpAt + 13]!;
    let at = frame;
    for (let i = 0; i < count; i++) {
      if (i > 0) mem.copyWithin(at, frame, frame + headerLen);
      const tcp = at + tcpAt;
      let sum = partial;
      if (i === count - 1) {
        mem[tcp + 13] = lastFlags;
        sum += lastFlags + (~flags & 0xffff);
      }
      const seq = (first + i * mss) | 0;
      setU32(mem, tcp + 4, seq);
      sum += (seq >>> 16) + (seq & 0xffff);
      const piece = Math.min(mss, ringCap - ringAt);
      copyBytes(mem, ring + ringAt, mem, at + headerLen, piece);
      if (piece < mss) copyBytes(mem, ring, mem, at + headerLen + piece, mss - piece);
      sum += this.#summer.sum(at + headerLen, mss);
      setU16(mem, tcp + 16, ~fold(sum) & 0xffff);
      ringAt = (ringAt + mss) % ringCap;
      at += stride;
    }
  }

  receiveRun(
    at: number,
    end: number,
    prefix: number,
    model: number,
    headerLen: number,
    seq: number,
    tsRecent: number,
    dst: number,
    room: number,
    maxFrames: number,
  ): number {
    const mem = this.#mem;
    const start = at;
    const to = dst;
    let frames = 0;
    let longest = 0;
    let last = 0;
    while (frames < maxFrames && end - at >= prefix) {
      const len = prefix === 4 ? getI32(mem, at) >>> 0 : mem[at]! | (mem[at + 1]! << 8);
      const f = at + prefix;
      const payload = len - headerLen;
      if (payload <= 0 || len > 0xffff || len > end - f || payload > room) break;
      if (!this.#carriesOn(model, f, len, seq, tsRecent, headerLen)) break;
      copyBytes(mem, f + headerLen, mem, dst, payload);
      const tcpLen = len - 34;
      const pseudo = sumBytes(mem, f + 26, 8) + 6 + tcpLen;
      if (fold(pseudo + this.#summer.sum(f + 34, tcpLen)) !== 0xffff) break;
      frames++;
      seq = (seq + payload) | 0;
      dst += payload;
      room -= payload;
      at = f + len;
      last = payload;
      longest = Math.max(longest, len);
    }
    if (frames > 0) {
      setU32(mem, start, at - start);
      setU32(mem, start + 4, dst - to);
      setU32(mem, start + 8, longest);
      setU32(mem, start + 12, last);
    }
    return frames;
  }

  skipAcks(
    at: number,
    end: number,
    prefix: number,
    model: number,
    headerLen: number,
    seq: number,
    ack: number,
    sndNxt: number,
    tsRecent: number,
  ): number {
    const mem = this.#mem;
    const start = at;
    let last = at;
    while (end - at >= prefix + headerLen) {
      const len = prefix === 4 ? getI32(mem, at) >>> 0 : mem[at]! | (mem[at + 1]! << 8);
      const f = at + prefix;
      if (len !== headerLen || !this.#sameFlow(model, f, len, seq, tsRecent, headerLen) || mem[f + 47] !== 0x10) break;
      const next = getI32(mem, f + 42);
      if (((next - ack) | 0) <= 0 || ((next - sndNxt) | 0) > 0) break;
      const tcpLen = len - 34;
      if (fold(sumBytes(mem, f + 26, 8) + 6 + tcpLen + sumBytes(mem, f + 34, tcpLen)) !== 0xffff) break;
      ack = next;
      last = at;
      at = f + len;
    }
    return last - start;
  }

  /** The model's acknowledgement and window, too. */
  #carriesOn(model: number, f: number, len: number, seq: number, tsRecent: number, headerLen: number): boolean {
    const mem = this.#mem;
    for (let i = 42; i < 50; i++) if (i !== 46 && i !== 47 && mem[model + i] !== mem[f + i]) return false;
    return this.#sameFlow(model, f, len, seq, tsRecent, headerLen) && (mem[f + 47]! & 0xf7) === 0x10;
  }

  /** All that must not differ within a flow, the IPv4 checksum, the place in the sequence, and the timestamp. */
  #sameFlow(model: number, f: number, len: number, seq: number, tsRecent: number, headerLen: number): boolean {
    const mem = this.#mem;
    // Ethernet, version and TOS; addresses and ports; data offset.
    for (let i = 0; i < 16; i++) if (mem[model + i] !== mem[f + i]) return false;
    for (let i = 26; i < 38; i++) if (mem[model + i] !== mem[f + i]) return false;
    if (mem[model + 46] !== mem[f + 46]) return false;
    if (getU16(mem, f + 16) !== len - 14 || getU16(mem, f + 20) & 0x3fff || mem[f + 23] !== 6) return false;
    if (fold(sumBytes(mem, f + 14, 20)) !== 0xffff || getI32(mem, f + 38) !== (seq | 0)) return false;
    if (headerLen === PLAIN_HEADERS) return true;
    return getI32(mem, f + 54) === NOP_NOP_TIMESTAMPS && ((getI32(mem, f + 58) - tsRecent) | 0) >= 0;
  }
}
