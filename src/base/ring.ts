// A byte ring over a block of packet memory. It owns positions, not memory: whoever made it allocates, moves and frees the block.
//
//      off                     off+cap
//       |....#################...|        # = held: [head, head+used), wrapping at cap (a power of two)

import { copyBytes } from './bytes.ts';

/** A ring buffer of bytes inside `mem`; capacity 0 while it has no block. */
export class Ring {
  readonly mem: Uint8Array;
  /** Offset of the block in `mem`, -1 while there is none. */
  off = -1;
  /** Bytes in the block: a power of two, or 0. */
  cap = 0;
  /** Index of the oldest byte, in [0, cap). */
  head = 0;
  /** Bytes held. */
  used = 0;

  constructor(mem: Uint8Array) {
    this.mem = mem;
  }

  get free(): number {
    return this.cap - this.used;
  }

  /** Memory offset of the byte `at` places after the oldest one. */
  offsetOf(at: number): number {
    return this.off + ((this.head + at) & (this.cap - 1));
  }

  /** How many bytes from position `at` on lie in one piece, up to `len`. */
  contiguous(at: number, len: number): number {
    return Math.min(len, this.cap - ((this.head + at) & (this.cap - 1)));
  }

  /** Offset of the first free byte; the free piece from there is `tailRoom` long. */
  get tailOffset(): number {
    return this.offsetOf(this.used);
  }

  /** Length of the free piece at the tail that lies in one piece. */
  get tailRoom(): number {
    return this.cap === 0 ? 0 : this.contiguous(this.used, this.cap - this.used);
  }

  /** Takes over bytes written at the tail. */
  commit(len: number): void {
    this.used += len;
  }

  /** Copies bytes in at position `at` after the oldest byte; the caller has checked that they fit. Does not change `used`. */
  writeAt(at: number, src: Uint8Array, srcOff: number, len: number): void {
    const first = this.contiguous(at, len);
    copyBytes(src, srcOff, this.mem, this.offsetOf(at), first);
    if (first < len) copyBytes(src, srcOff + first, this.mem, this.off, len - first);
  }

  /** Copies [at, at+len) out to `dst`. */
  readAt(at: number, dst: Uint8Array, dstOff: number, len: number): void {
    const first = this.contiguous(at, len);
    copyBytes(this.mem, this.offsetOf(at), dst, dstOff, first);
    if (first < len) copyBytes(this.mem, this.off, dst, dstOff + first, len - first);
  }

  /** Forgets the oldest `len` bytes. */
  consume(len: number): void {
    this.used -= len;
    this.head = (this.head + len) & (this.cap - 1);
  }

  /** Moves the ring's first `extent` bytes (held, and for a receive ring those kept beyond a hole) to another block. */
  moveTo(off: number, cap: number, extent: number): void {
    if (extent > 0) this.readAt(0, this.mem, off, extent);
    this.off = off;
    this.cap = cap;
    this.head = 0;
  }

  /** Lets go of the block; the caller has freed it. */
  detach(): void {
    this.off = -1;
    this.cap = 0;
    this.head = 0;
    this.used = 0;
  }
}
