// The buddy allocator over the one packet memory: blocks of 2^n bytes, lowest address first, so that pages that were
// touched are touched again before new ones (a WebAssembly memory never gives pages back).
// It owns which block is whose; it neither zeroes nor reads bytes.
//
// A complete binary tree in an array: node i covers a range, `longest[i]` = log2 of the largest free block below it, +1; 0 = none.

import { invariant } from './invariant.ts';

/** Smallest block: a page. */
export const SLAB_MIN_BLOCK = 4096;
const MIN_SHIFT = 12;

/** Power-of-two blocks of one fixed byte range. */
export class Slab {
  /** All of the memory; offsets everywhere in the core index this array. */
  readonly mem: Uint8Array;
  /** Size of the managed range, a power of two. */
  readonly size: number;
  /** Bytes in blocks that are held now. */
  usedBytes = 0;
  /** The largest `usedBytes` ever seen. */
  peakBytes = 0;
  /** Requests refused because no block was free. */
  refused = 0;
  readonly #longest: Uint8Array;
  readonly #order: Uint8Array;
  readonly #leaves: number;
  readonly #levels: number;

  /** @param mem its length is a power of two of at least 4 KiB and starts at a 4-byte boundary of its buffer. */
  constructor(mem: Uint8Array) {
    const pages = mem.length / SLAB_MIN_BLOCK;
    invariant(Number.isInteger(pages) && pages > 0 && (pages & (pages - 1)) === 0, 'slab size is a power of two');
    this.mem = mem;
    this.size = mem.length;
    this.#leaves = pages;
    this.#levels = Math.log2(pages);
    this.#longest = new Uint8Array(pages * 2);
    this.#order = new Uint8Array(pages);
    for (let level = 0, i = 1; level <= this.#levels; level++) {
      for (let n = 1 << level; n > 0; n--, i++) this.#longest[i] = this.#levels - level + 1;
    }
  }

  /** Bytes that a request of `len` really takes. */
  static blockSize(len: number): number {
    return len <= SLAB_MIN_BLOCK ? SLAB_MIN_BLOCK : 1 << (32 - Math.clz32(len - 1));
  }

  /** Offset of a free block of at least `len` bytes (rounded up to a power of two), or -1. */
  alloc(len: number): number {
    const order = len <= SLAB_MIN_BLOCK ? 0 : 32 - Math.clz32((len - 1) >>> MIN_SHIFT);
    const longest = this.#longest;
    if (longest[1]! < order + 1) {
      this.refused++;
      return -1;
    }
    let node = 1;
    for (let level = this.#levels; level > order; level--) {
      node *= 2;
      if (longest[node]! < order + 1) node++;
    }
    longest[node] = 0;
    const page = (node << order) - this.#leaves;
    this.#order[page] = order + 1;
    this.usedBytes += SLAB_MIN_BLOCK << order;
    if (this.usedBytes > this.peakBytes) this.peakBytes = this.usedBytes;
    while (node > 1) {
      node >>= 1;
      longest[node] = Math.max(longest[2 * node]!, longest[2 * node + 1]!);
    }
    return page * SLAB_MIN_BLOCK;
  }

  /** Gives a block back. @throws InvariantError for an offset that is not a held block. */
  free(off: number): void {
    const page = off / SLAB_MIN_BLOCK;
    const order = (this.#order[page] ?? 0) - 1;
    invariant(order >= 0, 'freed block is held');
    this.#order[page] = 0;
    this.usedBytes -= SLAB_MIN_BLOCK << order;
    const longest = this.#longest;
    let node = (this.#leaves + page) >> order;
    let full = order + 1;
    longest[node] = full;
    while (node > 1) {
      node >>= 1;
      const a = longest[2 * node]!;
      const b = longest[2 * node + 1]!;
      longest[node] = a === full && b === full ? full + 1 : Math.max(a, b);
      full++;
    }
  }

  /**
   * Largest ring that a flow should grow to now: the fuller the memory, the smaller. The last quarter is for those who cannot
   * wait: frames on their way out, and bytes that a window has promised to take.
   */
  get growthLimit(): number {
    const used = this.usedBytes / this.size;
    if (used < 0.5) return this.size;
    if (used < 0.65) return 256 * 1024;
    return used < 0.75 ? 64 * 1024 : 16 * 1024;
  }
}
