// What the simple peer's TCP is made of besides its connections: options, the border to its machine, the arithmetic of offsets,
// and ranges that arrived before their turn.

import { FIN, type Segment } from '../helpers/peer-frame.ts';
import { fail, type Pair } from './ends.ts';
import type { SimpleConnection } from './simple-connection.ts';
import type { Timeline } from './timeline.ts';

export interface PeerTcpOptions {
  sack: boolean;
  dsack: boolean;
  ts: boolean;
  /** Window scale offered; -1: none. */
  shift: number;
  mss: number;
  rcvBuf: number;
  /** Most bytes in flight. */
  cwnd: number;
  /** Segments per acknowledgement; with more than one, 40 ms of delay. */
  ackEvery: number;
  fastRetransmit: boolean;
  /** Window probes carry a byte. */
  probeByte: boolean;
}

/** What a connection asks of its machine. */
export interface PeerMachine {
  readonly timeline: Timeline;
  /** @param seq, ack any integers, taken modulo 2^32. */
  transmit(c: SimpleConnection, flags: number, seq: number, ack: number, fields: SegmentFields): void;
}

export interface SegmentFields {
  win: number;
  mss?: number;
  ws?: number;
  sackOk?: boolean;
  ts?: readonly [number, number];
  sack?: readonly (readonly [number, number])[];
  payload?: Uint8Array;
}

/** The offset nearest to `near` that is `wire` modulo 2^32 behind `isn`. */
export function unwrap(wire: number, isn: number, near: number): number {
  return near + ((wire - ((isn + near) | 0)) | 0);
}

/** RFC 2018, RFC 2883: blocks name what was sent (up to `max`), above the acknowledgement but for a duplicate in front. */
export function checkSack(label: string, s: Segment, isn: number, ack: number, max: number): void {
  s.sack.forEach(([l, r], i) => {
    const left = unwrap(l, isn, ack);
    const right = unwrap(r, isn, ack);
    if (left >= right || right > max) fail(`${label}: SACK ${left}:${right} of 0:${max}`);
    if (i > 0 && left <= ack) fail(`${label}: SACK ${left}:${right} at ack ${ack}`);
  });
}

/** What a segment carries at offset `off` is what the host has written there, and its FIN is where the host's bytes end. */
export function checkText(label: string, pair: Pair, s: Segment, off: number): void {
  if (off < 1) {
    if (s.payload.length > 0) fail(`${label}: data at offset ${off}`);
    return;
  }
  const writer = pair.host;
  const bad = pair.toGuest.differs(s.payload, 0, s.payload.length, off - 1);
  if (bad >= 0) fail(`${label}: byte ${bad} on the wire is not what was sent`);
  if (writer === undefined || off - 1 + s.payload.length > writer.written) {
    fail(`${label}: segment with bytes that were never written`);
  }
  const finAt = off + s.payload.length;
  if (s.flags & FIN && (!writer.shut || writer.written + 1 !== finAt)) {
    fail(`${label}: FIN at ${finAt}, ${writer.written} bytes written, ${writer.shut ? '' : 'not '}shut`);
  }
}

/** Ranges beyond a hole: a sorted list of [left, right), joined where they touch. */
export class HeldRanges {
  list: [number, number][] = [];

  has(left: number, right: number): boolean {
    return this.list.some(([l, r]) => l <= left && right <= r);
  }

  add(left: number, right: number): void {
    const apart = this.list.filter(([l, r]) => r < left || l > right);
    const joined = this.list.filter(([l, r]) => r >= left && l <= right);
    const whole: [number, number] = [
      Math.min(left, ...joined.map(([l]) => l)),
      Math.max(right, ...joined.map(([, r]) => r)),
    ];
    this.list = [...apart, whole].sort((a, b) => a[0] - b[0]);
  }

  /** Removes what is in order from `next` on. @returns its end. */
  takeFrom(next: number): number {
    while (this.list.length > 0 && this.list[0]![0] <= next) next = Math.max(next, this.list.shift()![1]);
    return next;
  }

  clear(): void {
    this.list = [];
  }
}
