// The send side's memory: a ring of bytes from SND.UNA on, made when the host has something to say, grown up to its limit,
// given back when everything is acknowledged. Bytes stay until cumulatively acknowledged (RFC 2018 8: SACK may be reneged).

import { Ring } from '../base/ring.ts';
import { SLAB_MIN_BLOCK, Slab } from '../base/slab.ts';
import type { TcpLimits } from './limits.ts';

/** Bytes from the host, until the guest has acknowledged them. */
export class SendBuffer {
  readonly ring: Ring;
  /** The host's socket may be writing at the tail: the ring must not move. */
  #lent = false;
  #closed = false;
  /** Half of the last ring: a flow that was busy starts there instead of growing by copies, and one that has become quiet shrinks. */
  #hint = 0;
  readonly #slab: Slab;
  readonly #max: number;

  constructor(slab: Slab, limits: TcpLimits) {
    this.#slab = slab;
    this.ring = new Ring(slab.mem);
    this.#max = limits.sndBufMax;
  }

  get used(): number {
    return this.ring.used;
  }

  /** What the ring may grow to now. */
  get limit(): number {
    return Math.max(this.ring.cap, Math.min(this.#slab.growthLimit, this.#max));
  }

  /** Bytes that may still be taken in, memory permitting. */
  get free(): number {
    return this.limit - this.ring.used;
  }

  get lent(): boolean {
    return this.#lent;
  }

  /** Lends the free piece at the tail; grows the ring first if it is shorter than `want`. @returns its length. */
  room(want: number): number {
    if (this.#lent) return 0;
    if (this.ring.tailRoom < want) this.#grow(Math.min(this.ring.used + want, this.#max));
    const room = this.ring.tailRoom;
    if (room > 0) this.#lent = true;
    return room;
  }

  /** Takes over what was written into lent bytes; ends the loan. */
  commit(len: number): void {
    this.#lent = false;
    this.ring.commit(this.#closed ? 0 : len);
    if (this.ring.used === 0) this.#release();
  }

  /** Copies in what fits. @returns bytes taken. */
  write(buf: Uint8Array, off: number, len: number): number {
    if (this.ring.free < len) this.#grow(Math.min(this.ring.used + len, this.#max));
    const n = Math.min(len, this.ring.free);
    if (n > 0) {
      // Copy: from the host's read buffer; the one copy of small messages besides the one into the frame.
      this.ring.writeAt(this.ring.used, buf, off, n);
      this.ring.commit(n);
    }
    return n;
  }

  /** The guest acknowledged `len` bytes. */
  ack(len: number): void {
    this.ring.consume(len);
    if (this.ring.used === 0 && !this.#lent) this.#release();
  }

  /** Gives the block back, unless it is lent: then the end of the loan does. */
  close(): void {
    this.ring.used = 0;
    this.#closed = true;
    if (!this.#lent) this.#release();
  }

  #release(): void {
    this.#hint = this.ring.cap >>> 1;
    if (this.ring.off >= 0) this.#slab.free(this.ring.off);
    this.ring.detach();
  }

  #grow(want: number): void {
    const limit = Math.min(this.#slab.growthLimit, this.#max);
    const need = Math.min(want, limit);
    if (this.#lent || need <= this.ring.cap) return;
    const size = Slab.blockSize(
      Math.max(need, Math.min(Math.max(this.ring.cap * 2, this.#hint), limit), SLAB_MIN_BLOCK),
    );
    let off = this.#slab.alloc(size);
    let got = size;
    if (off < 0 && Slab.blockSize(need) < size) {
      got = Slab.blockSize(need);
      off = this.#slab.alloc(got);
    }
    if (off < 0) return;
    const old = this.ring.off;
    this.ring.moveTo(off, got, this.ring.used);
    if (old >= 0) this.#slab.free(old);
  }
}
