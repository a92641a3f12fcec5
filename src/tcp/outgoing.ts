// What segments on their way out have in common, one by one or in runs: the window and acknowledgement they carry, the SACK blocks, what is
// in flight before them. RFC 9293 3.8.6, RFC 6675 4.

import { NEVER } from '../base/clock.ts';
import { initialWindow } from './congestion.ts';
import type { Connection } from './connection.ts';
import { seqAdd } from './seq.ts';
import { Recovery } from './state.ts';

/** Bytes believed to be in the network (RFC 6675 4), FIN included. */
export function pipe(c: Connection): number {
  const out = (c.sndNxt - c.sndUna) | 0;
  if (c.sackOk) return out - c.sackedBytes - c.lostBytes;
  // Without SACK each duplicate ACK stands for one segment that has left (RFC 5681 3.2, RFC 3042).
  // After a time-out all of it counts as lost already.
  const left = c.recovery === Recovery.Loss ? 0 : Math.min(c.dupAcks * c.effSndMss, out);
  return Math.max(0, out - c.lostBytes - left);
}

// Deviation: RFC 5681 4.1 (SHOULD) has cwnd fall to the restart window after an idle RTO; this link loses nothing by congestion, so
// it is halved, and never below the initial window (TCP-CC-03).
export function restartIdle(c: Connection): void {
  c.cc.onIdle(Math.max(c.cc.cwnd / 2, initialWindow(c.effSndMss)));
}

/** The window field for the segment being built; the right edge it shows never moves left (RFC 9293 SHLD-14). */
export function selectWindow(c: Connection): number {
  const shift = c.rcvWndShift;
  const offered = Math.max(0, (c.rcvAdv - c.rcvNxt) | 0);
  let free = c.rcv.free;
  const worthwhile = Math.min(c.rcvMss, c.rcv.target >>> 1);
  // RFC 9293 3.8.6.2.2: no small pieces; zero is shown as zero.
  if (free < worthwhile || (free > offered && free - offered < worthwhile)) free = offered;
  let wnd = Math.min(free >>> shift, 0xffff);
  if (wnd << shift < offered) wnd = Math.min((offered + (1 << shift) - 1) >>> shift, 0xffff);
  c.rcvAdv = seqAdd(c.rcvNxt, wnd << shift);
  return wnd;
}

export function sackBlocks(c: Connection): number {
  if (!c.sackOk) return 0;
  const held = c.assembler === undefined ? 0 : c.assembler.count;
  const dsack = c.dsackLeft !== c.dsackRight ? 1 : 0;
  return Math.min(held + dsack, c.tsOk ? 3 : 4);
}

/** What was sent carries the acknowledgement of everything so far. */
export function acknowledged(c: Connection): void {
  c.lastAckSent = c.rcvNxt;
  c.ackPending = false;
  c.ackNow = false;
  c.unackedSegs = 0;
  c.delackDeadline = NEVER;
}
