// A random program for a seed: what the hosts and guests do, over which link, under which limits; and smaller programs made of
// one that failed.

import { RefuseReason } from '../../src/tcp/flow.ts';
import { SeededRandom } from '../helpers/seeded-random.ts';
import { CLEAN, type FaultProfile, type Span } from './faulty-link.ts';
import type { PeerTcpOptions } from './simple-tcp.ts';

export type Op =
  | 'write'
  | 'read'
  | 'pause'
  | 'resume'
  | 'shutdown'
  | 'close'
  | 'abort'
  | 'vanish'
  | 'resize'
  | 'renege';

/** At `at` ms after the flow's opening. */
export interface Action {
  at: number;
  op: Op;
  n: number;
}

/** What the host does about a guest's SYN. */
export type Dial =
  | { kind: 'accept'; afterMs: number }
  | { kind: 'refuse'; afterMs: number; reason: RefuseReason }
  | { kind: 'hang' };

export interface FlowPlan {
  id: number;
  guest: number;
  opener: 'guest' | 'host';
  /** ms since the start of the run. */
  at: number;
  dial: Dial;
  guestIsn: number;
  hostIsn: number;
  hostSlowMs: number;
  hostLends: boolean;
  host: Action[];
  guestActions: Action[];
}

export interface Limits {
  rcvBufMax: number;
  rcvBufInitial: number;
  sndBufMax: number;
  oooRanges: number;
  congestion: 'cubic' | 'new-reno';
}

/** Where limits are not the subject. */
export const PLAIN_LIMITS: Limits = {
  rcvBufMax: 2 * 1024 * 1024,
  rcvBufInitial: 65_536,
  sndBufMax: 2 * 1024 * 1024,
  oooRanges: 128,
  congestion: 'cubic',
};

export interface GuestPlan {
  kind: 'simple' | 'stack';
  tcp: PeerTcpOptions;
}

export interface Program {
  seed: number;
  mtu: number;
  memoryBytes: number;
  limits: Limits;
  guests: GuestPlan[];
  flows: FlowPlan[];
  toGuest: FaultProfile;
  toHost: FaultProfile;
  /** End of all actions and faults, ms since the start. */
  endMs: number;
}

class Dice extends SeededRandom {
  pick<T>(list: readonly T[]): T {
    return list[this.below(list.length)]!;
  }

  /** An integer in [from, to], the small ones more often. */
  skewed(from: number, to: number): number {
    const u = this.below(10_000) / 10_000;
    return from + Math.floor((to - from) * u * u * u);
  }
}

/** `kinds`: the VMs to choose from. */
export function makeProgram(
  seed: number,
  kinds: readonly GuestPlan['kind'][] = ['simple', 'simple', 'stack'],
): Program {
  const d = new Dice(seed);
  const mtu = d.pick([576, 1500, 1500, 9000, 65_520]);
  const guests: GuestPlan[] = [];
  for (let n = d.pick([1, 1, 2, 3]); n > 0; n--) guests.push({ kind: d.pick(kinds), tcp: peerOptions(d, mtu) });
  const faultsMs = d.pick([500, 2000, 5000, 5000, 10_000]);
  const long = d.chance(0.08);
  const untilMs = long ? 80_000 : faultsMs;
  const flows: FlowPlan[] = [];
  const count = d.pick([1, 1, 1, 2, 3, 5, 8, 12, 20]);
  // All flows together move about as much, whatever their number.
  const budget = Math.floor(d.pick([20_000, 100_000, 400_000, 800_000]) / count);
  for (let id = 0; id < count; id++) flows.push(flowPlan(d, id, guests, Math.min(budget, 250 * mtu), faultsMs));
  return {
    seed,
    mtu,
    memoryBytes: d.chance(0.2) ? 512 * 1024 : 16 * 1024 * 1024,
    limits: {
      rcvBufMax: d.pick([64 * 1024, 256 * 1024, 2 * 1024 * 1024]),
      rcvBufInitial: d.pick([16 * 1024, 65_536]),
      sndBufMax: d.pick([16 * 1024, 128 * 1024, 2 * 1024 * 1024]),
      oooRanges: d.pick([4, 32, 128]),
      congestion: d.pick(['cubic', 'new-reno'] as const),
    },
    guests,
    flows,
    toGuest: faults(d, untilMs, long),
    toHost: { ...faults(d, untilMs, long), stalls: [] },
    endMs: untilMs,
  };
}

function peerOptions(d: Dice, mtu: number): PeerTcpOptions {
  const mss = d.chance(0.2) ? Math.max(88, d.below(mtu - 40)) : mtu - 40;
  const rcvBuf = Math.max(d.pick([2000, 16_000, 65_535, 300_000]), d.chance(0.1) ? 100 : 2 * mss);
  return {
    sack: d.chance(0.6),
    dsack: d.chance(0.7),
    ts: d.chance(0.5),
    shift: d.chance(0.7) ? d.below(15) : -1,
    mss,
    rcvBuf,
    cwnd: Math.max(2 * mss, d.pick([3000, 30_000, 200_000])),
    ackEvery: d.pick([1, 2, 2, 4]),
    fastRetransmit: d.chance(0.6),
    probeByte: d.chance(0.5),
  };
}

const NEAR_WRAP = [0xffff_ff9c, 0x7fff_ff9c, 0xffff_ffff, 0, 1];

function flowPlan(d: Dice, id: number, guests: GuestPlan[], budget: number, spanMs: number): FlowPlan {
  const guest = d.below(guests.length);
  const isn = (): number => (d.chance(0.5) ? d.pick(NEAR_WRAP) - d.below(3000) : d.i32());
  const simple = guests[guest]!.kind === 'simple';
  let dial: Dial = { kind: 'accept', afterMs: d.chance(0.3) ? d.below(3000) : 0 };
  if (d.chance(0.06)) {
    dial = { kind: 'refuse', afterMs: d.chance(0.5) ? d.below(2000) : 0, reason: d.pick(Object.values(RefuseReason)) };
  } else if (d.chance(0.01)) dial = { kind: 'hang' };
  return {
    id,
    guest,
    opener: d.chance(0.7) ? 'guest' : 'host',
    at: d.skewed(0, spanMs / 2),
    dial,
    guestIsn: isn(),
    hostIsn: isn(),
    hostSlowMs: d.chance(0.25) ? d.skewed(1, 300) : 0,
    hostLends: d.chance(0.5),
    host: actions(d, budget, spanMs, ['write', 'write', 'write', 'read', 'pause', 'resume'], ['close', 'abort']),
    guestActions: actions(
      d,
      budget,
      spanMs,
      simple
        ? ['write', 'write', 'write', 'read', 'pause', 'resume', 'resize', 'renege']
        : ['write', 'write', 'write', 'read', 'pause', 'resume'],
      simple ? ['close', 'abort', 'vanish'] : ['close', 'abort'],
    ),
  };
}

function actions(d: Dice, budget: number, spanMs: number, ops: readonly Op[], ends: readonly Op[]): Action[] {
  const out: Action[] = [];
  for (let n = d.pick([0, 1, 2, 4, 8]); n > 0; n--) {
    const op = d.pick(ops);
    out.push({
      at: d.skewed(0, spanMs),
      op,
      n: op === 'resize' ? d.pick([0, 1, 500, 5000, 100_000]) : d.skewed(1, budget),
    });
  }
  if (d.chance(0.6)) out.push({ at: d.skewed(0, spanMs), op: 'shutdown', n: 0 });
  else if (d.chance(0.3)) out.push({ at: d.skewed(0, spanMs), op: d.pick(ends), n: 0 });
  return out.sort((a, b) => a.at - b.at);
}

function faults(d: Dice, untilMs: number, long: boolean): FaultProfile {
  const rate = (p: number, most: number): number => (d.chance(p) ? d.skewed(1, most * 1000) / 1000 : 0);
  const spans = (p: number, lengths: readonly number[]): Span[] => {
    if (!d.chance(p)) return [];
    const from = d.below(Math.min(untilMs, 4000));
    return [[from, from + d.pick(lengths)]];
  };
  return {
    ...CLEAN,
    delayMs: d.pick([0.05, 0.5, 5, 20, 100]),
    jitterMs: d.chance(0.3) ? d.skewed(0, 2000) : 0,
    loss: rate(0.5, 0.2),
    burst: d.chance(0.25)
      ? { enter: 0.01 + d.below(100) / 2000, leave: 0.1 + d.below(100) / 250, loss: 0.8 }
      : undefined,
    dropNth: d.chance(0.2) ? [d.below(6), d.below(20), d.below(60)] : [],
    dropAcks: rate(0.2, 0.5),
    dropFins: d.chance(0.2) ? 1 + d.below(3) : 0,
    dropWindowUpdates: rate(0.2, 1),
    blackouts: long ? [[1000, 71_000]] : spans(0.1, [200, 1000]),
    reorder: rate(0.35, 0.5),
    reorderMs: d.pick([1, 10, 50, 300]),
    reverse: rate(0.2, 0.5),
    duplicate: rate(0.3, 0.3),
    duplicateMs: d.pick([0, 1, 100]),
    lateDuplicate: rate(0.2, 0.05),
    corrupt: rate(0.25, 0.1),
    bytesPerMs: d.chance(0.2) ? d.pick([200, 2000, 12_500]) : 0,
    queueBytes: d.chance(0.5) ? 200_000 : 0,
    stalls: spans(0.2, [50, 1000, 3000]),
    batchMs: d.chance(0.4) ? d.pick([0.2, 1, 5]) : 0,
    untilMs,
  };
}

/** Programs a step simpler than one that failed: half of the flows, a flow less, actions less, a fault less. */
export function* simpler(p: Program): Generator<Program> {
  const { flows } = p;
  if (flows.length > 1) {
    const half = flows.length >> 1;
    yield { ...p, flows: flows.slice(0, half) };
    yield { ...p, flows: flows.slice(half) };
    if (flows.length <= 4) for (const f of flows) yield { ...p, flows: flows.filter((g) => g !== f) };
  }
  for (const f of flows) {
    for (const side of ['host', 'guestActions'] as const) {
      const list = f[side];
      if (list.length === 0) continue;
      const half = Math.ceil(list.length / 2);
      for (const less of [list.slice(0, half), list.slice(half)]) {
        if (less.length < list.length) yield { ...p, flows: flows.map((g) => (g === f ? { ...f, [side]: less } : g)) };
      }
      if (list.length === 1) yield { ...p, flows: flows.map((g) => (g === f ? { ...f, [side]: [] } : g)) };
    }
    if (f.hostSlowMs > 0) yield { ...p, flows: flows.map((g) => (g === f ? { ...f, hostSlowMs: 0 } : g)) };
  }
  for (const side of ['toGuest', 'toHost'] as const) {
    const without = (change: Partial<FaultProfile>): Program => ({ ...p, [side]: { ...p[side], ...change } });
    for (const key of Object.keys(CLEAN) as (keyof FaultProfile)[]) {
      if (key === 'untilMs' || key === 'delayMs') continue;
      const now = p[side][key];
      const clean = CLEAN[key];
      if (JSON.stringify(now) !== JSON.stringify(clean)) yield without({ [key]: clean });
    }
  }
}
