// The receive side's memory and window: a ring for bytes in order (and, beyond a hole, for bytes out of order at their
// place), growing with use up to its limit and given back when empty. RFC 9293 3.8.6.2.2 (silly windows), RFC 7323 2.4.
// It knows sequence numbers only as distances from RCV.NXT.

import { Ring } from '../base/ring.ts';
import { Slab } from '../base/slab.ts';
import type { TcpLimits } from './limits.ts';
import type { WindowBudget } from './window-budget.ts';

/**
 * Kept free of promises: a right edge that may not move left is rounded up to the window's scale with each acknowledgement, so
 * that while the host takes nothing it creeps on by up to 63 bytes each.
 */
const ROUNDING_SLACK = 128 * 1024;

/** Bytes from the guest, until the host has taken them. */
export class ReceiveBuffer {
  readonly ring: Ring;
  /** What the window is computed from: grows while the flow fills it. */
  target: number;
  /** Bytes that arrived since the host last emptied the ring: the growth rule's measure. */
  #sinceEmpty = 0;
  /** Reach of what is stored out of order, from RCV.NXT. */
  beyond = 0;
  #pinned = false;
  /** What the last filling reached: the next one's ring starts at that size instead of growing there by copies. */
  #hint = 0;
  /** A block the host still reads from after the ring has moved on. */
  #retired = -1;
  readonly #slab: Slab;
  readonly #budget: WindowBudget;
  readonly #initial: number;
  readonly #max: number;

  constructor(slab: Slab, limits: TcpLimits, budget: WindowBudget) {
    this.#slab = slab;
    this.#budget = budget;
    this.ring = new Ring(slab.mem);
    this.#initial = limits.rcvBufInitial;
    this.target = limits.rcvBufInitial;
    this.#max = limits.rcvBufMax;
  }

  /** Raises the target to `bytes`, if all flows together may promise that much. */
  raise(bytes: number): void {
    const to = Math.min(bytes, this.#max - ROUNDING_SLACK);
    const before = this.target;
    const more = to - Math.max(before, this.#initial);
    if (more <= 0 || !this.#budget.take(more)) return;
    // Where the budget was short, idle flows gave theirs back, and this one may have been among them.
    if (this.target === before) this.target = to;
    else this.#budget.release(more);
  }

  /** An idle flow's target goes back to where it began; what the guest was shown stays true, but is not renewed. */
  lower(): void {
    const over = this.target - this.#initial;
    if (over <= 0) return;
    this.#budget.release(over);
    this.target = this.#initial;
  }

  /** Bytes that may still be promised beyond what is held. */
  get free(): number {
    return Math.max(0, this.target - this.ring.used);
  }

  /**
   * Stores a payload `at` bytes beyond RCV.NXT.
   * @returns false when there is no memory, or it lies beyond what the ring may ever hold: it must then not be acknowledged.
   */
  store(at: number, buf: Uint8Array, off: number, len: number): boolean {
    const need = this.ring.used + at + len;
    if (need > this.#max || (need > this.ring.cap && !this.#grow(need))) return false;
    this.ring.writeAt(this.ring.used + at, buf, off, len);
    if (at + len > this.beyond) this.beyond = at + len;
    return true;
  }

  /**
   * Free bytes in one piece at the tail, for bytes in order; grows the ring where that is less than `want`, by how much memory there is.
   * At most `want`.
   */
  runRoom(want: number): number {
    const { ring } = this;
    want = Math.min(want, this.#slab.growthLimit);
    const need = Math.min(ring.used + want, this.#max);
    if (need > ring.cap) this.#grow(need);
    return Math.min(ring.tailRoom, want);
  }

  /** Nothing beyond `at` bytes from RCV.NXT is kept any more. */
  truncate(at: number): void {
    this.beyond = Math.min(this.beyond, at);
  }

  /** `len` stored bytes are in order now: they can be read. */
  advance(len: number): void {
    this.ring.commit(len);
    this.beyond = Math.max(0, this.beyond - len);
    this.#sinceEmpty += len;
  }

  pin(): void {
    this.#pinned = true;
  }

  /** The host took `len` bytes. Doubles the target when a whole window's worth went through without a pause. */
  consume(len: number): void {
    this.#pinned = false;
    if (this.#retired >= 0) {
      this.#slab.free(this.#retired);
      this.#retired = -1;
    }
    this.ring.consume(len);
    if (this.ring.used > 0) return;
    if (this.#sinceEmpty * 2 >= this.target && this.target < this.#max - ROUNDING_SLACK) this.raise(this.target * 2);
    this.#hint = Math.min(this.#sinceEmpty, this.target);
    this.#sinceEmpty = 0;
    if (this.beyond === 0) this.#release();
  }

  /** Gives everything back. A block that the host still reads from must not be reused: `close` waits for `consume`. */
  close(): void {
    this.lower();
    if (this.#pinned) return;
    if (this.#retired >= 0) this.#slab.free(this.#retired);
    this.#retired = -1;
    this.#release();
  }

  get pinned(): boolean {
    return this.#pinned;
  }

  #release(): void {
    if (this.ring.off >= 0) this.#slab.free(this.ring.off);
    this.ring.detach();
  }

  #grow(need: number): boolean {
    let size = Slab.blockSize(Math.max(need, Math.min(this.#hint, this.#slab.growthLimit)));
    let off = this.#slab.alloc(size);
    if (off < 0 && size > need) {
      size = Slab.blockSize(need);
      off = this.#slab.alloc(size);
    }
    if (off < 0) return false;
    const old = this.ring.off;
    this.ring.moveTo(off, size, this.ring.used + this.beyond);
    if (old >= 0) {
      // While the host reads from the block it was given, that block stays; one retired before it is a mere copy.
      if (this.#pinned && this.#retired < 0) this.#retired = old;
      else this.#slab.free(old);
    }
    return true;
  }
}
