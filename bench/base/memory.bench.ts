// What the packet path pays for bytes and for time: small checksums, copies, rings, blocks of the slab, deadlines.
//
//   npm run bench -- base

import { Checksummer, fold, sumBytes } from '../../src/base/checksum.ts';
import { type Deadlined, DeadlineQueue } from '../../src/base/deadline-queue.ts';
import { Ring } from '../../src/base/ring.ts';
import { Slab } from '../../src/base/slab.ts';
import { runSuite } from '../suite.ts';

const mem = new Uint8Array(1 << 20);
for (let i = 0; i < mem.length; i++) mem[i] = i * 31;
const summer = new Checksummer(mem);
const slab = new Slab(new Uint8Array(64 << 20));

/** Held pages with gaps between them. */
const crowded = new Slab(new Uint8Array(64 << 20));

const ringSlab = new Slab(new Uint8Array(1 << 20));
const ring = new Ring(ringSlab.mem);
ring.off = ringSlab.alloc(64 * 1024);
ring.cap = 64 * 1024;

function throughRing(): number {
  ring.writeAt(ring.used, mem, 64, 1448);
  ring.commit(1448);
  const had = ring.used;
  ring.consume(1448);
  return had;
}

let fired = 0;
let turn = 0;
let entries: Entry[] = [];
let queue = new DeadlineQueue<Entry>();

class Entry implements Deadlined {
  heapAt = 0;
  heapIndex = -1;
  at: number;
  constructor(at: number) {
    this.at = at;
  }
  nextDeadline(): number {
    return this.at;
  }
  onDeadline(now: number): void {
    fired++;
    this.at = now + 1e9;
  }
}

function queueOf(count: number): DeadlineQueue<Entry> {
  queue = new DeadlineQueue<Entry>();
  entries = Array.from({ length: count }, (_, i) => new Entry(1000 + ((i * 7919) % count)));
  for (const e of entries) queue.update(e);
  return queue;
}

function nextEntry(): Entry {
  turn = (turn + 7) % entries.length;
  return entries[turn]!;
}

/** An entry is told to be due before all others, as an acknowledgement that must leave is, and is run. */
function runNext(): number {
  const e = nextEntry();
  e.at = 1;
  queue.update(e);
  queue.run(2);
  return fired;
}

const same = (off: number, len: number) => (): string | undefined =>
  fold(summer.sum(off, len)) === fold(sumBytes(mem, off, len)) ? undefined : 'the two sums differ';

runSuite('base', [
  { name: 'checksum 1,460 B, aligned', perRun: 1, check: same(64, 1460), run: () => summer.sum(64, 1460) },
  { name: 'checksum 1,460 B, odd offset', perRun: 1, check: same(65, 1460), run: () => summer.sum(65, 1460) },
  { name: 'checksum 65,480 B, offset 2 mod 4', perRun: 1, check: same(66, 65_480), run: () => summer.sum(66, 65_480) },
  { name: 'checksum 20 B (byte pairs)', perRun: 1, check: same(14, 20), run: () => summer.sum(14, 20) },
  {
    name: 'copy 1,460 B inside the memory',
    perRun: 1,
    check: () => undefined,
    run: () => mem.copyWithin(4096, 66, 66 + 1460).length,
  },
  {
    name: 'ring: 1,448 B written and forgotten',
    perRun: 1,
    check: () => (throughRing() === 1448 && ring.used === 0 ? undefined : 'lost bytes'),
    run: throughRing,
  },
  {
    name: 'slab: take and give back 4 KiB',
    perRun: 1,
    check: () => {
      const off = slab.alloc(4096);
      slab.free(off);
      return slab.usedBytes === 0 && off === 0 ? undefined : 'not the lowest block, or not given back';
    },
    run: () => {
      const off = slab.alloc(4096);
      slab.free(off);
      return off;
    },
  },
  {
    name: 'slab: take and give back 256 KiB, 1,000 pages held',
    perRun: 1,
    check: () => {
      for (let i = 0; i < 2000; i++) crowded.alloc(4096);
      for (let i = 0; i < 2000; i += 2) crowded.free(i * 4096);
      const off = crowded.alloc(256 * 1024);
      crowded.free(off);
      return off >= 2000 * 4096 && crowded.usedBytes === 1000 * 4096 ? undefined : 'not behind the pages';
    },
    run: () => {
      const off = crowded.alloc(256 * 1024);
      crowded.free(off);
      return off;
    },
  },
  {
    name: 'deadlines: one of 1,000 moves later',
    perRun: 1,
    check: () => (queueOf(1000).size === 1000 ? undefined : 'not all are queued'),
    run: () => {
      const e = nextEntry();
      e.at += 40;
      queue.update(e);
      return queue.next;
    },
  },
  {
    name: 'deadlines: one of 1,000 moves to the front and is run',
    perRun: 1,
    check: () => {
      queueOf(1000);
      const before = fired;
      runNext();
      return fired === before + 1 && queue.size === 1000 ? undefined : 'not one was run';
    },
    run: runNext,
  },
  {
    name: 'deadlines: nothing is due',
    perRun: 1,
    check: () => (queueOf(1000).next > 0 ? undefined : 'something is due'),
    run: () => {
      queue.run(0);
      return queue.size;
    },
  },
]);
