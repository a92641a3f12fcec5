// Ranges beyond a hole, and the arithmetic of sequence numbers, against naive models around the wrap.

import fc from 'fast-check';
import t from 'tap';
import { Assembler } from '../../src/tcp/assembler.ts';
import { seqAdd, seqDiff, seqGeq, seqGt, seqLeq, seqLt, seqMax } from '../../src/tcp/seq.ts';

const BASES = [0, 0x7fff_ff80, -0x80, 12_345] as const;

t.test('sequence comparisons hold around every wrap (RFC 9293 3.4)', async () => {
  fc.assert(
    fc.property(fc.integer(), fc.integer({ min: -0x3fff_ffff, max: 0x3fff_ffff }), (a, d) => {
      const b = seqAdd(a, d);
      return (
        seqDiff(b, a) === d &&
        seqLt(a, b) === d > 0 &&
        seqLeq(a, b) === d >= 0 &&
        seqGt(a, b) === d < 0 &&
        seqGeq(a, b) === d <= 0 &&
        seqMax(a, b) === (d > 0 ? b : a) &&
        seqMax(b, a) === (d > 0 ? b : a)
      );
    }),
  );
});

for (const base of BASES) {
  t.test(`assembler from ${base} on: property against a set of bytes`, async () => {
    const SPAN = 400;
    fc.assert(
      fc.property(fc.array(fc.tuple(fc.nat(SPAN - 1), fc.integer({ min: 1, max: 60 })), { maxLength: 60 }), (adds) => {
        const a = new Assembler(500);
        const model = new Uint8Array(SPAN + 60);
        for (const [at, len] of adds) {
          if (!a.add((base + 1 + at) | 0, (base + 1 + at + len) | 0)) return false;
          model.fill(1, at, at + len);
          // Sorted, disjoint, not even touching, and just the bytes of the model.
          const seen = new Uint8Array(model.length);
          for (let i = 0; i < a.count; i++) {
            const left = (a.edges[2 * i]! - base - 1) | 0;
            const right = (a.edges[2 * i + 1]! - base - 1) | 0;
            if (left >= right) return false;
            if (i > 0 && left <= ((a.edges[2 * i - 1]! - base - 1) | 0)) return false;
            seen.fill(1, left, right);
          }
          if (!seen.every((v, i) => v === model[i])) return false;
          if (a.find((base + 1 + at) | 0) < 0) return false;
          const missing = model.indexOf(0);
          if (a.firstMissing((base + 1) | 0, (base + 1 + model.length) | 0) !== ((base + 1 + missing) | 0))
            return false;
          if (a.rightmost !== ((base + 2 + model.lastIndexOf(1)) | 0)) return false;
        }
        // The hole at the front is filled.
        const run = model.indexOf(0);
        const got = a.advance((base + 1) | 0);
        return got === (run < 0 ? model.length : run);
      }),
    );
  });
}

t.test('a full table takes what merges, and nothing else', async (t) => {
  const a = new Assembler(2);
  t.equal(a.add(10, 20), true);
  t.equal(a.add(30, 40), true);
  t.equal(a.add(50, 60), false);
  t.equal(a.add(20, 25), true);
  t.equal(a.add(22, 30), true);
  t.equal(a.count, 1);
  t.equal(a.add(50, 60), true);
  t.same([...a.edges.slice(0, 4)], [10, 40, 50, 60]);
  a.clear();
  t.equal(a.count, 0);
});

t.test('the range that grew last is known', async (t) => {
  const a = new Assembler(8);
  a.add(10, 20);
  a.add(30, 40);
  t.equal(a.recent, 30);
  a.add(20, 22);
  t.equal(a.recent, 10);
});

t.test('ranges wholly below are forgotten without counting', async (t) => {
  const a = new Assembler(8);
  a.add(10, 20);
  a.add(30, 40);
  t.equal(a.advance(25), 0);
  t.equal(a.count, 1);
  t.equal(a.advance(35), 5);
  t.equal(a.count, 0);
});
