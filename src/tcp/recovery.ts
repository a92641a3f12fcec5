// Loss recovery: what an acknowledgement says about what was sent. RFC 6675 (SACK), RFC 8985 (RACK-TLP), RFC 6582 (NewReno, for
// peers without SACK), RFC 6937 (PRR), RFC 3522 and 2883 (undo). It marks entries of the sent queue; output sends them again.

import { type Millis, NEVER } from '../base/clock.ts';
import type { Connection } from './connection.ts';
import { pipe } from './outgoing.ts';

import type { SegmentView } from './segment.ts';
import { SENT_LOST, SENT_RETRANS, SENT_SACKED } from './sent-queue.ts';
import { type Seq, seqAdd, seqGeq, seqGt, seqLeq, seqLt } from './seq.ts';
import { Recovery } from './state.ts';

/** RFC 5681: duplicates that mean a loss. */
const DUP_THRESH = 3;

/**
 * Takes an acceptable acknowledgement in: `ack` in [SND.UNA, SND.NXT], with the segment's SACK blocks.
 * @param duplicate a duplicate ACK by RFC 5681 2. @returns bytes newly acknowledged cumulatively (SYN and FIN included).
 */
export function onAck(c: Connection, seg: SegmentView, ack: Seq, duplicate: boolean, now: Millis): number {
  const acked = (ack - c.sndUna) | 0;
  const retransBefore = c.undoRetrans;
  let delivered = 0;
  if (acked > 0) {
    delivered = cumulative(c, seg, ack, now);
    c.sndUna = ack;
  }
  let dsack = false;
  let undoes = false;
  if (c.sackOk && seg.sackCount > 0) {
    dsack = isDsack(seg, ack);
    undoes = dsack && seqGeq(seg.sack[0]!, c.undoUna);
    delivered += selective(c, seg, dsack ? 1 : 0, now);
  }
  if (undoes && c.undoRetrans > 0) c.undoRetrans--;
  if (acked > 0) {
    delivered -= forgetDuplicates(c, ack, acked);
    c.backoffs = 0;
    // RFC 6582 3.2: kept just behind, so that an old one does not come round again.
    if (c.recovery === Recovery.Open) c.recover = seqAdd(ack, -1);
    c.rtoDeadline = c.sent.count > 0 ? now + c.rtt.rto : NEVER;
    c.ptoDeadline = NEVER;
    tailProbeAnswered(c, ack, dsack, now);
    if (spurious(c, seg, retransBefore, undoes)) undo(c);
  } else if (dsack && c.tlpOut && ack === c.tlpEnd) c.tlpOut = false;
  else if (duplicate) {
    c.dupAcks++;
    c.env.stats.duplicateAcks++;
    if (!c.sackOk) delivered = c.effSndMss;
    if (undoes && retransBefore > 0 && c.undoRetrans === 0) undo(c);
  }
  // RFC 6298 5.3 and Karn are served above; below, what is lost and how much may go.
  if (c.recovery !== Recovery.Open || c.sackedBytes > 0 || c.dupAcks > 0) detectLoss(c, acked > 0, now);
  if (c.recovery !== Recovery.Open && seqGeq(ack, c.recover) && acked > 0) leaveRecovery(c);
  if (c.recovery === Recovery.Fast) proportionalRate(c, delivered, acked > 0);
  else if (acked > 0 && (c.cwndLimited || c.recovery === Recovery.Loss))
    c.cc.onAck(acked, c.effSndMss, c.rtt.srtt, now);
  return acked;
}

/**
 * Without SACK each duplicate stood for one segment that had arrived. A partial acknowledgement takes with it those that stood
 * for its own segments, but for the one that was resent (RFC 6582 3.2, RFC 6937 3). @returns the bytes counted as delivered by them.
 */
function forgetDuplicates(c: Connection, ack: Seq, acked: number): number {
  if (c.sackOk || c.recovery !== Recovery.Fast || seqGeq(ack, c.recover)) {
    c.dupAcks = 0;
    return 0;
  }
  const mss = c.effSndMss;
  const own = Math.min(c.dupAcks, Math.max(0, Math.ceil(acked / mss) - 1));
  c.dupAcks -= own;
  return own * mss;
}

/** Removes what is cumulatively acknowledged. @returns bytes delivered by it that no SACK had reported before. */
function cumulative(c: Connection, seg: SegmentView, ack: Seq, now: Millis): number {
  const sent = c.sent;
  let delivered = 0;
  let start = c.sndUna;
  let sample = -1;
  let ambiguous = false;
  while (sent.count > 0) {
    const end = sent.endOf(0);
    const flags = sent.flags(0);
    const whole = seqLeq(end, ack);
    const len = ((whole ? end : ack) - start) | 0;
    if (len <= 0) break;
    if (flags & SENT_SACKED) c.sackedBytes -= len;
    else delivered += len;
    if (flags & SENT_LOST) c.lostBytes -= len;
    if (!whole) break;
    if (flags & SENT_RETRANS) ambiguous = true;
    else if (!(flags & SENT_SACKED)) sample = now - sent.sentAt(0);
    if (!(flags & SENT_SACKED)) rackDelivered(c, seg, sent.sentAt(0), end, flags, now);
    sent.shift();
    start = end;
  }
  // Karn (RFC 6298 3): a segment sent twice gives no sample, unless the timestamp tells which one was answered (RFC 7323 4.1).
  if (sample >= 0 && !ambiguous) c.rtt.sample(sample, now);
  else if (c.tsOk && seg.hasTs && seg.tsEcr !== 0) {
    const r = (c.tsClock(now) - seg.tsEcr) | 0;
    if (r >= 0 && r < 600_000) c.rtt.sample(r, now);
  }
  return delivered;
}

/** RFC 2883 4: a first block below the cumulative ACK, or inside the second block. */
function isDsack(seg: SegmentView, ack: Seq): boolean {
  const left = seg.sack[0]!;
  const right = seg.sack[1]!;
  if (seqLeq(right, left)) return false;
  if (seqLeq(right, ack)) return true;
  return seg.sackCount > 1 && seqGeq(left, seg.sack[2]!) && seqLeq(right, seg.sack[3]!);
}

/** Marks what the blocks report; blocks outside (SND.UNA, SND.NXT] or inverted are ignored (TCP-OPT-14). */
function selective(c: Connection, seg: SegmentView, firstBlock: number, now: Millis): number {
  const sent = c.sent;
  let delivered = 0;
  for (let b = firstBlock; b < seg.sackCount; b++) {
    const left = seg.sack[2 * b]!;
    const right = seg.sack[2 * b + 1]!;
    if (seqLeq(right, left) || seqLt(left, c.sndUna) || seqGt(right, c.sndNxt)) continue;
    let start = c.sndUna;
    for (let i = 0; i < sent.count; i++) {
      const end = sent.endOf(i);
      if (seqGt(end, right)) break;
      if (seqGeq(start, left)) {
        const flags = sent.flags(i);
        if (!(flags & SENT_SACKED)) {
          const len = (end - start) | 0;
          if (flags & SENT_LOST) c.lostBytes -= len;
          sent.setFlags(i, (flags & ~SENT_LOST) | SENT_SACKED);
          c.sackedBytes += len;
          delivered += len;
          if (!(flags & SENT_RETRANS)) c.rtt.sample(now - sent.sentAt(i), now);
          rackDelivered(c, seg, sent.sentAt(i), end, flags, now);
        }
      }
      start = end;
    }
  }
  return delivered;
}

/** RFC 8985 6.2 steps 1 to 3. */
function rackDelivered(c: Connection, seg: SegmentView, xmitAt: Millis, end: Seq, flags: number, now: Millis): void {
  const rtt = now - xmitAt;
  if (flags & SENT_RETRANS) {
    // Perhaps the original was what arrived. The echo tells, but only of what is in order: above a hole it stays behind
    // (RFC 7323 4.3), and a probe's SACK would never count.
    if (seqLeq(end, seg.segAck) && c.tsOk && seg.hasTs && ((seg.tsEcr - c.tsClock(xmitAt)) | 0) < 0) return;
    if (rtt < c.rtt.minRtt) return;
  } else if (c.rackXmitAt >= 0 && seqLt(end, c.rackFack)) c.rackReordering = true;
  if (c.rackXmitAt < 0 || seqGt(end, c.rackFack)) c.rackFack = end;
  if (xmitAt > c.rackXmitAt || (xmitAt === c.rackXmitAt && seqGt(end, c.rackEndSeq))) {
    c.rackXmitAt = xmitAt;
    c.rackEndSeq = end;
    c.rackRtt = rtt;
  }
}

/** RFC 8985 6.2 step 4: how much reordering is waited for. */
function reorderWindow(c: Connection): Millis {
  if (
    !c.rackReordering &&
    (c.recovery !== Recovery.Open || c.sackedBytes >= DUP_THRESH * c.effSndMss || sackedSegments(c) >= DUP_THRESH)
  )
    return 0;
  const min = c.rtt.minRtt === Number.POSITIVE_INFINITY ? c.rtt.srtt : c.rtt.minRtt;
  return Math.min((min / 4) * c.rackReoWndMult, c.rtt.srtt);
}

function sackedSegments(c: Connection): number {
  let n = 0;
  for (let i = 0; i < c.sent.count && n < DUP_THRESH; i++) if (c.sent.flags(i) & SENT_SACKED) n++;
  return n;
}

/** Marks what must be lost by now, and enters recovery if anything is. */
export function detectLoss(c: Connection, advanced: boolean, now: Millis): void {
  c.reoDeadline = NEVER;
  if (c.sent.count === 0) return;
  if (c.sackOk) detectByTime(c, now);
  else detectByDuplicates(c, advanced);
  if (c.lostBytes > 0 && c.recovery === Recovery.Open) enterRecovery(c, now);
}

/** RFC 8985 6.2 step 5. */
function detectByTime(c: Connection, now: Millis): void {
  if (c.rackXmitAt < 0) return;
  const sent = c.sent;
  const window = reorderWindow(c);
  let start = c.sndUna;
  let wait = 0;
  for (let i = 0; i < sent.count; i++) {
    const end = sent.endOf(i);
    const flags = sent.flags(i);
    if (!(flags & (SENT_SACKED | SENT_LOST))) {
      const at = sent.sentAt(i);
      if (c.rackXmitAt > at || (c.rackXmitAt === at && seqGt(c.rackEndSeq, end))) {
        const remaining = at + c.rackRtt + window - now;
        if (remaining <= 0) markLost(c, i, start, end);
        else wait = Math.max(wait, remaining);
      }
    }
    start = end;
  }
  if (wait > 0) c.reoDeadline = now + wait;
}

/** RFC 5681 3.2, RFC 6582 3.2: the third duplicate, and every partial acknowledgement, name the first segment. */
function detectByDuplicates(c: Connection, advanced: boolean): void {
  const flags = c.sent.flags(0);
  if (flags & SENT_LOST) return;
  const third = c.recovery === Recovery.Open && c.dupAcks >= DUP_THRESH && c.sndUna !== c.recover;
  const partial = c.recovery === Recovery.Fast && advanced && seqLt(c.sndUna, c.recover);
  if (third || partial) markLost(c, 0, c.sndUna, c.sent.endOf(0));
}

function markLost(c: Connection, i: number, start: Seq, end: Seq): void {
  c.sent.setFlags(i, c.sent.flags(i) | SENT_LOST);
  c.lostBytes += (end - start) | 0;
}

function enterRecovery(c: Connection, now: Millis): void {
  const flight = (c.sndNxt - c.sndUna) | 0;
  c.cc.onLoss(flight, c.effSndMss, now);
  c.recovery = Recovery.Fast;
  c.recover = c.sndNxt;
  c.recoverFs = flight;
  c.prrDelivered = 0;
  c.prrOut = 0;
  c.undoTs = 0;
  c.undoRetrans = 0;
  c.undoUna = c.sndUna;
  c.ptoDeadline = NEVER;
  c.tlpOut = false;
  c.env.stats.fastRecoveries++;
}

/** RFC 6937 3: cwnd shrinks to ssthresh in step with what is delivered. */
function proportionalRate(c: Connection, delivered: number, advanced: boolean): void {
  const mss = c.effSndMss;
  const inFlight = pipe(c);
  c.prrDelivered += Math.max(0, delivered);
  let allowed: number;
  if (inFlight > c.cc.ssthresh)
    allowed = Math.ceil((c.prrDelivered * c.cc.ssthresh) / Math.max(1, c.recoverFs)) - c.prrOut;
  else allowed = Math.min(c.cc.ssthresh - inFlight, Math.max(c.prrDelivered - c.prrOut, delivered) + mss);
  // The first retransmission of an episode is never held back; nor, without SACK, the one that a partial ACK asks for (RFC 6582).
  if (c.prrOut === 0 || (!c.sackOk && advanced)) allowed = Math.max(allowed, mss);
  c.cc.cwnd = inFlight + Math.max(0, allowed);
}

function leaveRecovery(c: Connection): void {
  if (c.recovery === Recovery.Fast) c.cc.cwnd = Math.max(c.cc.ssthresh, 2 * c.effSndMss);
  c.recovery = Recovery.Open;
  c.undoTs = 0;
  c.undoRetrans = 0;
  c.prrOut = 0;
}

/** RFC 3522: the answer echoes a time before the first retransmission; RFC 2883: every retransmission was reported as a duplicate. */
function spurious(c: Connection, seg: SegmentView, retransBefore: number, dsack: boolean): boolean {
  if (c.recovery === Recovery.Open || c.undoTs === 0) return false;
  if (c.tsOk && seg.hasTs && seg.tsEcr !== 0 && ((seg.tsEcr - c.undoTs) | 0) < 0) return true;
  return dsack && retransBefore > 0 && c.undoRetrans === 0;
}

function undo(c: Connection): void {
  if (c.recovery === Recovery.Open) return;
  // What was taken for lost had been passed by others (RFC 8985 6.2 step 3): from now on that is allowed for.
  if (c.recovery === Recovery.Fast) c.rackReordering = true;
  c.cc.undo();
  c.recovery = Recovery.Open;
  c.undoTs = 0;
  c.undoRetrans = 0;
  c.lostBytes = 0;
  for (let i = 0; i < c.sent.count; i++) c.sent.setFlags(i, c.sent.flags(i) & ~SENT_LOST);
  c.env.stats.spuriousRecoveries++;
}

/** RFC 8985 7.4: did the probe repair a loss? Then the congestion response is owed. */
function tailProbeAnswered(c: Connection, ack: Seq, dsack: boolean, now: Millis): void {
  if (!c.tlpOut || seqLt(ack, c.tlpEnd)) return;
  // Whether the original or the probe arrived is told by what follows: a D-SACK, or an ACK beyond it without one.
  if (c.tlpIsRetrans && !dsack && ack === c.tlpEnd) return;
  c.tlpOut = false;
  if (c.tlpIsRetrans && !dsack && c.recovery === Recovery.Open) {
    c.cc.onLoss((c.sndNxt - c.sndUna) | 0, c.effSndMss, now);
    c.cc.cwnd = Math.max(2 * c.effSndMss, c.cc.ssthresh);
  }
}

/** RFC 8985 7.3: the end of what is in flight, for the probe. */
export function lastEntryStart(c: Connection): Seq {
  return c.sent.count > 1 ? c.sent.endOf(c.sent.count - 2) : c.sndUna;
}
