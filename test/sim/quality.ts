// How well a sender of ours does over a lossy path: goodput over a span of virtual time, with the link between it and a receiver
// made of named faults. What a run says is exact for a seed; results are means over several.

import { CLEAN, type FaultProfile } from './faulty-link.ts';
import type { GuestPlan, Program } from './program.ts';
import { World } from './world.ts';

export interface QualityCase {
  /** The sender's side: `host` sends to the guest, `guest` (the embedded one) to the host. */
  sender: 'host' | 'guest';
  receiver: GuestPlan['kind'];
  congestion: 'cubic' | 'new-reno';
  sack: boolean;
  /** Each way. */
  loss: number;
  rttMs: number;
  /** Of the bottleneck; 0: none. */
  mbitPerS: number;
  mtu: number;
}

const WARM_UP_MS = 2000;

/** A program of one flow that carries `bytes` one way over the path of a case. */
export function pathProgram(c: QualityCase, seed: number, bytes: number, faults: Partial<FaultProfile> = {}): Program {
  const path: FaultProfile = {
    ...CLEAN,
    delayMs: c.rttMs / 2,
    loss: c.loss,
    bytesPerMs: c.mbitPerS * 125,
    // One bandwidth-delay product of queue, and some for small ones.
    queueBytes: Math.max(c.mbitPerS * 125 * c.rttMs, 64_000),
  };
  const bottleneck = { ...path, ...faults };
  const acks = { ...path, bytesPerMs: 0 };
  const write = [{ at: 0, op: 'write' as const, n: bytes }];
  return {
    seed,
    mtu: c.mtu,
    memoryBytes: 64 * 1024 * 1024,
    limits: {
      rcvBufMax: 4 * 1024 * 1024,
      rcvBufInitial: 65_536,
      sndBufMax: 4 * 1024 * 1024,
      oooRanges: 128,
      congestion: c.congestion,
    },
    guests: [
      {
        kind: c.receiver,
        tcp: {
          sack: c.sack,
          dsack: c.sack,
          ts: true,
          shift: 8,
          mss: c.mtu - 40,
          rcvBuf: 4 * 1024 * 1024,
          cwnd: 1_000_000,
          ackEvery: 1,
          fastRetransmit: true,
          probeByte: false,
        },
      },
    ],
    flows: [
      {
        id: 0,
        guest: 0,
        opener: 'guest',
        at: 10,
        dial: { kind: 'accept', afterMs: 0 },
        guestIsn: seed * 7919,
        hostIsn: seed * 104_729,
        hostSlowMs: 0,
        hostLends: true,
        host: c.sender === 'host' ? write : [],
        guestActions: c.sender === 'guest' ? write : [],
      },
    ],
    toGuest: c.sender === 'host' ? bottleneck : acks,
    toHost: c.sender === 'host' ? acks : bottleneck,
    endMs: 10_000_000,
  };
}

/** Mbit/s of payload delivered over `ms` after a warm-up, for one seed. */
export function goodput(c: QualityCase, seed: number, ms: number): number {
  const world = new World(pathProgram(c, seed, 400_000_000), 0);
  world.maxEvents = Number.POSITIVE_INFINITY;
  const received = (): number => {
    const { pair } = world.runs[0]!;
    return (c.sender === 'host' ? pair.guest?.received : pair.host?.received) ?? 0;
  };
  const start = world.timeline.now;
  world.runUntil(start + WARM_UP_MS);
  const before = received();
  world.runUntil(start + WARM_UP_MS + ms);
  return ((received() - before) * 8) / ms / 1000;
}

/** Virtual ms from the first byte handed over to the last one read, for one burst of `bytes`. */
export function burstTime(c: QualityCase, bytes: number, faults: Partial<FaultProfile>): { ms: number; world: World } {
  const world = new World(pathProgram(c, 1, bytes, faults), 0);
  const start = world.timeline.now;
  let begun = 0;
  for (let t = start; t < start + 60_000; t += 0.5) {
    world.runUntil(t);
    const { pair } = world.runs[0]!;
    const [writer, reader] = c.sender === 'host' ? [pair.host, pair.guest] : [pair.guest, pair.host];
    if (begun === 0 && writer?.established && writer.written > 0) begun = t;
    if (begun > 0 && reader?.received === bytes) return { ms: t - begun, world };
  }
  return { ms: Number.POSITIVE_INFINITY, world };
}
