// Turns of the host side: many reads of a round make one turn; a socket that is alone gets its turn at once.

import t from 'tap';
import { TurnClock } from '../../src/host/turn-clock.ts';
import { ManualClock } from '../helpers/manual-clock.ts';

const round = () => new Promise<void>((resolve) => setImmediate(resolve));

function rig() {
  const clock = new ManualClock();
  const ends: number[] = [];
  const rig = { turnMs: 0 };
  const turns = new TurnClock(clock, (now) => {
    ends.push(now);
    clock.advance(rig.turnMs);
  });
  const read = (asks = true) => {
    turns.beginRead(clock.now());
    if (asks) turns.want();
    turns.endRead(clock.now());
  };
  return { clock, ends, turns, read, rig };
}

t.test('reads of one round end in one turn, after the round', async (t) => {
  const { ends, read } = rig();
  for (let i = 0; i < 5; i++) read();
  t.same(ends, []);
  await round();
  t.equal(ends.length, 1);
  await round();
  t.equal(ends.length, 1, 'and none without cause');
});

t.test('what is wanted outside of a read has its turn after the round, once', async (t) => {
  const { ends, turns, read } = rig();
  turns.want();
  turns.want();
  t.same(ends, []);
  await round();
  t.equal(ends.length, 1);
  read(false);
  await round();
  t.equal(ends.length, 1, 'a read that asks for none gets none');
});

t.test('a socket that has been alone for a while gets its turn at once; two at a time end that', async (t) => {
  const { clock, ends, turns, read } = rig();
  for (let i = 0; i < 16; i++) {
    clock.advance(1);
    read();
    t.equal(ends.length, i, 'not yet');
    await round();
  }
  clock.advance(1);
  read();
  t.equal(ends.length, 17, 'at once');
  clock.advance(0.01);
  read();
  t.equal(ends.length, 17, 'so soon it is of the same round');
  await round();
  t.equal(ends.length, 18);
  clock.advance(1);
  read();
  t.equal(ends.length, 18);
  await round();
  // What is wanted between reads is never left.
  turns.want();
  await round();
  t.equal(ends.length, 20);
});

t.test('many sockets a round are together again, however long each turn takes', async (t) => {
  const { clock, ends, read, rig: r } = rig();
  for (let i = 0; i < 17; i++) {
    clock.advance(1);
    read();
    await round();
  }
  const alone = ends.length;
  r.turnMs = 0.1;
  for (let n = 0; n < 20; n++) {
    clock.advance(1);
    for (let i = 0; i < 32; i++) read();
    await round();
  }
  t.ok(ends.length - alone <= 22, `${ends.length - alone} turns for 20 rounds`);
});
