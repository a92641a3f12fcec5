// Deadlines, drop codes, randomness, the keyed hash.

import fc from 'fast-check';
import t from 'tap';
import { NEVER } from '../../src/base/clock.ts';
import { type Deadlined, DeadlineQueue } from '../../src/base/deadline-queue.ts';
import { DROP_NAMES, Drop, DropCounters } from '../../src/base/drop.ts';
import { randomBelow } from '../../src/base/random.ts';
import { SipHash } from '../../src/base/sip-hash.ts';
import { SeededRandom } from '../helpers/seeded-random.ts';

class Entry implements Deadlined {
  heapAt = NEVER;
  heapIndex = -1;
  at = NEVER;
  fired: number[] = [];
  /** What it does when it is due; by default it waits no more. */
  again: ((now: number) => number) | undefined = undefined;

  nextDeadline(): number {
    return this.at;
  }

  onDeadline(now: number): void {
    this.fired.push(now);
    this.at = this.again?.(now) ?? NEVER;
  }
}

t.test('the earliest first, each when it is due', async (t) => {
  const q = new DeadlineQueue();
  t.equal(q.next, NEVER);
  const entries = [30, 10, 20, 40].map((at) => {
    const e = new Entry();
    e.at = at;
    q.update(e);
    return e;
  });
  t.equal(q.next, 10);
  q.run(9);
  t.same(
    entries.map((e) => e.fired),
    [[], [], [], []],
  );
  q.run(25);
  t.same(
    entries.map((e) => e.fired),
    [[], [25], [25], []],
  );
  t.equal(q.next, 30);
  t.equal(q.size, 2);
});

t.test('one that moves earlier moves at once; one that moves later is not run early', async (t) => {
  const q = new DeadlineQueue();
  const e = new Entry();
  e.at = 100;
  q.update(e);
  e.at = 50;
  q.update(e);
  t.equal(q.next, 50);
  e.at = 80;
  q.update(e);
  t.ok(q.next <= 80, 'may be early');
  q.run(60);
  t.same(e.fired, []);
  t.equal(q.next, 80);
  q.run(80);
  t.same(e.fired, [80]);
});

t.test('one that waits no more leaves', async (t) => {
  const q = new DeadlineQueue();
  const e = new Entry();
  e.at = 10;
  q.update(e);
  e.at = NEVER;
  q.update(e);
  q.run(1000);
  t.same(e.fired, []);
  t.equal(q.size, 0);
  q.remove(e);
  t.equal(q.size, 0);
});

t.test('one that is due again at once runs once a call', async (t) => {
  const q = new DeadlineQueue();
  const e = new Entry();
  e.at = 5;
  e.again = (now) => now;
  q.update(e);
  q.run(10);
  t.equal(e.fired.length, 1);
  q.run(10);
  t.equal(e.fired.length, 2);
});

t.test('property: random updates and removals against a list', async () => {
  fc.assert(
    fc.property(
      fc.array(fc.tuple(fc.nat(19), fc.integer({ min: -1, max: 100 }), fc.boolean()), { maxLength: 300 }),
      (steps) => {
        const q = new DeadlineQueue();
        const entries = Array.from({ length: 20 }, () => new Entry());
        let now = 0;
        for (const [i, at, run] of steps) {
          const e = entries[i]!;
          if (at < 0) {
            e.at = NEVER;
            q.remove(e);
          } else {
            e.at = now + at;
            q.update(e);
          }
          const earliest = Math.min(...entries.map((x) => x.at));
          if (q.next > earliest) return false;
          if (!run) continue;
          now += at < 0 ? 3 : at;
          const due = entries.filter((x) => x.at <= now);
          for (const x of entries) x.fired = [];
          q.run(now);
          for (const x of entries) if (x.fired.length !== (due.includes(x) ? 1 : 0)) return false;
        }
        return true;
      },
    ),
  );
});

t.test('drop codes are dense, named, and counted', async (t) => {
  const codes = Object.values(Drop).sort((a, b) => a - b);
  t.same(
    codes,
    codes.map((_, i) => i),
  );
  t.equal(DROP_NAMES.length, codes.length);
  t.equal(DROP_NAMES[Drop.TcpBadChecksum], 'TcpBadChecksum');
  const counters = new DropCounters();
  counters.add(Drop.TcpBadChecksum);
  counters.add(Drop.TcpBadChecksum);
  t.equal(counters.get(Drop.TcpBadChecksum), 2);
  t.equal(counters.get(Drop.ArpMalformed), 0);
});

t.test('randomBelow stays below and reaches everything', async (t) => {
  const random = new SeededRandom(4);
  const seen = new Set<number>();
  for (let i = 0; i < 2000; i++) {
    const n = randomBelow(random, 10);
    if (!(Number.isInteger(n) && n >= 0 && n < 10)) t.fail(String(n));
    seen.add(n);
  }
  t.equal(seen.size, 10);
});

/** A Random that hands out given words. */
const words = (...list: number[]): { i32: () => number } => ({ i32: () => list.shift()! });

/** HalfSipHash-2-4 as its paper states it, on bigints. */
function halfSipHash(key: [number, number], message: number[]): number {
  const M = 0xffff_ffffn;
  const rotl = (x: bigint, b: bigint): bigint => ((x << b) | (x >> (32n - b))) & M;
  const k0 = BigInt(key[0] >>> 0);
  const k1 = BigInt(key[1] >>> 0);
  let v0 = k0;
  let v1 = k1;
  let v2 = 0x6c796765n ^ k0;
  let v3 = 0x74656462n ^ k1;
  const round = (): void => {
    v0 = (v0 + v1) & M;
    v1 = rotl(v1, 5n) ^ v0;
    v0 = rotl(v0, 16n);
    v2 = (v2 + v3) & M;
    v3 = rotl(v3, 8n) ^ v2;
    v0 = (v0 + v3) & M;
    v3 = rotl(v3, 7n) ^ v0;
    v2 = (v2 + v1) & M;
    v1 = rotl(v1, 13n) ^ v2;
    v2 = rotl(v2, 16n);
  };
  for (const m of [...message, (4 * message.length) << 24]) {
    const w = BigInt(m >>> 0);
    v3 ^= w;
    round();
    round();
    v0 ^= w;
  }
  v2 ^= 0xffn;
  for (let i = 0; i < 4; i++) round();
  return Number(v1 ^ v3) | 0;
}

t.test('the second implementation gives the published tags of HalfSipHash-2-4', async (t) => {
  // Key 00 .. 07; the tag of the empty message is a9 35 9f 5b.
  t.equal(halfSipHash([0x03020100, 0x07060504], []), 0x5b9f35a9);
});

t.test('property: the keyed hash equals the paper, and depends on key and each word', async () => {
  fc.assert(
    fc.property(
      fc.tuple(fc.integer(), fc.integer()),
      fc.tuple(fc.integer(), fc.integer(), fc.integer(), fc.integer()),
      (k, m) => {
        const hash = new SipHash(words(...k)).hash4(...m);
        if (hash !== halfSipHash(k, m)) return false;
        const other = new SipHash(words(k[0] ^ 1, k[1])).hash4(...m);
        const moved = new SipHash(words(...k)).hash4(m[0], m[1], m[2], m[3] ^ 1);
        return other !== hash && moved !== hash;
      },
    ),
  );
});
