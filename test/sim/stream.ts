// The bytes of a simulated stream: each is a function of the stream and its place, without a period that a fault could hide in.

const TABLE_BITS = 16;
const TABLE = new Uint8Array(1 << TABLE_BITS);
{
  let x = 0x2545f491;
  for (let i = 0; i < TABLE.length; i++) {
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    TABLE[i] = x >>> 11;
  }
}

/** One direction of one flow. */
export class Stream {
  readonly #key: number;

  constructor(key: number) {
    this.#key = key;
  }

  /** The byte at place `at`, from 0. */
  byte(at: number): number {
    return TABLE[(at + this.#key) & 0xffff]! ^ this.#salt(at);
  }

  fill(out: Uint8Array, off: number, len: number, at: number): void {
    for (let i = 0; i < len; i++) out[off + i] = this.byte(at + i);
  }

  /** @returns the first place in which `len` bytes from `off` on differ from the stream from `at` on, or -1. */
  differs(buf: Uint8Array, off: number, len: number, at: number): number {
    for (let i = 0; i < len; i++) if (buf[off + i] !== this.byte(at + i)) return at + i;
    return -1;
  }

  /** Differs from one block of 64 KiB to the next, and from stream to stream. */
  #salt(at: number): number {
    const h = Math.imul((at >>> TABLE_BITS) ^ (this.#key * 0x9e3779b1), 0x85ebca6b);
    return (h ^ (h >>> 13)) & 0xff;
  }
}
