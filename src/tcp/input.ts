// A segment has arrived for a connection: RFC 9293 3.10.7, in its order, with RFC 5961 (blind attacks), RFC 7323 (PAWS) and
// RFC 1337 (TIME-WAIT). Nothing is sent and nobody is called from here but answers that stand for this one segment; the rest
// happens at the end of the turn.

import { type Millis, NEVER } from '../base/clock.ts';
import type { Connection } from './connection.ts';
import { CloseReason } from './flow.ts';
import { limitMss, takeSyn } from './handshake.ts';
import { challengeAck, markAllLost, sendReset, sendSynAck } from './output.ts';
import { onAck } from './recovery.ts';
import { FLAG_ACK, FLAG_FIN, FLAG_RST, FLAG_SYN, type SegmentView } from './segment.ts';
import { type Seq, seqAdd, seqGeq, seqGt, seqLeq, seqLt } from './seq.ts';
import { canReceive, EVENT_ESTABLISHED, EVENT_READABLE, EVENT_WRITABLE, State } from './state.ts';
import { timeWait } from './time-wait.ts';
import { Verdict } from './verdict.ts';

/** RFC 9293 3.10.7 for one segment of a known connection. */
export function input(c: Connection, seg: SegmentView, now: Millis): Verdict {
  c.lastRecvAt = now;
  c.keepaliveProbes = 0;
  c.env.stats.segmentsFromGuest++;
  switch (c.state) {
    case State.Closed:
      return Verdict.Done;
    case State.SynPending:
      return synPending(c, seg, now);
    case State.SynSent:
      return synSent(c, seg, now);
    case State.TimeWait:
      return timeWait(c, seg, now);
    case State.SynReceived:
      return synReceived(c, seg, now);
    default:
      return synchronized(c, seg, now);
  }
}

/** Our own state: the host is being dialled, the guest has heard nothing. */
function synPending(c: Connection, seg: SegmentView, now: Millis): Verdict {
  if (seg.flags & FLAG_RST) {
    if (seg.segSeq === c.rcvNxt || seg.segSeq === c.irs) {
      c.env.stats.resetsFromGuest++;
      c.close(CloseReason.GuestReset, true);
    }
    return Verdict.Done;
  }
  if (seg.flags & FLAG_ACK) return Verdict.Reset;
  // The same SYN again waits with the first; another ISN is a guest that started anew, and takes its place (TCP-SYN-02, -15).
  if ((seg.flags & (FLAG_SYN | FLAG_FIN)) === FLAG_SYN && seg.segSeq !== c.irs) takeSyn(c, seg, now);
  return Verdict.Done;
}

/** RFC 9293 3.10.7.3: a published port's SYN is out. */
function synSent(c: Connection, seg: SegmentView, now: Millis): Verdict {
  const ackOk = (seg.flags & FLAG_ACK) !== 0 && seg.segAck === c.sndNxt;
  if (seg.flags & FLAG_ACK && !ackOk) return seg.flags & FLAG_RST ? Verdict.Done : Verdict.Reset;
  if (seg.flags & FLAG_RST) {
    if (ackOk) {
      c.env.stats.resetsFromGuest++;
      c.close(CloseReason.Refused, true);
    }
    return Verdict.Done;
  }
  if (!(seg.flags & FLAG_SYN)) return Verdict.Done;
  takeSyn(c, seg, now);
  c.sndWl2 = c.sndUna;
  if (!ackOk) {
    // Simultaneous open: SYN-ACK with our original ISN.
    c.state = State.SynReceived;
    c.rtoDeadline = now + c.rtt.rto;
    sendSynAck(c, now);
    return Verdict.Done;
  }
  c.sndUna = seg.segAck;
  c.sndWl2 = seg.segAck;
  sampleHandshake(c, now);
  // The window that a SYN-ACK shows is ours to announce anew, scaled now.
  establish(c, now);
  c.ackNow = true;
  return Verdict.Done;
}

function synReceived(c: Connection, seg: SegmentView, now: Millis): Verdict {
  if ((seg.flags & (FLAG_SYN | FLAG_ACK | FLAG_RST | FLAG_FIN)) === FLAG_SYN) {
    // The same SYN: our SYN-ACK was lost (TCP-SYN-03). Another ISN: the guest opens anew (TCP-SYN-15).
    if (seg.segSeq === c.irs) {
      c.retransmits++;
      c.env.stats.retransmits++;
      sendSynAck(c, now);
      return Verdict.Done;
    }
    if (!c.active) {
      c.close(CloseReason.GuestReset, true);
      return Verdict.NewSyn;
    }
  }
  // Simultaneous open (RFC 9293 3.5, figure 8): their SYN-ACK lies left of the window, and acknowledges our SYN.
  const synAck = FLAG_SYN | FLAG_ACK;
  if (c.active && (seg.flags & (synAck | FLAG_RST)) === synAck && seg.segSeq === c.irs && seg.segAck === c.sndNxt) {
    c.sndUna = seg.segAck;
    c.sndWnd = seg.segWnd;
    c.sndWl2 = seg.segAck;
    establish(c, now);
    c.ackNow = true;
    return Verdict.Done;
  }
  return synchronized(c, seg, now);
}

/** SYN-RECEIVED and everything after it but TIME-WAIT. */
function synchronized(c: Connection, seg: SegmentView, now: Millis): Verdict {
  const { stats } = c.env;
  const wnd = Math.max(0, (c.rcvAdv - c.rcvNxt) | 0);

  // PAWS, RFC 7323 5.3 R1. RST is exempt; TS.Recent is void after 24 days of idleness.
  // Deviation: a segment that lacks the agreed timestamp is taken (RFC 7323 3.2 SHOULD drop): some guests leave it out (TCP-OPT-16).
  if (c.tsOk && seg.hasTs && ((seg.tsVal - c.tsRecent) | 0) < 0 && !(seg.flags & FLAG_RST)) {
    if (now - c.tsRecentAt < c.env.limits.pawsIdleMs) {
      stats.pawsRejected++;
      answer(c, seg, now);
      return Verdict.Done;
    }
  }

  // First: the sequence number.
  // Deviation: an empty segment exactly at the right edge is taken, or two stacks might answer each other for ever (TCP-SEQ-02).
  const left = (seg.segSeq - c.rcvNxt) | 0;
  const segLen = seg.segLen;
  const acceptable = segLen === 0 ? left >= 0 && left <= wnd : left < wnd && left + segLen > 0;
  if (seg.flags & FLAG_RST) {
    // Second: RST, by its sequence number alone (RFC 5961 3.2, RFC 9293 MUST-66).
    const beyondSack =
      c.sackOk && c.assembler !== undefined && c.assembler.count > 0 && seg.segSeq === c.assembler.rightmost;
    if (left === 0 || beyondSack) {
      stats.resetsFromGuest++;
      c.close(c.state === State.SynReceived && c.active ? CloseReason.Refused : CloseReason.GuestReset, true);
    } else if (left > 0 && left < wnd) challengeAck(c, now);
    return Verdict.Done;
  }
  const bareFin = segLen === 1 && (seg.flags & FLAG_FIN) !== 0 && left === 0;
  if (!acceptable && !bareFin) {
    // A closed window does not stop acknowledgements (RFC 9293 MUST-66), nor does data that is partly beyond it.
    stats.outOfWindow++;
    if (left < 0 && left + segLen <= 0 && seg.payloadLen > 0) noteDuplicate(c, seg);
    if (seg.flags & FLAG_ACK && !(seg.flags & FLAG_SYN) && (left === 0 || (left > 0 && left <= wnd)))
      takeAckOnly(c, seg, now);
    answer(c, seg, now);
    return Verdict.Done;
  }

  // Fourth: SYN, RFC 5961 4.2.
  if (seg.flags & FLAG_SYN) {
    challengeAck(c, now);
    return Verdict.Done;
  }

  // Fifth: ACK.
  if (!(seg.flags & FLAG_ACK)) return Verdict.Done;
  if (c.state === State.SynReceived) {
    if (seg.segAck !== c.sndNxt) return Verdict.Reset;
    completeHandshake(c, seg, now);
  } else if (seqGt(seg.segAck, c.sndNxt)) {
    // Not sent yet: an ACK in answer, and nothing of the segment is used (TCP-SEQ-05).
    answer(c, seg, now);
    return Verdict.Done;
  } else if (seqLt(seg.segAck, seqAdd(c.sndUna, -c.sndWndMax))) {
    challengeAck(c, now);
    return Verdict.Done;
  }
  takeTimestamp(c, seg, now);
  takeAck(c, seg, now);
  if ((c.state as State) === State.Closed) return Verdict.Done;

  // Nobody is left to read it: a clean end would be a lie (RFC 1122 4.2.2.13, TCP-FIN-08).
  if (c.orphaned && seg.payloadLen > 0 && seqGt(seqAdd(seg.segSeq, seg.payloadLen), c.rcvNxt)) {
    sendReset(c, now);
    c.close(CloseReason.HostReset, true);
    return Verdict.Done;
  }

  // Sixth: URG is data like other data (RFC 6093). Seventh: the text; eighth: FIN.
  if (seg.payloadLen > 0 || seg.flags & FLAG_FIN) {
    if (canReceive(c.state)) takeText(c, seg, wnd, now);
    // RFC 9293: text and FIN after the FIN are ignored, but acknowledged.
    else c.ackNow = true;
  }
  c.env.wake(c);
  return Verdict.Done;
}

/** An ACK in answer to an unacceptable segment: always for one with data, at a limited rate otherwise (TCP-SEQ-10). */
function answer(c: Connection, seg: SegmentView, now: Millis): void {
  // One that merely probes (keepalive, window probe: SEG.SEQ = RCV.NXT-1) is answered every time as well.
  if (seg.flags & FLAG_SYN) challengeAck(c, now);
  else if (seg.payloadLen > 0 || seg.flags & FLAG_FIN || seg.segSeq === seqAdd(c.rcvNxt, -1)) {
    c.ackNow = true;
    c.env.wake(c);
  } else challengeAck(c, now);
}

/** RFC 7323 4.3 (2): only from segments that do not lie beyond what was acknowledged. */
function takeTimestamp(c: Connection, seg: SegmentView, now: Millis): void {
  if (!c.tsOk || !seg.hasTs || seqGt(seg.segSeq, c.lastAckSent)) return;
  // After 24 idle days TS.Recent is void: whatever comes takes its place (RFC 7323 5.5).
  if (((seg.tsVal - c.tsRecent) | 0) >= 0 || now - c.tsRecentAt >= c.env.limits.pawsIdleMs) {
    c.tsRecent = seg.tsVal;
    c.tsRecentAt = now;
  }
}

function completeHandshake(c: Connection, seg: SegmentView, now: Millis): void {
  c.sndUna = seg.segAck;
  c.sndWnd = seg.segWnd << c.sndWndShift;
  c.sndWndMax = Math.max(c.sndWndMax, c.sndWnd);
  c.sndWl1 = seg.segSeq;
  c.sndWl2 = seg.segAck;
  sampleHandshake(c, now);
  establish(c, now);
}

/** A SYN or SYN-ACK that was sent once gives the first sample (Karn); after one that timed out data starts at 3 s (RFC 6298 5.7). */
function sampleHandshake(c: Connection, now: Millis): void {
  // After several losses of the SYN-ACK the initial window is one segment (RFC 5681 3.1, RFC 6928 2).
  if (c.synTries > 1) c.cc.cwnd = c.effSndMss;
  if (c.synTries > 0) c.rtt.rto = c.env.limits.rtoAfterSynLossMs;
  else if (c.retransmits === 0) c.rtt.sample(now - c.lastSendAt, now);
}

function establish(c: Connection, now: Millis): void {
  c.state = State.Established;
  c.rtoDeadline = NEVER;
  c.synTries = 0;
  c.opened();
  c.env.stats.established++;
  limitMss(c);
  // More than the SYN's unscaled field could say is offered from the next segment on.
  if (c.wndScaleOk) c.rcv.raise(4 * c.linkMss);
  c.events |= EVENT_ESTABLISHED | EVENT_WRITABLE;
  if (c.env.limits.keepaliveIdleMs > 0) c.keepaliveDeadline = now + c.env.limits.keepaliveIdleMs;
  c.env.wake(c);
}

/** The ACK and window of a segment whose text cannot be taken. */
function takeAckOnly(c: Connection, seg: SegmentView, now: Millis): void {
  if (c.state === State.SynReceived || seqGt(seg.segAck, c.sndNxt) || seqLt(seg.segAck, seqAdd(c.sndUna, -c.sndWndMax)))
    return;
  takeAck(c, seg, now);
}

/** RFC 9293 3.10.7.4 "fifth": SND.UNA, the window by WL1 and WL2, and what our FIN's acknowledgement changes. */
function takeAck(c: Connection, seg: SegmentView, now: Millis): void {
  const ack = seg.segAck;
  c.probesUnanswered = 0;
  const wnd = seg.segWnd << c.sndWndShift;
  const outstanding = c.sent.count > 0;
  if (seqGeq(ack, c.sndUna)) {
    const duplicate = ack === c.sndUna && outstanding && seg.segLen === 0 && wnd === c.sndWnd;
    const finAcked = c.finSent && seqGt(ack, c.finSeq);
    const advances = ack !== c.sndUna;
    if (advances || seg.sackCount > 0 || duplicate) {
      const data = Math.min((ack - c.sndUna) | 0, c.snd.used);
      onAckAndAdvance(c, seg, ack, duplicate, data, now);
    }
    // RFC 9293: an older segment must not bring its window back.
    // Deviation: one that acknowledges more than any before is not older, though a guest that went back to resend numbers it
    // lower; by WL1 alone its window would stay unknown until it has caught up (TCP-SEQ-09).
    if (advances || seqLt(c.sndWl1, seg.segSeq) || (c.sndWl1 === seg.segSeq && seqLeq(c.sndWl2, ack))) {
      takeWindow(c, wnd);
      c.sndWl1 = seg.segSeq;
      c.sndWl2 = ack;
    }
    if (finAcked) onFinAcked(c, now);
  }
}

function onAckAndAdvance(
  c: Connection,
  seg: SegmentView,
  ack: Seq,
  duplicate: boolean,
  data: number,
  now: Millis,
): void {
  const acked = onAck(c, seg, ack, duplicate, now);
  if (acked <= 0) return;
  c.persistBackoff = 0;
  if (data > 0) {
    c.snd.ack(data);
    if (c.wantWritable) c.events |= EVENT_WRITABLE;
  }
}

function takeWindow(c: Connection, wnd: number): void {
  const was = c.sndWnd;
  c.sndWnd = wnd;
  if (wnd > c.sndWndMax) {
    c.sndWndMax = wnd;
    limitMss(c);
  }
  if (was === 0 && wnd > 0) {
    c.persistDeadline = NEVER;
    c.persistBackoff = 0;
    // The window had been shrunk over these bytes, so they were most likely refused (TCP-FCS-05).
    if (c.sent.count > 0) markAllLost(c, false);
  }
}

/** RFC 9293 3.10.7.4: FIN-WAIT-1, CLOSING and LAST-ACK move on. */
function onFinAcked(c: Connection, now: Millis): void {
  if (c.state === State.FinWait1) {
    c.state = State.FinWait2;
    if (c.orphaned) c.lifeDeadline = now + c.env.limits.finWait2Ms;
  } else if (c.state === State.Closing) enterTimeWait(c, now);
  else if (c.state === State.LastAck) c.close(CloseReason.Done, true);
}

function enterTimeWait(c: Connection, now: Millis): void {
  c.clearTimers();
  c.state = State.TimeWait;
  c.lifeDeadline = now + c.env.limits.timeWaitMs;
  c.sent.clear();
  c.env.timeWait(c);
  c.finish();
}

/** RFC 9293 3.10.7.4 "seventh" and "eighth": in order it goes to the ring, beyond a hole to its place there. */
function takeText(c: Connection, seg: SegmentView, wnd: number, now: Millis): void {
  const { stats } = c.env;
  let seq = seg.segSeq;
  let off = seg.payloadOff;
  let len = seg.payloadLen;
  let fin = (seg.flags & FLAG_FIN) !== 0;
  if (len > c.rcvMss) c.rcvMss = Math.min(len, c.linkMss);
  const old = (c.rcvNxt - seq) | 0;
  if (old > 0) {
    // Trim what was had before; the rest counts (TCP-SEQ-04).
    noteDuplicate(c, seg);
    if (old > len) fin = false;
    const cut = Math.min(old, len);
    off += cut;
    len -= cut;
    seq = seqAdd(seq, cut);
    if (len === 0 && !fin) return;
  }
  const at = (seq - c.rcvNxt) | 0;
  if (at + len > wnd) {
    // Beyond the window: refused, and with it a FIN behind it.
    len = Math.max(0, wnd - at);
    fin = false;
    c.ackNow = true;
    if (len === 0) return;
  }
  // Bytes beyond a FIN already seen are nobody's.
  if (c.finSeen) {
    const room = (c.finAt - seq) | 0;
    if (len > room) len = Math.max(0, room);
    if (len === 0 && !fin) {
      c.ackNow = true;
      return;
    }
  }
  if (fin && !c.finSeen) {
    c.finSeen = true;
    c.finAt = seqAdd(seq, len);
    // What came before it from beyond it is nobody's, too (TCP-ASM-04).
    c.assembler?.truncate(c.finAt);
    c.rcv.truncate((c.finAt - c.rcvNxt) | 0);
  }
  if (len > 0) {
    if (at === 0 && (c.assembler === undefined || c.assembler.count === 0)) {
      if (!c.rcv.store(0, seg.buf, off, len)) {
        refuseText(c);
        return;
      }
      c.rcv.advance(len);
      c.rcvNxt = seqAdd(c.rcvNxt, len);
      stats.bytesFromGuest += len;
      c.ackPending = true;
      c.unackedSegs++;
      c.events |= EVENT_READABLE;
    } else if (!takeOutOfOrder(c, seg, seq, at, off, len)) {
      refuseText(c);
      return;
    }
  }
  if (c.finSeen && !c.finReceived) {
    c.ackNow = true;
    if (c.finAt === c.rcvNxt) takeFin(c, now);
  }
}

/** No memory for it: not acknowledged, so the guest sends it again (windows close, nothing dies). */
function refuseText(c: Connection): void {
  c.env.stats.noMemory++;
  c.ackNow = true;
  if (c.finSeen && !c.finReceived) c.finSeen = false;
}

/** RFC 2018, RFC 9293 SHLD-31: kept at its place; of bytes that arrive twice the first arrival counts (TCP-ASM-03). */
function takeOutOfOrder(c: Connection, seg: SegmentView, seq: Seq, at: number, off: number, len: number): boolean {
  const a = c.assemble();
  const end = seqAdd(seq, len);
  if (at > 0) c.env.stats.outOfOrder++;
  const wasFirstMissing = a.firstMissing(seq, end);
  if (wasFirstMissing === end) noteDuplicateRange(c, seq, end);
  // Only what is missing is written: no later copy overwrites an earlier one.
  let from = wasFirstMissing;
  while (seqLt(from, end)) {
    const to = nextHeld(c, from, end);
    if (!c.rcv.store((from - c.rcvNxt) | 0, seg.buf, off + ((from - seq) | 0), (to - from) | 0)) return false;
    // What is next in order needs no place in the table, which may be full of what lies beyond it.
    if (from === c.rcvNxt) {
      c.rcv.advance((to - from) | 0);
      c.rcvNxt = to;
      c.env.stats.bytesFromGuest += (to - from) | 0;
      c.events |= EVENT_READABLE;
    } else if (!a.add(from, to)) return false;
    from = a.firstMissing(to, end);
  }
  c.ackNow = true;
  const got = a.advance(c.rcvNxt);
  if (got > 0) {
    c.rcv.advance(got);
    c.rcvNxt = seqAdd(c.rcvNxt, got);
    c.env.stats.bytesFromGuest += got;
    c.events |= EVENT_READABLE;
    if (a.count === 0) c.assembler = undefined;
  } else if (at > 0 && a.count > 0) a.recent = a.edges[2 * Math.max(0, a.find(seq))]!;
  return true;
}

/** Where the next held range begins, from the missing byte `from` on, up to `end`. */
function nextHeld(c: Connection, from: Seq, end: Seq): Seq {
  const a = c.assemble();
  for (let i = 0; i < a.count; i++) {
    const left = a.edges[2 * i]!;
    if (seqGt(left, from)) return seqLt(left, end) ? left : end;
  }
  return end;
}

function noteDuplicate(c: Connection, seg: SegmentView): void {
  const end = seqAdd(seg.segSeq, seg.payloadLen);
  noteDuplicateRange(c, seg.segSeq, seqLt(end, c.rcvNxt) ? end : c.rcvNxt);
}

/** RFC 2883: reported with the next ACK, which is due now. */
function noteDuplicateRange(c: Connection, left: Seq, right: Seq): void {
  c.ackNow = true;
  if (!seqLt(left, right)) return;
  c.env.stats.duplicates++;
  if (!c.sackOk) return;
  c.dsackLeft = left;
  c.dsackRight = right;
}

/** RFC 9293 3.10.7.4 "eighth". */
function takeFin(c: Connection, now: Millis): void {
  c.finReceived = true;
  c.rcvNxt = seqAdd(c.rcvNxt, 1);
  if (seqLt(c.rcvAdv, c.rcvNxt)) c.rcvAdv = c.rcvNxt;
  c.assembler = undefined;
  c.events |= EVENT_READABLE;
  if (c.state === State.Established) c.state = State.CloseWait;
  else if (c.state === State.FinWait1) c.state = State.Closing;
  else if (c.state === State.FinWait2) enterTimeWait(c, now);
}
