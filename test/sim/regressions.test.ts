// What the simulation has found, each as the smallest run that shows it.

import t from 'tap';
import { Slab } from '../../src/base/slab.ts';
import { IpAddress } from '../../src/ip/address.ts';
import { DEFAULT_TCP_LIMITS } from '../../src/tcp/limits.ts';
import { ReceiveBuffer } from '../../src/tcp/receive-buffer.ts';
import { State } from '../../src/tcp/state.ts';
import { WindowBudget } from '../../src/tcp/window-budget.ts';
import { CLEAN, type FaultProfile } from './faulty-link.ts';
import { type Action, type FlowPlan, PLAIN_LIMITS, type Program } from './program.ts';
import { pathProgram, type QualityCase } from './quality.ts';
import { SimpleConnection } from './simple-connection.ts';
import type { PeerTcpOptions } from './simple-tcp.ts';
import { World } from './world.ts';

const PEER: PeerTcpOptions = {
  sack: true,
  dsack: true,
  ts: false,
  shift: 7,
  mss: 1460,
  rcvBuf: 100_000,
  cwnd: 60_000,
  ackEvery: 1,
  fastRetransmit: true,
  probeByte: false,
};
const FLOW: FlowPlan = {
  id: 0,
  guest: 0,
  opener: 'guest',
  at: 10,
  dial: { kind: 'accept', afterMs: 0 },
  guestIsn: 1,
  hostIsn: 1,
  hostSlowMs: 0,
  hostLends: false,
  host: [],
  guestActions: [],
};

interface Small {
  mtu?: number;
  peer?: Partial<PeerTcpOptions>;
  flow?: Partial<FlowPlan>;
  toGuest?: Partial<FaultProfile>;
  toHost?: Partial<FaultProfile>;
  endMs?: number;
}

function program(s: Small): Program {
  const mtu = s.mtu ?? 1500;
  return {
    seed: 1,
    mtu,
    memoryBytes: 16 * 1024 * 1024,
    limits: PLAIN_LIMITS,
    guests: [{ kind: 'simple', tcp: { ...PEER, mss: mtu - 40, ...s.peer } }],
    flows: [{ ...FLOW, ...s.flow }],
    toGuest: { ...CLEAN, delayMs: 5, ...s.toGuest },
    toHost: { ...CLEAN, delayMs: 5, ...s.toHost },
    endMs: s.endMs ?? 5000,
  };
}

const write = (at: number, n: number): Action => ({ at, op: 'write', n });
const END: Action = { at: 100, op: 'shutdown', n: 0 };

t.test('TCP-MTU-01 a published port of a guest whose address was not known keeps to the MTU of its link', async (t) => {
  // The guest's announcement is lost, so the SYN waits for ARP.
  const s = { mtu: 576, toHost: { dropNth: [0] }, flow: { opener: 'host' as const, host: [write(0, 5000)] } };
  const world = new World(program(s), 100);
  world.run();
  t.equal(world.runs[0]!.pair.guest?.received, 5000);
  t.match(world.trace[0], /<mss 536/);
  t.equal(world.runs[0]!.hosts[0]!.flow.vm.id, world.stations[0]!.port.id);
});

t.test(
  'TCP-TW-04 a SYN-ACK that the link refused does not silence the connection after it was acknowledged',
  async (t) => {
    // The guest's SYN comes again while the link is stalled, and then its ACK, for it has had the first SYN-ACK. The host ends first.
    const flow = { host: [END], guestActions: [write(0, 3000), { ...END, at: 3000 }] };
    const stall: Partial<FaultProfile> = { stalls: [[1005, 1100]], delayMs: 1030 };
    const world = new World(program({ flow, toGuest: stall, endMs: 4000 }), 100);
    world.run();
    t.equal(world.runs[0]!.pair.guest?.outcome, 'clean');
    t.equal(world.stack.stats.tcp.resetsToGuest, 0);
  },
);

t.test('TCP-FIN-11 FIN-WAIT-2 ends where the host goes after its FIN was acknowledged', async (t) => {
  const world = new World(program({ flow: { host: [{ ...END, at: 0 }], guestActions: [] }, endMs: 1_000_000 }), 0);
  world.runUntil(world.timeline.now + 1000);
  const [c] = world.stack.tcp.table.all();
  t.equal(c?.state, State.FinWait2);
  world.runs[0]!.hosts[0]!.forsake();
  world.runUntil(world.timeline.now + world.limits.finWait2Ms + 1);
  t.equal(world.stack.tcp.table.size, 0);
});

t.test('TCP-FCR-10 a window that grew is given back at a clean end', async (t) => {
  const world = new World(program({ flow: { guestActions: [write(0, 1_000_000), END], host: [END] } }), 0);
  let promised = 0;
  for (let ms = 0; ms < 4000; ms += 10) {
    world.runUntil(world.timeline.now + 10);
    promised = Math.max(promised, world.stack.tcp.windows.promised);
  }
  t.ok(promised > 0, 'the window grew');
  t.equal(world.stack.tcp.windows.promised, 0);
});

t.test('TCP-ASM-09 RFC 2883 4: a duplicate inside a range is followed by that range', async (t) => {
  // Segments arrive five ms apart, some never, some once more later, four or five to a read.
  const flow = { guestActions: [write(0, 30 * 1460)] };
  const faults = {
    dropNth: [3, 7, 12, 20],
    bytesPerMs: 300,
    batchMs: 20,
    duplicate: 0.3,
    duplicateMs: 60,
    untilMs: 300,
  };
  const world = new World(program({ flow, toHost: faults, peer: { fastRetransmit: false } }), 200);
  world.runUntil(world.timeline.now + 400);
  const inside = world.trace.filter((line) => /sack (\d+):\d+, sack/.test(line));
  t.ok(inside.length > 0, 'a D-SACK was sent');
  world.run();
});

t.test('TCP-FCS-01 a guest that goes back to resend is heard about its window', async (t) => {
  // The first half of a flight is lost, and sent again from the start: lower numbers than were seen, but newer windows, and the
  // guest does not read. Its acknowledgements ride on what it sends again.
  const dropNth = Array.from({ length: 20 }, (_, i) => 3 + i);
  const flow = {
    guestActions: [{ ...END, op: 'pause' as const, at: 0 }, write(0, 58_400)],
    host: [write(1010, 100_000)],
  };
  const peer = { rcvBuf: 30_000, fastRetransmit: false, sack: false, ackEvery: 1000 };
  const world = new World(program({ flow, peer, toHost: { dropNth } }), 0);
  world.run();
  t.equal(world.runs[0]!.pair.guest?.received, 100_000);
});

t.test('TCP-REC-08 RFC 8985: the SACK of a tail probe counts with timestamps, though its echo is older', async (t) => {
  const c: QualityCase = {
    sender: 'host',
    receiver: 'simple',
    congestion: 'cubic',
    sack: true,
    loss: 0,
    rttMs: 20,
    mbitPerS: 0,
    mtu: 1500,
  };
  const world = new World(pathProgram(c, 1, 14_000, { dropNth: [9, 10] }), 0);
  world.runUntil(world.timeline.now + 300);
  t.equal(world.runs[0]!.pair.guest?.received, 14_000);
  t.equal(world.stack.stats.tcp.timeouts, 0);
});

t.test('TCP-REC-02 a duplicate SYN, half a minute late, makes no second connection', async (t) => {
  const flow = { guestActions: [write(0, 1000), END], host: [END] };
  const world = new World(program({ flow, toHost: { lateDuplicate: 1, untilMs: 12 } }), 0);
  world.run();
  t.equal(world.runs[0]!.hosts.filter((h) => h.established).length, 1);
  t.ok(world.runs[0]!.pair.guest instanceof SimpleConnection);
  t.equal(world.stack.tcp.table.find(IpAddress.v4(0), 1, IpAddress.v4(0), 1), undefined);
});

t.test('TCP-FCR-10 a flow whose own window is taken back while it asks for more is not counted wrongly', async (t) => {
  const limits = { ...DEFAULT_TCP_LIMITS, rcvBufInitial: 16_384 };
  const budget: WindowBudget = new WindowBudget(60_000, () => buffer.lower());
  const buffer: ReceiveBuffer = new ReceiveBuffer(new Slab(new Uint8Array(1 << 20)), limits, budget);
  buffer.raise(32_768);
  t.equal(budget.promised, 16_384);
  buffer.raise(76_384);
  t.equal(budget.promised, buffer.target - limits.rcvBufInitial);
  buffer.close();
  t.equal(budget.promised, 0);
});
