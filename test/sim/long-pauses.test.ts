// VMs that stop for minutes in mid-transfer, and links that are dead for as long: no flow dies that need not, and what was held up
// is not sent again in a burst. Conformance reference 5; TCP-RTO-07.

import t from 'tap';
import { CLEAN, type FaultProfile, type Span } from './faulty-link.ts';
import { PLAIN_LIMITS, type Program } from './program.ts';
import { World } from './world.ts';

const MINUTE_MS = 60_000;
const BYTES = 400_000;
const STREAM = { at: 0, op: 'write' as const, n: BYTES };
/** Slow enough that the pause falls in the middle of the transfer: 400 kB take some 4 s. */
const PATH: Partial<FaultProfile> = { delayMs: 10, bytesPerMs: 100, queueBytes: 200_000 };

function program(kind: 'simple' | 'stack', faults: { toGuest?: object; toHost?: object }, endMs: number): Program {
  return {
    seed: 11,
    mtu: 1500,
    memoryBytes: 16 * 1024 * 1024,
    limits: PLAIN_LIMITS,
    guests: [
      {
        kind,
        tcp: {
          sack: true,
          dsack: true,
          ts: true,
          shift: 7,
          mss: 1460,
          rcvBuf: 65_535,
          cwnd: 64_000,
          ackEvery: 2,
          fastRetransmit: true,
          probeByte: false,
        },
      },
    ],
    flows: ['host', 'guest'].map((sender, id) => ({
      id,
      guest: 0,
      opener: 'guest' as const,
      at: 10,
      dial: { kind: 'accept' as const, afterMs: 0 },
      guestIsn: 0xffff_ff00,
      hostIsn: 0x7fff_ff00,
      hostSlowMs: 0,
      hostLends: true,
      host: sender === 'host' ? [STREAM] : [],
      guestActions: sender === 'guest' ? [STREAM] : [],
    })),
    toGuest: { ...CLEAN, ...PATH, ...faults.toGuest },
    toHost: { ...CLEAN, ...PATH, ...faults.toHost },
    endMs,
  };
}

// Our own TCP as the guest has a clock that goes on while its link stands still: it rightly gives up within 20 minutes.
for (const [kind, pauses] of [
  ['simple', [3, 20, 120]],
  ['stack', [3]],
] as const) {
  for (const minutes of pauses) {
    t.test(`TCP-RTO-07 a VM (${kind}) that is stopped for ${minutes} minutes in mid-transfer`, async (t) => {
      const pause: Span = [1000, 1000 + minutes * MINUTE_MS];
      const faults = { toGuest: { stalls: [pause] }, toHost: { stalls: [pause] } };
      const world = new World(program(kind, faults, pause[1] + 20_000), 0);
      const start = world.timeline.now;
      world.runUntil(start + pause[1] - 1);
      const [down, up] = world.runs;
      t.ok((down?.pair.guest?.received ?? 0) < BYTES, 'it falls in the middle');
      const { tcp } = world.stack.stats;
      t.ok(tcp.retransmits <= 4, `${tcp.retransmits} retransmissions into the stalled link`);
      world.runUntil(start + pause[1] + 15_000);
      t.equal(down?.pair.guest?.received, BYTES, 'down: all has arrived');
      t.equal(up?.pair.host?.received, BYTES, 'up: all has arrived');
      t.ok(tcp.retransmits <= 8, `${tcp.retransmits} retransmissions in all`);
      world.run();
    });
  }
}

t.test('TCP-RTO-06 a link that is dead for 70 s in mid-transfer: both directions finish', async (t) => {
  const blackout: Span = [1000, 71_000];
  const faults = { toGuest: { blackouts: [blackout] }, toHost: { blackouts: [blackout] } };
  const world = new World(program('stack', faults, blackout[1] + 90_000), 0);
  const start = world.timeline.now;
  world.runUntil(start + blackout[1]);
  const { tcp } = world.stack.stats;
  // Backed off: 0.2, 0.4, … s; not one a segment.
  t.ok(tcp.timeouts >= 5 && tcp.timeouts <= 14, `${tcp.timeouts} time-outs`);
  world.runUntil(start + blackout[1] + 80_000);
  t.equal(world.runs[0]!.pair.guest?.received, BYTES, 'down: all has arrived');
  t.equal(world.runs[1]!.pair.host?.received, BYTES, 'up: all has arrived');
  world.run();
});

t.test('TCP-RTO-06 a link that is dead for 20 minutes: quiet flows live on', async (t) => {
  const blackout: Span = [10_000, 10_000 + 20 * MINUTE_MS];
  const faults = { toGuest: { blackouts: [blackout] }, toHost: { blackouts: [blackout] } };
  const quiet = program('stack', faults, blackout[1] + 20_000);
  for (const flow of quiet.flows) {
    for (const list of [flow.host, flow.guestActions]) {
      if (list.length > 0) list.push({ ...STREAM, at: blackout[1] + 1000 });
    }
  }
  const world = new World(quiet, 0);
  world.runUntil(world.timeline.now + blackout[1] + 19_000);
  t.equal(world.runs[0]!.pair.guest?.received, 2 * BYTES, 'down: all has arrived');
  t.equal(world.runs[1]!.pair.host?.received, 2 * BYTES, 'up: all has arrived');
  world.run();
});
