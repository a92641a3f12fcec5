// Randomness as the core sees it: injected, so that a test can replay it.

/** A source of uniformly distributed 32-bit integers. The host's is cryptographic, a test's is seeded. */
export interface Random {
  /** An integer in [-2^31, 2^31). */
  i32(): number;
}

/** An integer in [0, bound) without modulo bias worth speaking of (bound far below 2^32). */
export function randomBelow(random: Random, bound: number): number {
  return Math.floor(((random.i32() >>> 0) / 0x1_0000_0000) * bound);
}
