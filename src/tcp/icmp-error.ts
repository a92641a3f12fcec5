// What an ICMP error that quotes one of our segments may do to a connection: RFC 9293 3.9.2.2, RFC 5927, RFC 1191. Most do nothing.

import type { Millis } from '../base/clock.ts';
import type { Connection } from './connection.ts';
import { CloseReason } from './flow.ts';
import { limitMss } from './handshake.ts';
import { markAllLost } from './output.ts';
import { type Seq, seqGeq, seqLt } from './seq.ts';
import { State } from './state.ts';

/** Kinds of error, of both families. */
export const IcmpError = { Soft: 0, Hard: 1, TooBig: 2 } as const;
export type IcmpError = (typeof IcmpError)[keyof typeof IcmpError];

/** RFC 1191 7.1: what an MTU of 0 in the message may mean; the next lower plateau. */
const PLATEAUS = [65_535, 32_000, 17_914, 8166, 4352, 2002, 1492, 1006, 508, 296];
/** Smallest path MTU believed. Deviation: RFC 1191 3 has 68; 552 as Linux, against forged messages (TCP-ICM-04). */
const MTU_FLOOR = 552;

/**
 * Takes an ICMP error from the guest.
 * @param seq sequence number of the quoted segment. @param mtu the next hop's MTU where `kind` is TooBig, 0 if it names none.
 * @param size total length of the quoted packet.
 */
export function icmpError(
  c: Connection,
  kind: IcmpError,
  seq: Seq,
  mtu: number,
  now: Millis,
  size: number = c.pathMss + 40,
): void {
  const { stats } = c.env;
  const handshake = c.state === State.SynSent || c.state === State.SynReceived;
  const end = c.sndNxt;
  if (!(seqGeq(seq, c.sndUna) && seqLt(seq, end))) {
    stats.icmpIgnored++;
    return;
  }
  if (kind === IcmpError.Hard && c.state === State.SynSent) {
    stats.icmpAccepted++;
    c.close(CloseReason.Unreachable, true);
    return;
  }
  if (kind !== IcmpError.TooBig || handshake) {
    stats.icmpIgnored++;
    return;
  }
  const current = c.pathMss + 40;
  let path = mtu === 0 ? (PLATEAUS.find((p) => p < Math.max(size, current)) ?? MTU_FLOOR) : mtu;
  path = Math.max(path, MTU_FLOOR);
  if (path >= current) {
    stats.icmpIgnored++;
    return;
  }
  stats.icmpAccepted++;
  c.pathMss = path - 40;
  limitMss(c);
  // What was too big is sent again at once, in smaller pieces; the window is not cut for it (RFC 1191 6.4).
  if (c.sent.count > 0) markAllLost(c, false);
  c.lastSendAt = now;
  c.env.wake(c);
}
