// HalfSipHash-2-4: a keyed hash of 32-bit words that an outsider cannot predict without the key. For initial sequence numbers
// (RFC 6528) and flow tables. Aumasson and Bernstein, SipHash; the 32-bit variant.

import type { Random } from './random.ts';

/** A 64-bit key in two words; hashes up to four words to one. */
export class SipHash {
  readonly #k0: number;
  readonly #k1: number;

  constructor(random: Random) {
    this.#k0 = random.i32();
    this.#k1 = random.i32();
  }

  /** int32 hash of four int32 words. */
  hash4(a: number, b: number, c: number, d: number): number {
    let v0 = this.#k0;
    let v1 = this.#k1;
    let v2 = 0x6c796765 ^ this.#k0;
    let v3 = 0x74656462 ^ this.#k1;
    // Five words: the four and the length word; the sixth to ninth pass are finalization.
    for (let i = 0; i < 5; i++) {
      const m = i === 0 ? a : i === 1 ? b : i === 2 ? c : i === 3 ? d : 16 << 24;
      v3 ^= m;
      for (let r = 0; r < 2; r++) {
        v0 = (v0 + v1) | 0;
        v1 = ((v1 << 5) | (v1 >>> 27)) ^ v0;
        v0 = (v0 << 16) | (v0 >>> 16);
        v2 = (v2 + v3) | 0;
        v3 = ((v3 << 8) | (v3 >>> 24)) ^ v2;
        v0 = (v0 + v3) | 0;
        v3 = ((v3 << 7) | (v3 >>> 25)) ^ v0;
        v2 = (v2 + v1) | 0;
        v1 = ((v1 << 13) | (v1 >>> 19)) ^ v2;
        v2 = (v2 << 16) | (v2 >>> 16);
      }
      v0 ^= m;
    }
    v2 ^= 0xff;
    for (let r = 0; r < 4; r++) {
      v0 = (v0 + v1) | 0;
      v1 = ((v1 << 5) | (v1 >>> 27)) ^ v0;
      v0 = (v0 << 16) | (v0 >>> 16);
      v2 = (v2 + v3) | 0;
      v3 = ((v3 << 8) | (v3 >>> 24)) ^ v2;
      v0 = (v0 + v3) | 0;
      v3 = ((v3 << 7) | (v3 >>> 25)) ^ v0;
      v2 = (v2 + v1) | 0;
      v1 = ((v1 << 13) | (v1 >>> 19)) ^ v2;
      v2 = (v2 << 16) | (v2 >>> 16);
    }
    return (v1 ^ v3) | 0;
  }
}
