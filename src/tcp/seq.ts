// Sequence space (RFC 9293 3.4): int32, compared by the sign of a wrapping subtraction, so wraparound needs no care elsewhere.

/** A sequence number as int32. */
export type Seq = number;

export function seqLt(a: Seq, b: Seq): boolean {
  return ((a - b) | 0) < 0;
}

export function seqLeq(a: Seq, b: Seq): boolean {
  return ((a - b) | 0) <= 0;
}

export function seqGt(a: Seq, b: Seq): boolean {
  return ((a - b) | 0) > 0;
}

export function seqGeq(a: Seq, b: Seq): boolean {
  return ((a - b) | 0) >= 0;
}

/** a + n, wrapping. */
export function seqAdd(a: Seq, n: number): Seq {
  return (a + n) | 0;
}

/** a - b as a signed distance. */
export function seqDiff(a: Seq, b: Seq): number {
  return (a - b) | 0;
}

export function seqMax(a: Seq, b: Seq): Seq {
  return seqLt(a, b) ? b : a;
}
