// On a clean link the TCP has no excuse: no retransmission, no duplicate or challenge ACK, at most one ACK a batch and flow, and
// nothing once all is said.

import t from 'tap';
import { CLEAN } from './faulty-link.ts';
import { makeProgram, type Program } from './program.ts';
import { runProgram, World } from './world.ts';

/** A random program's flows and sizes, on a clean link, with hosts and guests that read what comes. */
function cleanProgram(seed: number): Program {
  const p = makeProgram(seed);
  const path = { ...CLEAN, delayMs: [0.05, 1, 15][seed % 3]!, batchMs: seed % 2 === 0 ? 0.2 : 0 };
  return {
    ...p,
    memoryBytes: 16 * 1024 * 1024,
    guests: p.guests.map((g) => ({ ...g, tcp: { ...g.tcp, rcvBuf: Math.max(g.tcp.rcvBuf, 4 * p.mtu), ackEvery: 2 } })),
    flows: p.flows.map((f) => ({
      ...f,
      dial: { kind: 'accept', afterMs: 0 },
      hostSlowMs: 0,
      host: f.host.filter((a) => a.op === 'write' || a.op === 'shutdown'),
      guestActions: f.guestActions.filter((a) => a.op === 'write' || a.op === 'shutdown'),
    })),
    toGuest: path,
    toHost: path,
    endMs: 10_000,
  };
}

for (let from = 1; from <= 60; from += 20) {
  t.test(`clean link, seeds ${from} to ${from + 19}`, async (t) => {
    for (let seed = from; seed < from + 20; seed++) {
      const program = cleanProgram(seed);
      const world = new World(program, 0);
      try {
        world.run();
      } catch {
        t.fail(`seed ${seed}: ${runProgram(program)}`);
        continue;
      }
      const { tcp } = world.stack.stats;
      const rules = world.stations.map((s) => s.rules);
      t.strictSame(
        {
          retransmits: tcp.retransmits + rules.reduce((n, r) => n + r.retransmits, 0),
          timeouts: tcp.timeouts,
          tailProbes: tcp.tailProbes,
          challengeAcks: tcp.challengeAcks,
          duplicateAcks: rules.reduce((n, r) => n + r.duplicateAcks, 0),
          twoAcksInATurn: rules.reduce((n, r) => n + r.doubleAcks, 0),
          outOfOrder: tcp.outOfOrder,
          duplicates: tcp.duplicates,
          resets: tcp.resetsToGuest,
        },
        {
          retransmits: 0,
          timeouts: 0,
          tailProbes: 0,
          challengeAcks: 0,
          duplicateAcks: 0,
          twoAcksInATurn: 0,
          outOfOrder: 0,
          duplicates: 0,
          resets: 0,
        },
        `seed ${seed}`,
      );
    }
  });
}
