// Which ranges beyond RCV.NXT have arrived (RFC 9293 3.10.7.4, RFC 2018). It owns ranges, not bytes: those lie in the
// receive ring at their place. Sorted, disjoint, capped: work per segment is a binary search and a short move.

import { type Seq, seqGeq, seqGt, seqLeq, seqLt } from './seq.ts';

/** Out-of-order ranges [left, right) of one flow; made only when the first hole appears. */
export class Assembler {
  /** Pairs of edges, ascending. */
  readonly edges: Int32Array;
  count = 0;
  /** Left edge of the range that grew last: SACK names it first (RFC 2018 4). */
  recent: Seq = 0;
  readonly #max: number;

  constructor(maxRanges: number) {
    this.#max = maxRanges;
    this.edges = new Int32Array(2 * maxRanges);
  }

  /** Takes [left, right) in, merging. @returns false when the table is full: the segment must be dropped. */
  add(left: Seq, right: Seq): boolean {
    const e = this.edges;
    // First range whose right edge is not left of `left`: the only candidates for a merge start there.
    let lo = 0;
    let hi = this.count;
    while (lo < hi) {
      const mid = (lo + hi) >>> 1;
      if (seqLt(e[2 * mid + 1]!, left)) lo = mid + 1;
      else hi = mid;
    }
    let end = lo;
    let newLeft = left;
    let newRight = right;
    while (end < this.count && seqLeq(e[2 * end]!, right)) {
      if (seqLt(e[2 * end]!, newLeft)) newLeft = e[2 * end]!;
      if (seqGt(e[2 * end + 1]!, newRight)) newRight = e[2 * end + 1]!;
      end++;
    }
    const merged = end - lo;
    if (merged === 0 && this.count === this.#max) return false;
    if (merged !== 1) {
      e.copyWithin(2 * (lo + 1), 2 * end, 2 * this.count);
      this.count += 1 - merged;
    }
    e[2 * lo] = newLeft;
    e[2 * lo + 1] = newRight;
    this.recent = newLeft;
    return true;
  }

  /** Bytes that have become contiguous with `rcvNxt`; that range is forgotten. */
  advance(rcvNxt: Seq): number {
    const e = this.edges;
    let got = 0;
    let drop = 0;
    let edge = rcvNxt;
    while (drop < this.count && seqLeq(e[2 * drop]!, edge)) {
      const right = e[2 * drop + 1]!;
      if (seqGt(right, edge)) {
        got += (right - edge) | 0;
        edge = right;
      }
      drop++;
    }
    if (drop > 0) {
      e.copyWithin(0, 2 * drop, 2 * this.count);
      this.count -= drop;
    }
    return got;
  }

  /** The first byte of [left, right) that is not held yet; `right` if all are. */
  firstMissing(left: Seq, right: Seq): Seq {
    const e = this.edges;
    for (let i = 0; i < this.count && seqLt(left, right); i++) {
      if (seqGt(e[2 * i]!, left)) return left;
      if (seqGt(e[2 * i + 1]!, left)) left = e[2 * i + 1]!;
    }
    return seqLt(left, right) ? left : right;
  }

  /** Index of the range that holds `seq`, or -1. */
  find(seq: Seq): number {
    const e = this.edges;
    for (let i = 0; i < this.count; i++) {
      if (seqGeq(seq, e[2 * i]!) && seqLt(seq, e[2 * i + 1]!)) return i;
    }
    return -1;
  }

  /** Forgets what lies at `right` and beyond. */
  truncate(right: Seq): void {
    const e = this.edges;
    while (this.count > 0 && seqGeq(e[2 * this.count - 2]!, right)) this.count--;
    if (this.count > 0 && seqGt(e[2 * this.count - 1]!, right)) e[2 * this.count - 1] = right;
  }

  /** Rightmost edge held; only with `count` > 0. */
  get rightmost(): Seq {
    return this.edges[2 * this.count - 1]!;
  }

  clear(): void {
    this.count = 0;
  }
}
