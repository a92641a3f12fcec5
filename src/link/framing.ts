// Frames on a byte stream: a length, then that many bytes of Ethernet (no FCS). QEMU: 4 bytes big endian; VPNKit: 2 bytes
// little endian. Bytes only: no socket, no time, no allocation per frame.
//
//   block  [ whole frames, parsed in place | head of a frame | room for the next read ]
//           off                             start            end                       off + size
//
// After each read every whole frame is handed on where it lies; the head of a frame that is not whole yet moves to the front
// of the block, so that the next read always gets one large piece. A head moves once at most: it then starts the block.

import type { LinkCounters } from './link-counters.ts';

/** Which length prefix a link uses. */
export type FrameFormat = 'qemu' | 'vpnkit';

/** The largest IP packet and an Ethernet header with a VLAN tag: guests that leak segmentation offload reach it, whatever the MTU. */
export const MAX_FRAME_BYTES: number = 65_535 + 18;
/** Ethernet header and VLAN tag, on top of the MTU. */
export const ETHERNET_OVERHEAD_BYTES = 18;

/** Bytes of the length in front of each frame. */
export function prefixBytes(format: FrameFormat): 2 | 4 {
  return format === 'qemu' ? 4 : 2;
}

/** The largest frame sent on a link: its MTU with Ethernet and VLAN header, as far as the prefix can tell it. */
export function maxTxFrameBytes(format: FrameFormat, mtu: number): number {
  const len = mtu + ETHERNET_OVERHEAD_BYTES;
  return format === 'vpnkit' ? Math.min(len, 0xffff) : len;
}

/** Writes the length prefix of a frame of `len` bytes at `off`. */
export function writePrefix(format: FrameFormat, buf: Uint8Array, off: number, len: number): void {
  if (format === 'qemu') {
    buf[off] = len >>> 24;
    buf[off + 1] = len >>> 16;
    buf[off + 2] = len >>> 8;
    buf[off + 3] = len;
  } else {
    buf[off] = len;
    buf[off + 1] = len >>> 8;
  }
}

/**
 * Bytes of the read block of a link. A frame of the largest size fits beside a useful read even at a small MTU
 * (offload leaks do not look at it); a link with large frames takes the kernel's whole send buffer (219,264 bytes) in one call.
 */
export function readBlockBytes(mtu: number): number {
  return mtu > 9000 ? 256 * 1024 : 128 * 1024;
}

/** Finds frames in one fixed block of memory. */
export class FrameReader {
  readonly #mem: Uint8Array;
  readonly #off: number;
  readonly #size: number;
  readonly #qemu: boolean;
  readonly #prefix: number;
  readonly #max: number;
  readonly #onFrame: (off: number, len: number) => void;
  readonly #onRun: ((frame: number, at: number, end: number) => number) | undefined;
  readonly #counters: LinkCounters;
  #start: number;
  #end: number;
  #stopped = false;

  /** The length that ended this link, 0 if none did. */
  overlongBytes = 0;

  /**
   * @param mem the packet memory; the block is [off, off + size) of it and larger than one frame with its prefix.
   * @param onFrame called for every whole frame with its place in `mem`, valid until it returns.
   * @param onRun called after each frame behind which there is more: may use what lies at [at, end), whole frames with their lengths,
   *   and counts them itself. @returns bytes used.
   * @param max the longest frame that is read; anything longer ends the link.
   */
  constructor(
    format: FrameFormat,
    mem: Uint8Array,
    off: number,
    size: number,
    counters: LinkCounters,
    onFrame: (off: number, len: number) => void,
    onRun?: (frame: number, at: number, end: number) => number,
    max: number = MAX_FRAME_BYTES,
  ) {
    this.#mem = mem;
    this.#off = off;
    this.#size = size;
    this.#qemu = format === 'qemu';
    this.#prefix = prefixBytes(format);
    this.#max = max;
    this.#onFrame = onFrame;
    this.#onRun = onRun;
    this.#counters = counters;
    this.#start = off;
    this.#end = off;
  }

  /** Where the next read goes. */
  get roomOffset(): number {
    return this.#end;
  }

  /** Bytes that the next read may bring; never less than the block without one largest frame. */
  get room(): number {
    return this.#off + this.#size - this.#end;
  }

  /** Where bytes not yet used lie, for a handshake that comes before the first frame. */
  get heldOffset(): number {
    return this.#start;
  }

  get held(): number {
    return this.#end - this.#start;
  }

  /** `n` bytes have arrived at `roomOffset`. */
  received(n: number): void {
    this.#end += n;
  }

  /** The first `n` held bytes were used by somebody else. */
  skip(n: number): void {
    this.#start += n;
  }

  /** No further frame is handed on, also not from the loop that runs now. */
  stop(): void {
    this.#stopped = true;
  }

  /**
   * Hands on every whole frame, then makes room.
   * @returns false if a length is beyond every frame (`overlongBytes`): the stream cannot be followed any more.
   */
  parse(): boolean {
    const mem = this.#mem;
    const prefix = this.#prefix;
    let at = this.#start;
    while (!this.#stopped) {
      if (this.#end - at < prefix) break;
      // Bounds are checked above; `?? 0` never applies.
      const b0 = mem[at] ?? 0;
      const b1 = mem[at + 1] ?? 0;
      const len = this.#qemu
        ? ((b0 << 24) | (b1 << 16) | ((mem[at + 2] ?? 0) << 8) | (mem[at + 3] ?? 0)) >>> 0
        : b0 | (b1 << 8);
      if (len > this.#max) {
        this.overlongBytes = len;
        this.#counters.rxOverlong++;
        this.#stopped = true;
        return false;
      }
      if (this.#end - at < prefix + len) break;
      const frame = at + prefix;
      at = frame + len;
      this.#start = at;
      if (len === 0) {
        this.#counters.rxZeroLength++;
        continue;
      }
      this.#counters.rxFrames++;
      this.#counters.rxBytes += len;
      this.#onFrame(frame, len);
      if (this.#onRun === undefined || this.#end - at <= prefix || this.#stopped) continue;
      at += this.#onRun(frame, at, this.#end);
      this.#start = at;
    }
    this.compact();
    return true;
  }

  /** Moves what is held to the front of the block. */
  compact(): void {
    const start = this.#start;
    if (start === this.#off) return;
    const held = this.#end - start;
    // Copy: the head of a frame goes to the front, so that the next read is one large piece (at most once for each frame).
    if (held > 0) this.#mem.copyWithin(this.#off, start, this.#end);
    this.#start = this.#off;
    this.#end = this.#off + held;
  }
}
