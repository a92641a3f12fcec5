// The Internet checksum (RFC 1071), as partial sums that callers add up and fold once.
// A partial sum is a plain number: the one's-complement sum of big-endian 16-bit words, not yet folded.
// Nothing here knows headers; pseudo-header sums are made by ip/.

const littleEndian = new Uint8Array(new Uint16Array([1]).buffer)[0] === 1;

/** Folds a partial sum to 16 bits. */
export function fold(sum: number): number {
  sum = (sum >>> 16) * 1 + Math.floor(sum / 0x1_0000_0000) + (sum & 0xffff);
  sum = (sum & 0xffff) + (sum >>> 16);
  return (sum & 0xffff) + (sum >>> 16);
}

/** The checksum field's value for a partial sum: folded and complemented. */
export function finish(sum: number): number {
  return ~fold(sum) & 0xffff;
}

function swap16(v: number): number {
  return ((v & 0xff) << 8) | (v >>> 8);
}

/** Partial sum of `len` bytes, any array, byte pairs: 421 ns for 1,460 B. For headers and small things. */
export function sumBytes(buf: Uint8Array, off: number, len: number): number {
  let sum = 0;
  const end = off + (len & ~1);
  for (let i = off; i < end; i += 2) sum += (buf[i]! << 8) | buf[i + 1]!;
  if (len & 1) sum += buf[end]! << 8;
  return sum;
}

/**
 * Sums inside one packet memory through an aligned word view: 176 ns for 1,460 B (byte pairs: 421).
 * Byte order does not matter to the sum (RFC 1071 2.B), so words are added in native order and swapped once at the end.
 */
export class Checksummer {
  readonly #u8: Uint8Array;
  readonly #u32: Uint32Array;

  /** @param u8 a view that starts at a 4-byte boundary of its buffer. */
  constructor(u8: Uint8Array) {
    this.#u8 = u8;
    this.#u32 = new Uint32Array(u8.buffer, u8.byteOffset, u8.length >>> 2);
  }

  /** Partial sum of [off, off+len) as big-endian 16-bit words counted from `off`. */
  sum(off: number, len: number): number {
    if (len < 64) return sumBytes(this.#u8, off, len);
    const u8 = this.#u8;
    const u32 = this.#u32;
    const end = off + len;
    let i = off;
    let head = 0;
    // Up to a word boundary by bytes; an odd start shifts every later byte by one place, which is one swap of the result.
    const odd = (off & 1) === 1;
    if (odd) head = u8[i++]! << 8;
    let edge = 0;
    if (i & 2) {
      edge = (u8[i]! << 8) | u8[i + 1]!;
      i += 2;
    }
    let lo = 0;
    let hi = 0;
    let w = i >>> 2;
    const wEnd = w + ((end - i) >>> 2);
    const wUnrolled = w + ((wEnd - w) & ~3);
    // Halves are added apart so that no add leaves the small-integer range for 64 KiB of words.
    for (; w < wUnrolled; w += 4) {
      const a = u32[w]!;
      const b = u32[w + 1]!;
      const c = u32[w + 2]!;
      const d = u32[w + 3]!;
      lo += (a & 0xffff) + (b & 0xffff) + (c & 0xffff) + (d & 0xffff);
      hi += (a >>> 16) + (b >>> 16) + (c >>> 16) + (d >>> 16);
    }
    for (; w < wEnd; w++) {
      lo += u32[w]! & 0xffff;
      hi += u32[w]! >>> 16;
    }
    i = wEnd << 2;
    let words = fold(lo + hi);
    if (littleEndian) words = swap16(words);
    let sum = edge + words;
    const rest = end - i;
    if (rest >= 2) sum += (u8[i]! << 8) | u8[i + 1]!;
    if (rest & 1) sum += u8[end - 1]! << 8;
    return odd ? head + swap16(fold(sum)) : sum;
  }
}
