// What a connection is given to live in, and where its segments go: implemented by the stack (and by the embedded guest). Types only.

import type { Millis } from '../base/clock.ts';
import type { Slab } from '../base/slab.ts';
import type { Connection } from './connection.ts';
import type { RefuseReason } from './flow.ts';
import type { TcpLimits } from './limits.ts';
import type { Seq } from './seq.ts';
import type { TcpStats } from './stats.ts';
import type { WindowBudget } from './window-budget.ts';

/** Where segments go: the stack's egress. */
export interface SegmentSink {
  /**
   * Room for a TCP header, options and payload of `len` bytes together.
   * @returns the offset of the TCP header in the slab's memory, or -1 if the link does not drain; the connection is then
   *   woken again when it does.
   */
  reserve(c: Connection, len: number): number;
  /** Sends what was written there: fills in the TCP checksum and the headers below. */
  commit(c: Connection, off: number, len: number): void;
  /**
   * Room for up to `count` segments of `len` bytes each, the first at `runOffset`. A sink without it is asked segment by segment.
   * @returns how many; 0 if the link does not drain.
   */
  reserveRun?(c: Connection, len: number, count: number): number;
  readonly runOffset?: number;
  /** Whether new data may join what is on its way; if not, the connection is woken when it may. Without it: always. */
  mayQueue?(c: Connection): boolean;
  /**
   * Sends `count` segments of `mss` bytes from SND.NXT on. The TCP header of the first, `headerLen` bytes with options and checksum 0, is
   * at `off`; the others get the same with their own sequence number.
   */
  commitRun?(c: Connection, off: number, headerLen: number, mss: number, count: number, lastFlags: number): void;
  /** ICMP unreachable instead of a reset, for a SYN that the host could not follow. */
  unreachable(c: Connection, reason: RefuseReason, now: Millis): void;
}

/** What all connections of a stack share. */
export interface TcpEnv {
  readonly slab: Slab;
  readonly limits: TcpLimits;
  readonly stats: TcpStats;
  readonly windows: WindowBudget;
  readonly sink: SegmentSink;
  /** Puts the connection on the list of those whose `turn` is due; idempotent. */
  wake(c: Connection): void;
  /** The connection is over: take it out of the flow table. */
  gone(c: Connection): void;
  /** Tells the deadline queue that this connection's deadline may have changed. */
  arm(c: Connection): void;
  /** Initial sequence number for this 4-tuple (RFC 6528). */
  isn(c: Connection, now: Millis): Seq;
  /** Entry into TIME-WAIT: their number is capped, the oldest goes first. */
  timeWait(c: Connection): void;
  /** No longer an open in progress (pending, SYN-SENT or SYN-RECEIVED). */
  opened(c: Connection): void;
}
