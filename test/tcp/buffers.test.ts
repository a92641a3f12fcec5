// What holds a flow's bytes and knows what was sent: send buffer, receive buffer, window budget, sent queue.

import fc from 'fast-check';
import t from 'tap';
import { Slab } from '../../src/base/slab.ts';
import { DEFAULT_TCP_LIMITS } from '../../src/tcp/limits.ts';
import { ReceiveBuffer } from '../../src/tcp/receive-buffer.ts';
import { SendBuffer } from '../../src/tcp/send-buffer.ts';
import { SENT_LOST, SENT_MAX, SENT_RETRANS, SENT_SACKED, SentQueue } from '../../src/tcp/sent-queue.ts';
import { WindowBudget } from '../../src/tcp/window-budget.ts';
import { streamBytes } from '../helpers/stream-pattern.ts';

const slabOf = (kib: number): Slab => new Slab(new Uint8Array(kib * 1024));
const byte = (i: number): number => (i * 7 + (i >>> 8)) & 255;
const bytes = (from: number, len: number): Uint8Array => streamBytes(byte, from, len);
const limits = { ...DEFAULT_TCP_LIMITS, sndBufMax: 64 * 1024, rcvBufInitial: 16 * 1024, rcvBufMax: 1024 * 1024 };

t.test('send buffer: property: writes, loans and acknowledgements keep the stream', async () => {
  fc.assert(
    fc.property(fc.array(fc.tuple(fc.nat(2), fc.nat(9000)), { maxLength: 80 }), (steps) => {
      const slab = slabOf(256);
      const snd = new SendBuffer(slab, limits);
      let head = 0;
      let tail = 0;
      const out = new Uint8Array(64 * 1024);
      for (const [what, n] of steps) {
        if (what === 0) {
          const taken = snd.write(bytes(tail, n), 0, n);
          if (taken > n) return false;
          tail += taken;
        } else if (what === 1) {
          const room = snd.room(n);
          if (room > 0) {
            if (!snd.lent || snd.room(1) !== 0) return false;
            const used = Math.min(room, n);
            snd.ring.mem.set(bytes(tail, used), snd.ring.tailOffset);
            snd.commit(used);
            tail += used;
          }
        } else {
          const acked = Math.min(n, tail - head);
          snd.ack(acked);
          head += acked;
        }
        if (snd.used !== tail - head || snd.used > limits.sndBufMax) return false;
        if (snd.used === 0 && slab.usedBytes !== 0) return false;
        if (snd.used > 0) {
          snd.ring.readAt(0, out, 0, snd.used);
          for (let i = 0; i < snd.used; i += 97) if (out[i] !== byte(head + i)) return false;
        }
      }
      snd.close();
      return slab.usedBytes === 0;
    }),
  );
});

t.test('send buffer: a lent block is given back only when the loan ends', async (t) => {
  const slab = slabOf(256);
  const snd = new SendBuffer(slab, limits);
  t.ok(snd.room(1000) >= 1000);
  snd.close();
  t.not(slab.usedBytes, 0);
  snd.commit(0);
  t.equal(slab.usedBytes, 0);
});

t.test('send buffer: its limit, and memory that is out', async (t) => {
  const slab = slabOf(256);
  const snd = new SendBuffer(slab, limits);
  t.equal(snd.write(bytes(0, 100_000), 0, 100_000), 64 * 1024);
  t.equal(snd.free, 0);
  t.equal(snd.room(1), 0);
  const full = slabOf(4);
  full.alloc(4096);
  const other = new SendBuffer(full, limits);
  t.equal(other.write(bytes(0, 10), 0, 10), 0);
  t.equal(other.room(10), 0);
});

t.test('receive buffer: property: pieces at their place come out in order', async () => {
  fc.assert(
    fc.property(
      fc.array(fc.tuple(fc.nat(2000), fc.integer({ min: 1, max: 3000 }), fc.nat(4000)), { maxLength: 60 }),
      (steps) => {
        const slab = slabOf(2048);
        const rcv = new ReceiveBuffer(slab, limits, new WindowBudget(1 << 24, () => {}));
        let next = 0;
        let head = 0;
        const out = new Uint8Array(1 << 20);
        for (const [gap, len, take] of steps) {
          // First beyond a hole, then the hole itself.
          if (gap > 0 && !rcv.store(gap, bytes(next + gap, len), 0, len)) continue;
          const fill = gap + (gap > 0 ? 0 : len);
          if (!rcv.store(0, bytes(next, fill), 0, fill)) continue;
          rcv.advance(gap + len);
          next += gap + len;
          rcv.ring.readAt(0, out, 0, rcv.ring.used);
          for (let i = 0; i < rcv.ring.used; i += 53) if (out[i] !== byte(head + i)) return false;
          const n = Math.min(take, rcv.ring.used);
          rcv.consume(n);
          head += n;
          if (rcv.free !== Math.max(0, rcv.target - rcv.ring.used)) return false;
        }
        rcv.close();
        return slab.usedBytes === 0;
      },
    ),
  );
});

t.test('receive buffer: a pinned block stays where it is, whatever arrives', async (t) => {
  const slab = slabOf(2048);
  const rcv = new ReceiveBuffer(slab, limits, new WindowBudget(1 << 24, () => {}));
  rcv.store(0, bytes(0, 4000), 0, 4000);
  rcv.advance(4000);
  const at = rcv.ring.offsetOf(0);
  rcv.pin();
  for (let from = 4000; from < 60_000; from += 4000) {
    rcv.store(0, bytes(from, 4000), 0, 4000);
    rcv.advance(4000);
  }
  t.same([...slab.mem.subarray(at, at + 4000)], [...bytes(0, 4000)], 'the pinned bytes');
  rcv.close();
  t.not(slab.usedBytes, 0, 'not given back while pinned');
  rcv.consume(4000);
  rcv.close();
  t.equal(slab.usedBytes, 0);
});

t.test("receive buffer: the target grows while a window's worth goes through, and is lowered again", async (t) => {
  const budget = new WindowBudget(1 << 24, () => {});
  const rcv = new ReceiveBuffer(slabOf(2048), limits, budget);
  for (let i = 0; i < 3; i++) {
    const n = rcv.target;
    rcv.store(0, bytes(0, n), 0, n);
    rcv.advance(n);
    rcv.consume(n);
    t.equal(rcv.target, 2 * n);
  }
  t.equal(budget.promised, rcv.target - limits.rcvBufInitial);
  rcv.lower();
  t.equal(rcv.target, limits.rcvBufInitial);
  t.equal(budget.promised, 0);
});

t.test('window budget: what is not there is not promised', async (t) => {
  let asked = 0;
  const budget = new WindowBudget(100, () => {
    asked++;
  });
  t.equal(budget.take(60), true);
  t.equal(budget.take(60), false);
  t.same([asked, budget.refused], [1, 1]);
  budget.release(30);
  t.equal(budget.take(60), true);
});

t.test('window budget: idle flows are asked first', async (t) => {
  const budget: WindowBudget = new WindowBudget(100, () => budget.release(50));
  budget.take(100);
  t.equal(budget.take(40), true);
  t.equal(budget.promised, 90);
});

t.test('sent queue: property against a list', async () => {
  fc.assert(
    fc.property(fc.array(fc.tuple(fc.nat(3), fc.nat(1000)), { maxLength: 200 }), (steps) => {
      const q = new SentQueue();
      const model: { end: number; at: number; flags: number }[] = [];
      let end = 0x7fff_ff00 | 0;
      for (const [what, n] of steps) {
        if (what < 2) {
          end = (end + 1 + n) | 0;
          q.push(end, n);
          model.push({ end, at: n, flags: 0 });
        } else if (what === 2 && model.length > 0) {
          q.shift();
          model.shift();
        } else if (model.length > 0) {
          const i = n % model.length;
          const flags = [SENT_SACKED, SENT_LOST, SENT_RETRANS][n % 3]!;
          q.setFlags(i, flags);
          model[i]!.flags = flags;
          const mid = (model[i]!.end - 1) | 0;
          q.split(i, mid);
          model.splice(i, 0, { ...model[i]!, end: mid });
          q.setSentAt(i, n);
          model[i]!.at = n;
        }
        if (q.count !== model.length) return false;
        for (let i = 0; i < model.length; i++) {
          const m = model[i]!;
          if (q.endOf(i) !== m.end || q.sentAt(i) !== m.at || q.flags(i) !== m.flags) return false;
        }
      }
      q.clear();
      return q.count === 0;
    }),
  );
});

t.test('sent queue: it is full at its limit', async (t) => {
  const q = new SentQueue();
  for (let i = 0; i < SENT_MAX; i++) q.push(i, 0);
  t.equal(q.full, true);
  q.shift();
  t.equal(q.full, false);
});
