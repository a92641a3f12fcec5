// Segments for a connection in TIME-WAIT: what restarts it, what opens the next one, what is answered.

import type { Millis } from '../base/clock.ts';
import type { Connection } from './connection.ts';
import { CloseReason } from './flow.ts';
import { challengeAck } from './output.ts';
import { FLAG_ACK, FLAG_FIN, FLAG_RST, FLAG_SYN, type SegmentView } from './segment.ts';
import { seqAdd, seqGt } from './seq.ts';
import { Verdict } from './verdict.ts';

/** RFC 9293 3.10.7.4 TIME-WAIT, RFC 6191, RFC 1337. */
export function timeWait(c: Connection, seg: SegmentView, now: Millis): Verdict {
  // Deviation: RFC 9293 lets RST end TIME-WAIT; RFC 1337 shows how an old one kills the next connection, so it is ignored (TCP-TW-05).
  if (seg.flags & FLAG_RST) return Verdict.Done;
  if ((seg.flags & (FLAG_SYN | FLAG_ACK | FLAG_FIN)) === FLAG_SYN) {
    const newerTs = c.tsOk && seg.hasTs && ((seg.tsVal - c.tsRecent) | 0) > 0;
    if (newerTs || seqGt(seg.segSeq, c.rcvNxt)) {
      c.env.stats.timeWaitReused++;
      c.close(CloseReason.Done, true);
      return Verdict.NewSyn;
    }
    challengeAck(c, now);
    return Verdict.Done;
  }
  // RFC 9293 3.10.7.4 "fifth": nothing without ACK is answered, unless its sequence number is wrong already.
  if (!(seg.flags & FLAG_ACK) && seg.segSeq === c.rcvNxt) return Verdict.Done;
  if (seg.flags & FLAG_FIN && seqAdd(seg.segSeq, seg.payloadLen + 1) === c.rcvNxt)
    c.lifeDeadline = now + c.env.limits.timeWaitMs;
  if (seg.segLen > 0 || seg.segSeq !== c.rcvNxt || seg.segAck !== c.sndNxt) {
    c.ackNow = true;
    c.env.wake(c);
  }
  return Verdict.Done;
}
