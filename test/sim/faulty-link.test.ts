// The link does what its profile says, and no more: a simulation that loses nothing proves nothing.

import t from 'tap';
import { SeededRandom } from '../helpers/seeded-random.ts';
import { CLEAN, Decision, type FaultProfile, FaultyLink } from './faulty-link.ts';
import { Timeline } from './timeline.ts';

interface Arrival {
  at: number;
  n: number;
  frame: Uint8Array;
}

/** Sends `count` frames, one each ms, and takes what arrives. */
function through(
  profile: Partial<FaultProfile>,
  count: number,
  make = frameOf,
): { arrived: Arrival[]; link: FaultyLink } {
  const timeline = new Timeline();
  const start = timeline.now;
  const arrived: Arrival[] = [];
  const link = new FaultyLink({ ...CLEAN, delayMs: 10, ...profile }, timeline, new SeededRandom(7), (frames) => {
    for (const frame of frames) arrived.push({ at: timeline.now - start, n: (frame[0]! << 8) | frame[1]!, frame });
  });
  for (let n = 0; n < count; n++) timeline.at(start + n, () => link.send(make(n)));
  while (timeline.next < Number.POSITIVE_INFINITY) timeline.step();
  return { arrived, link };
}

function frameOf(n: number): Uint8Array {
  const frame = new Uint8Array(100).fill(0x55);
  frame[0] = n >> 8;
  frame[1] = n;
  return frame;
}

/** A TCP segment to tell apart: flags, payload length, acknowledgement. */
function segmentOf(n: number, flags: number, payload: number, ack: number): Uint8Array {
  const frame = new Uint8Array(54 + payload);
  const view = new DataView(frame.buffer);
  view.setUint16(0, n);
  view.setUint16(12, 0x0800);
  view.setUint16(16, 40 + payload);
  frame[23] = 6;
  view.setUint32(42, ack);
  frame[46] = 0x50;
  frame[47] = flags;
  return frame;
}

const numbers = (list: Arrival[]): number[] => list.map((a) => a.n);
const upTo = (n: number): number[] => Array.from({ length: n }, (_, i) => i);

t.test('clean: everything, in order, after the delay', async (t) => {
  const { arrived } = through({}, 50);
  t.same(numbers(arrived), upTo(50));
  t.ok(arrived.every((a) => a.at === a.n + 10));
});

t.test('loss: at its rate, and by number', async (t) => {
  const { link } = through({ loss: 0.1 }, 10_000);
  t.ok(link.lost > 850 && link.lost < 1150, `${link.lost} of 10000`);
  t.same(numbers(through({ dropNth: [0, 3] }, 6).arrived), [1, 2, 4, 5]);
});

t.test('Gilbert-Elliott: losses come in runs', async (t) => {
  const { link } = through({ burst: { enter: 0.01, leave: 0.2, loss: 1 } }, 20_000);
  const runs = link.log.filter((d, i) => d === Decision.Lost && link.log[i - 1] !== Decision.Lost).length;
  const mean = link.lost / runs;
  t.ok(mean > 4 && mean < 6, `runs of ${mean}`);
});

t.test('blackout and end of faults', async (t) => {
  t.same(numbers(through({ blackouts: [[2, 5]] }, 8).arrived), [0, 1, 5, 6, 7]);
  t.equal(through({ loss: 1, untilMs: 100 }, 150).arrived.length, 50);
});

t.test('only pure ACKs, only FINs, only window updates', async (t) => {
  const [FIN, PSH, ACK] = [1, 8, 16];
  const make = (n: number): Uint8Array => {
    if (n % 4 === 0) return segmentOf(n, ACK, 0, n);
    if (n % 4 === 1) return segmentOf(n, ACK, 0, n - 1);
    if (n % 4 === 2) return segmentOf(n, ACK | PSH, 10, n - 2);
    return segmentOf(n, ACK | FIN, 0, n - 3);
  };
  t.same(numbers(through({ dropAcks: 1 }, 8, make).arrived), [2, 3, 6, 7]);
  t.same(numbers(through({ dropFins: 1 }, 8, make).arrived), [0, 1, 2, 4, 5, 6, 7]);
  t.same(numbers(through({ dropWindowUpdates: 1 }, 8, make).arrived), [0, 2, 3, 4, 6, 7]);
});

t.test('reorder, reverse and jitter', async (t) => {
  const held = through({ reorder: 0.2, reorderMs: 20 }, 200).arrived;
  t.same(
    numbers(held).sort((a, b) => a - b),
    upTo(200),
    'none is lost',
  );
  t.not(String(numbers(held)), String(upTo(200)), 'some are passed by others');
  t.same(numbers(through({ jitterMs: 50 }, 100).arrived), upTo(100), 'jitter alone keeps the order');
  t.same(numbers(through({ reverse: 1, batchMs: 5 }, 4).arrived).slice(0, 1), [0]);
  t.same(numbers(through({ reverse: 1, batchMs: 50 }, 5).arrived), [4, 3, 2, 1, 0]);
});

t.test('duplicates, at once and half a minute later', async (t) => {
  const { arrived } = through({ duplicate: 0.5, duplicateMs: 3, lateDuplicate: 0.1 }, 400);
  t.ok(arrived.length > 700);
  t.ok(arrived.some((a) => a.at > 15_000));
});

t.test('corruption: behind the Ethernet header, of the copy only', async (t) => {
  const { arrived, link } = through({ corrupt: 1 }, 400);
  const whole = arrived.filter((a) => a.frame.length === 100);
  const flipped = whole.filter((a) => a.frame.subarray(14).some((b) => b !== 0x55));
  t.equal(link.corrupted, 400);
  t.equal(flipped.length, whole.length);
  t.ok(arrived.some((a) => a.frame.length < 100) && arrived.some((a) => a.frame.length > 100));
  t.ok(whole.every((a) => a.frame.subarray(2, 14).every((b) => b === 0x55)));
});

t.test('bottleneck: rate, queue, and what the queue does not hold', async (t) => {
  const { arrived } = through({ bytesPerMs: 50 }, 20);
  t.equal(arrived.at(-1)!.at, 20 * 2 + 10);
  const full = through({ bytesPerMs: 50, queueBytes: 300 }, 100);
  t.ok(full.link.queueDrops > 30 && full.link.queueDrops < 50, `${full.link.queueDrops} dropped`);
});

t.test('stall: nothing moves until it ends', async (t) => {
  const { arrived } = through({ stalls: [[2, 60]] }, 5);
  t.same(
    arrived.map((a) => a.at),
    [10, 11, 60, 60, 60],
  );
});
