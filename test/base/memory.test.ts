// Packet memory and what lies in it: ring, slab, bytes; the slab against a naive model.

import fc from 'fast-check';
import t from 'tap';
import {
  asciiText,
  copyBytes,
  equalBytes,
  getI32,
  getU8,
  getU16,
  getU32,
  setU8,
  setU16,
  setU32,
} from '../../src/base/bytes.ts';
import { InvariantError, invariant } from '../../src/base/invariant.ts';
import { Ring } from '../../src/base/ring.ts';
import { SLAB_MIN_BLOCK, Slab } from '../../src/base/slab.ts';

t.test('bytes: what is written is read, big-endian, at any offset', async (t) => {
  fc.assert(
    fc.property(fc.nat(9), fc.integer({ min: 0, max: 0xffff_ffff }), (off, v) => {
      const buf = new Uint8Array(16).fill(0xee);
      setU32(buf, off, v);
      const view = new DataView(buf.buffer);
      t.equal(view.getUint32(off), v);
      if (getU32(buf, off) !== v || getI32(buf, off) !== (v | 0)) return false;
      setU16(buf, off, v & 0xffff);
      if (getU16(buf, off) !== (v & 0xffff)) return false;
      setU8(buf, off, v & 0xff);
      return getU8(buf, off) === (v & 0xff) && buf[off + 4] === 0xee;
    }),
  );
});

t.test('bytes: copies between arrays and inside one, short and long, overlapping', async () => {
  fc.assert(
    fc.property(fc.nat(200), fc.nat(200), fc.nat(150), fc.boolean(), (from, to, len, inside) => {
      const src = Uint8Array.from({ length: 400 }, (_, i) => i & 255);
      const dst = inside ? src : new Uint8Array(400);
      const want = src.slice(from, from + len);
      copyBytes(src, from, dst, to, len);
      return equalBytes(dst, to, want, 0, len);
    }),
  );
});

t.test('bytes: equality and text', async (t) => {
  t.equal(equalBytes(Uint8Array.of(1, 2, 3), 1, Uint8Array.of(2, 3), 0, 2), true);
  t.equal(equalBytes(Uint8Array.of(1, 2, 3), 0, Uint8Array.of(1, 2, 4), 0, 3), false);
  t.equal(asciiText(Uint8Array.of(65, 66, 255), 0, 3), 'AB\u00ff');
});

t.test('invariant throws its own error, and only when broken', async (t) => {
  t.doesNotThrow(() => invariant(true, 'x'));
  t.throws(() => invariant(false, 'seven'), { name: 'InvariantError', message: 'seven' });
  t.throws(() => invariant(false, 'seven'), InvariantError);
});

t.test('ring: bytes come out as they went in, across the wrap, and survive a move', async (t) => {
  const mem = new Uint8Array(1024);
  const ring = new Ring(mem);
  t.same([ring.cap, ring.used, ring.free, ring.off, ring.tailRoom], [0, 0, 0, -1, 0]);
  ring.moveTo(128, 64, 0);
  let next = 0;
  let oldest = 0;
  const out = new Uint8Array(128);
  for (let i = 0; i < 200; i++) {
    const n = 1 + ((i * 7) % 40);
    const put = Math.min(n, ring.free);
    const bytes = Uint8Array.from({ length: put }, () => next++ & 255);
    ring.writeAt(ring.used, bytes, 0, put);
    ring.commit(put);
    t.ok(ring.contiguous(0, ring.used) <= ring.used);
    ring.readAt(0, out, 0, ring.used);
    for (let k = 0; k < ring.used; k++) if (out[k] !== ((oldest + k) & 255)) t.fail(`byte ${k} in round ${i}`);
    if (i === 100) {
      ring.moveTo(512, 128, ring.used);
      t.equal(ring.cap, 128);
    }
    const take = Math.min(ring.used, 1 + ((i * 11) % 30));
    ring.consume(take);
    oldest += take;
  }
  t.equal(ring.free, ring.cap - ring.used);
  ring.detach();
  t.same([ring.cap, ring.used, ring.off], [0, 0, -1]);
  t.equal(
    mem.subarray(0, 128).every((b) => b === 0),
    true,
    'nothing is written outside of the block',
  );
});

t.test('ring: the free piece at the tail', async (t) => {
  const ring = new Ring(new Uint8Array(64));
  ring.moveTo(0, 64, 0);
  t.same([ring.tailOffset, ring.tailRoom], [0, 64]);
  ring.commit(40);
  t.same([ring.tailOffset, ring.tailRoom], [40, 24]);
  ring.consume(30);
  ring.commit(24);
  t.same([ring.tailOffset, ring.tailRoom], [0, 30]);
  ring.commit(30);
  t.equal(ring.tailRoom, 0);
});

t.test('slab: sizes, the lowest address first, counters', async (t) => {
  const slab = new Slab(new Uint8Array(64 * 1024));
  t.equal(Slab.blockSize(1), SLAB_MIN_BLOCK);
  t.equal(Slab.blockSize(SLAB_MIN_BLOCK + 1), 2 * SLAB_MIN_BLOCK);
  t.equal(Slab.blockSize(65_536), 65_536);
  const a = slab.alloc(1);
  const b = slab.alloc(5000);
  const c = slab.alloc(4096);
  t.same([a, b, c], [0, 8192, 4096]);
  t.equal(slab.usedBytes, 16_384);
  slab.free(a);
  t.equal(slab.alloc(10), 0, 'the lowest free block again');
  slab.free(0);
  slab.free(b);
  slab.free(c);
  t.equal(slab.usedBytes, 0);
  t.equal(slab.peakBytes, 16_384);
  const all = slab.alloc(65_536);
  t.equal(all, 0, 'neighbours have grown together again');
  t.equal(slab.alloc(1), -1);
  t.equal(slab.alloc(1 << 20), -1);
  t.equal(slab.refused, 2);
  slab.free(all);
});

t.test('slab: the fuller it is, the less a ring may grow', async (t) => {
  const slab = new Slab(new Uint8Array(1024 * 1024));
  t.equal(slab.growthLimit, 1024 * 1024);
  let last = slab.growthLimit;
  for (let i = 0; i < 16; i++) {
    slab.alloc(64 * 1024);
    t.ok(slab.growthLimit <= last);
    last = slab.growthLimit;
  }
  t.ok(last <= 64 * 1024);
});

t.test('slab: a block that is not held is not freed', async (t) => {
  const slab = new Slab(new Uint8Array(16 * 1024));
  t.throws(() => slab.free(0), InvariantError);
  const a = slab.alloc(4096);
  slab.free(a);
  t.throws(() => slab.free(a), InvariantError, 'twice');
  t.throws(() => slab.free(123), InvariantError, 'no block begins there');
  t.throws(() => new Slab(new Uint8Array(3 * 4096)), InvariantError);
  t.throws(() => new Slab(new Uint8Array(100)), InvariantError);
});

t.test('slab: property against a naive model: blocks never overlap, everything comes back', async () => {
  const PAGES = 32;
  fc.assert(
    fc.property(fc.array(fc.tuple(fc.boolean(), fc.nat(40_000)), { maxLength: 120 }), (steps) => {
      const slab = new Slab(new Uint8Array(PAGES * SLAB_MIN_BLOCK));
      const owner = new Int32Array(PAGES).fill(-1);
      const held: { off: number; size: number }[] = [];
      for (const [wantsFree, n] of steps) {
        if (wantsFree && held.length > 0) {
          const block = held.splice(n % held.length, 1)[0]!;
          slab.free(block.off);
          owner.fill(-1, block.off / SLAB_MIN_BLOCK, (block.off + block.size) / SLAB_MIN_BLOCK);
          continue;
        }
        const size = Slab.blockSize(n + 1);
        const off = slab.alloc(n + 1);
        const pages = size / SLAB_MIN_BLOCK;
        if (off < 0) {
          // Then there is really no aligned run of free pages of that size.
          for (let p = 0; p + pages <= PAGES; p += pages) {
            if (owner.subarray(p, p + pages).every((o) => o < 0)) return false;
          }
          continue;
        }
        if (off % size !== 0) return false;
        const first = off / SLAB_MIN_BLOCK;
        for (let p = first; p < first + pages; p++) {
          if (owner[p] !== -1) return false;
          owner[p] = off;
        }
        held.push({ off, size });
        const used = held.reduce((sum, b) => sum + b.size, 0);
        if (slab.usedBytes !== used) return false;
      }
      for (const b of held) slab.free(b.off);
      return slab.usedBytes === 0 && slab.alloc(PAGES * SLAB_MIN_BLOCK) === 0;
    }),
    { numRuns: 300 },
  );
});
