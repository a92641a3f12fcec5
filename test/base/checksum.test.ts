// The Internet checksum, RFC 1071: the fast sum equals the slow one for every length, alignment and content.

import fc from 'fast-check';
import t from 'tap';
import { Checksummer, finish, fold, sumBytes } from '../../src/base/checksum.ts';

/** RFC 1071 1 to the letter, with bigints. */
function naive(buf: Uint8Array, off: number, len: number): number {
  let sum = 0n;
  for (let i = 0; i < len; i += 2) sum += BigInt((buf[off + i]! << 8) | (i + 1 < len ? buf[off + i + 1]! : 0));
  while (sum > 0xffffn) sum = (sum & 0xffffn) + (sum >> 16n);
  return Number(sum);
}

/** Both zeros of one's-complement arithmetic are the same. */
const same = (a: number, b: number): boolean => a % 0xffff === b % 0xffff;

t.test('RFC 1071 3, the example', async (t) => {
  const bytes = Uint8Array.of(0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7);
  t.equal(fold(sumBytes(bytes, 0, 8)), 0xddf2);
  t.equal(finish(sumBytes(bytes, 0, 8)), ~0xddf2 & 0xffff);
});

t.test('fold and finish', async (t) => {
  t.equal(fold(0), 0);
  t.equal(fold(0xffff), 0xffff);
  t.equal(fold(0x1_0000), 1);
  t.equal(fold(0xffff_ffff), 0xffff);
  t.equal(fold(0x1_0000_0000), 1);
  t.equal(fold(0xffff * 40_000), 0xffff);
  t.equal(finish(0), 0xffff);
  t.equal(finish(0xffff), 0);
});

t.test('Checksummer equals sumBytes for every length up to 600 at every alignment', async (t) => {
  const mem = new Uint8Array(1024);
  for (let i = 0; i < mem.length; i++) mem[i] = Math.imul(i, 0x9e37) >>> 7;
  const summer = new Checksummer(mem);
  let wrong = 0;
  for (let off = 0; off < 8; off++) {
    for (let len = 0; len <= 600; len++) {
      if (!same(fold(summer.sum(off, len)), naive(mem, off, len))) wrong++;
      if (!same(fold(sumBytes(mem, off, len)), naive(mem, off, len))) wrong++;
    }
  }
  t.equal(wrong, 0);
});

t.test('property: random bytes, long packets, odd offsets', async () => {
  const mem = new Uint8Array(70_000);
  const summer = new Checksummer(mem);
  fc.assert(
    fc.property(fc.nat(2000), fc.nat(65_535), fc.integer(), fc.boolean(), (off, len, seed, full) => {
      let x = seed | 1;
      for (let i = off; i < off + len; i++) {
        x = Math.imul(x, 1_103_515_245) + 12_345;
        mem[i] = full ? 0xff : x >>> 16;
      }
      return same(fold(summer.sum(off, len)), naive(mem, off, len));
    }),
    { numRuns: 150 },
  );
});

t.test('property: partial sums of pieces of even length add up', async () => {
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 2, maxLength: 300 }), fc.nat(), (bytes, at) => {
      const cut = (at % (bytes.length >> 1)) * 2;
      const sum = sumBytes(bytes, 0, cut) + sumBytes(bytes, cut, bytes.length - cut);
      return same(fold(sum), naive(bytes, 0, bytes.length));
    }),
  );
});

t.test('a view that does not start at the beginning of its buffer', async (t) => {
  const whole = Uint8Array.from({ length: 400 }, (_, i) => (i * 31) & 255);
  const view = whole.subarray(8);
  const summer = new Checksummer(view);
  for (const [off, len] of [
    [0, 300],
    [1, 299],
    [3, 200],
  ] as const) {
    t.ok(same(fold(summer.sum(off, len)), naive(view, off, len)));
  }
});
