// How fast, not only whether: goodput of our sender over lossy paths, against what theory gives a sender that repairs every loss
// without a time-out, and the time that a lost tail costs. RFC 6675, 8985, 6937, 9438; Mathis et al. 1997.

import t from 'tap';
import { burstTime, goodput, pathProgram, type QualityCase } from './quality.ts';
import { World } from './world.ts';

t.setTimeout(120_000);

const SEEDS = [1, 2, 3];
const SPAN_MS = 8000;
const BASE: QualityCase = {
  sender: 'host',
  receiver: 'simple',
  congestion: 'cubic',
  sack: true,
  loss: 0.01,
  rttMs: 20,
  mbitPerS: 100,
  mtu: 1500,
};

/** Mathis: MSS/RTT * sqrt(3/2p), the mean of Reno's sawtooth under random loss, in Mbit/s. */
function mathis(c: QualityCase): number {
  return (((c.mtu - 52) * 8) / c.rttMs / 1000) * Math.sqrt(1.5 / c.loss);
}

t.test('1 % loss each way, 20 ms RTT: goodput (Mbit/s)', async (t) => {
  const table: string[] = [];
  for (const [sender, receiver, sack, mbitPerS] of [
    ['host', 'simple', true, 100],
    ['guest', 'stack', true, 100],
    ['host', 'simple', true, 0],
    ['host', 'simple', false, 0],
    ['host', 'stack', true, 0],
    ['guest', 'stack', true, 0],
  ] as const) {
    for (const congestion of ['cubic', 'new-reno'] as const) {
      const c: QualityCase = { ...BASE, sender, receiver, sack, congestion, mbitPerS };
      const mean = SEEDS.reduce((sum, seed) => sum + goodput(c, seed, SPAN_MS), 0) / SEEDS.length;
      const path = mbitPerS === 0 ? 'no bottleneck' : `${mbitPerS} Mbit/s`;
      const way = sender === 'host' ? `host to guest (${receiver})` : 'guest (stack) to host';
      table.push(
        `${way.padEnd(26)} ${path.padEnd(14)} ${congestion.padEnd(9)} ${sack ? 'SACK   ' : 'no SACK'} ` +
          `${mean.toFixed(2).padStart(6)}   theory ${mathis(c).toFixed(2)}`,
      );
      // Without SACK every further loss of a window costs a round trip.
      const least = (sack ? 0.9 : 0.75) * mathis(c);
      t.ok(mean >= least, `${way}, ${path}, ${congestion}, ${sack ? '' : 'no '}SACK: ${mean.toFixed(2)} Mbit/s`);
    }
  }
  for (const line of table) t.comment(line);
});

t.test('no loss: the bottleneck is filled', async (t) => {
  for (const congestion of ['cubic', 'new-reno'] as const) {
    const mean = goodput({ ...BASE, loss: 0, congestion }, 1, 10_000);
    // 1,448 of 1,514 bytes are payload.
    t.ok(mean > 93, `${congestion}: ${mean.toFixed(1)} of 100 Mbit/s`);
  }
});

t.test('every loss is repaired once, none by a time-out', async (t) => {
  for (const congestion of ['cubic', 'new-reno'] as const) {
    const world = new World(pathProgram({ ...BASE, congestion }, 5, 12_000_000), 0);
    world.maxEvents = Number.POSITIVE_INFINITY;
    world.runUntil(world.timeline.now + 20_000);
    const { tcp } = world.stack.stats;
    const { lost, queueDrops } = world.stations[0]!.toGuest;
    t.equal(tcp.timeouts, 0, `${congestion}: time-outs`);
    t.ok(
      tcp.retransmits <= lost + queueDrops + tcp.tailProbes + 2,
      `${congestion}: ${tcp.retransmits} for ${lost} losses`,
    );
    t.equal(tcp.spuriousRecoveries, 0, `${congestion}: spurious`);
  }
});

t.test('TCP-REC-08 a lost tail is repaired by a probe', async (t) => {
  const c: QualityCase = { ...BASE, loss: 0, mbitPerS: 0 };
  // Frame 0 is the SYN-ACK, 1 to 10 are the burst.
  for (const dropNth of [[10], [9, 10], [8, 9, 10], [6, 7, 8, 9, 10]]) {
    const { ms, world } = burstTime(c, 14_000, { dropNth });
    t.ok(ms < 200, `segments ${dropNth} of 10 lost: ${ms} ms`);
    t.equal(world.stack.stats.tcp.timeouts, 0, 'no time-out');
  }
});

t.test('TCP-REC-07 reordering within a quarter of the RTT costs nothing', async (t) => {
  const c: QualityCase = { ...BASE, loss: 0, mbitPerS: 0 };
  const world = new World(pathProgram(c, 1, 5_000_000, { reorder: 0.02, reorderMs: 4 }), 0);
  world.maxEvents = Number.POSITIVE_INFINITY;
  world.runUntil(world.timeline.now + 10_000);
  const { tcp } = world.stack.stats;
  t.equal(world.runs[0]!.pair.guest?.received, 5_000_000);
  t.ok(tcp.retransmits <= 3, `${tcp.retransmits} retransmissions`);
});
