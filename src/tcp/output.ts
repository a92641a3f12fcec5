// What leaves a connection: retransmissions, new data, FIN, acknowledgements (RFC 9293 3.8), and the answers that stand for one
// segment. It decides; the bytes of headers below TCP are the sink's. Sender's silly-window rule: RFC 9293 3.8.6.2.1.
// Deviation: there is no Nagle algorithm (RFC 9293 SHLD-7); the host's writes are the user's own, and leave at once (TCP-ACK-06).

import { setU16, setU32 } from '../base/bytes.ts';
import { type Millis, NEVER } from '../base/clock.ts';
import type { Connection } from './connection.ts';
import { acknowledged, pipe, restartIdle, sackBlocks, selectWindow } from './outgoing.ts';
import { sendRun } from './run.ts';
import {
  emitTcpHeader,
  emitTimestamps,
  FLAG_ACK,
  FLAG_FIN,
  FLAG_PSH,
  FLAG_RST,
  FLAG_SYN,
  OPT_MSS,
  OPT_NOP,
  OPT_SACK,
  OPT_SACK_PERMITTED,
  OPT_WINDOW_SCALE,
  TCP_HEADER,
} from './segment.ts';
import { SENT_LOST, SENT_RETRANS, SENT_SACKED } from './sent-queue.ts';
import { type Seq, seqAdd, seqLt } from './seq.ts';
import { canReceive, Recovery, State } from './state.ts';

/** Sends what may be sent now, and arms the timers that this calls for. */
export function output(c: Connection, now: Millis): void {
  if (c.state === State.Closed) return;
  if (c.state >= State.Established && c.state !== State.TimeWait) {
    let open = c.lostBytes === 0 || sendLost(c, now);
    if (open) open = sendNew(c, now);
    if (open && ackDue(c, now)) sendAck(c, now);
    armSendTimers(c, now);
  } else if (c.handshakeDue && c.state < State.Established) {
    // The link did not drain when the SYN or SYN-ACK was to go out.
    if (c.state === State.SynSent) sendSyn(c, now);
    else if (c.state === State.SynReceived) sendSynAck(c, now);
  } else if (c.ackNow && c.state !== State.SynPending) sendAck(c, now);
  c.env.arm(c);
}

/** Is a pure acknowledgement due now? Otherwise one is put on the delayed-ACK clock. */
function ackDue(c: Connection, now: Millis): boolean {
  if (c.ackNow) return true;
  if (!c.ackPending) return false;
  if (c.quickAcks > 0) {
    c.quickAcks--;
    return true;
  }
  // Two segments, of any size: a sender with two in flight probes for a lost tail after two round trips (RFC 8985 7.2).
  if (c.unackedSegs > 1 || windowUpdateDue(c)) return true;
  if (c.delackDeadline === NEVER) c.delackDeadline = now + c.env.limits.delayedAckMs;
  return false;
}

/** RFC 9293 3.8.6.2.2: is there a worthwhile piece of window that the guest does not know of? */
export function windowUpdateDue(c: Connection): boolean {
  if (!canReceive(c.state)) return false;
  const offered = (c.rcvAdv - c.rcvNxt) | 0;
  const gain = c.rcv.free - offered;
  const half = c.rcv.target >>> 1;
  // A guest with half of the window before it waits for nothing.
  if (offered >= half && offered >= 2 * c.rcvMss) return false;
  return gain >= Math.min(offered < c.rcvMss ? c.rcvMss : 2 * c.rcvMss, half);
}

// --- Data.

/** Retransmits segments marked lost, within the windows. @returns false if the link does not drain. */
function sendLost(c: Connection, now: Millis): boolean {
  const sent = c.sent;
  let start = c.sndUna;
  for (let i = 0; i < sent.count && c.lostBytes > 0; i++) {
    if (sent.flags(i) & SENT_LOST) {
      const inFlight = pipe(c);
      const len = (sent.endOf(i) - start) | 0;
      if (inFlight > 0 && inFlight + len > c.cc.cwnd) return true;
      if (!resend(c, i, start, now)) return !c.blocked;
    }
    // Read after the resend: it may have cut the entry in two.
    start = sent.endOf(i);
  }
  return true;
}

/** Sends entry `i`, which starts at `start`, again. @returns false if neither the window nor the link took it. */
export function resend(c: Connection, i: number, start: Seq, now: Millis): boolean {
  const sent = c.sent;
  const room = (seqAdd(c.sndUna, c.sndWnd) - start) | 0;
  if (room <= 0) return false;
  const max = c.effSndMss - optionsLength(c);
  // The path may carry less than when it was first sent.
  if (dataLength(c, start, sent.endOf(i)) > max) sent.split(i, seqAdd(start, max));
  const end = sent.endOf(i);
  const fin = c.finSent && end === seqAdd(c.finSeq, 1);
  const len = Math.min(dataLength(c, start, end), room);
  const whole = len === dataLength(c, start, end);
  if (!sendSegment(c, start, len, FLAG_ACK | FLAG_PSH | (fin && whole && len < room ? FLAG_FIN : 0), now)) return false;
  const flags = sent.flags(i);
  if (flags & SENT_LOST) c.lostBytes -= (end - start) | 0;
  sent.setFlags(i, (flags & ~SENT_LOST) | SENT_RETRANS);
  sent.setSentAt(i, now);
  if (c.undoTs === 0) c.undoTs = c.tsClock(now) || 1;
  c.undoRetrans++;
  c.retransmits++;
  c.env.stats.retransmits++;
  c.prrOut += len;
  return true;
}

/** Payload bytes between two places of the sequence space: the FIN counts as none. */
function dataLength(c: Connection, start: Seq, end: Seq): number {
  const len = (end - start) | 0;
  return c.finSent && end === seqAdd(c.finSeq, 1) ? len - 1 : len;
}

/** Sends bytes for the first time, and the FIN behind the last one. @returns false if the link does not drain. */
function sendNew(c: Connection, now: Millis): boolean {
  const sws = c.swsDeadline;
  c.swsDeadline = NEVER;
  if (c.finSent) return true;
  const mss = c.effSndMss - optionsLength(c);
  for (;;) {
    const unsent = (c.sndUna + c.snd.used - c.sndNxt) | 0;
    if (unsent <= 0 && !c.finQueued) {
      c.cwndLimited = false;
      return true;
    }
    const wndRoom = (c.sndUna + c.sndWnd - c.sndNxt) | 0;
    if (wndRoom <= 0 || c.sent.full) {
      c.cwndLimited = false;
      return true;
    }
    if (unsent > 0 && c.env.sink.mayQueue !== undefined && !c.env.sink.mayQueue(c)) {
      c.cwndLimited = false;
      return true;
    }
    if (unsent >= 2 * mss && c.env.sink.reserveRun !== undefined) {
      const sent = sendRun(c, unsent, wndRoom, mss, now);
      if (sent < 0) return false;
      if (sent > 0) continue;
    }
    let len = Math.min(unsent, mss);
    const inFlight = pipe(c);
    if (inFlight > 0 && inFlight + len > c.cc.cwnd) {
      c.cwndLimited = true;
      return true;
    }
    if (len > wndRoom) {
      // RFC 9293 3.8.6.2.1: a short segment only where nothing is in flight, or it fills half of the largest window, or waited long.
      if (c.sndNxt !== c.sndUna && wndRoom < c.sndWndMax >>> 1) {
        if (!c.swsOverride) {
          c.swsDeadline = sws === NEVER ? now + c.env.limits.swsOverrideMs : sws;
          return true;
        }
      }
      len = wndRoom;
    }
    c.swsOverride = false;
    const last = len === unsent;
    const fin = last && c.finQueued && wndRoom > len;
    if (len === 0 && !fin) return true;
    const flags = FLAG_ACK | (last ? FLAG_PSH : 0) | (fin ? FLAG_FIN : 0);
    if (c.recovery === Recovery.Open && c.sndNxt === c.sndUna && now - c.lastSendAt > c.rtt.rto && c.rtt.srtt > 0)
      restartIdle(c);
    if (!sendSegment(c, c.sndNxt, len, flags, now)) return false;
    c.prrOut += len;
    c.bytesToGuest += len;
    c.lastSendAt = now;
    let end = seqAdd(c.sndNxt, len);
    if (fin) {
      c.finSeq = end;
      c.finSent = true;
      end = seqAdd(end, 1);
      c.state = c.state === State.CloseWait ? State.LastAck : State.FinWait1;
    }
    c.sndNxt = end;
    c.sent.push(end, now);
    c.ptoDeadline = NEVER;
    if (fin) return true;
  }
}

/** Arms the timers that unacknowledged or waiting bytes need: something is always armed while either is there. */
function armSendTimers(c: Connection, now: Millis): void {
  const { limits } = c.env;
  const waiting = ((c.sndUna + c.snd.used - c.sndNxt) | 0) > 0 || (c.finQueued && !c.finSent);
  if (c.sent.count > 0) {
    if (c.sndWnd === 0) {
      // The window was shrunk over bytes in flight: probing takes the place of retransmitting (TCP-FCS-05).
      c.rtoDeadline = NEVER;
      c.ptoDeadline = NEVER;
      if (c.persistDeadline === NEVER) c.persistDeadline = now + persistInterval(c);
      return;
    }
    c.persistDeadline = NEVER;
    if (c.rtoDeadline === NEVER) c.rtoDeadline = now + c.rtt.rto;
    if (
      c.ptoDeadline === NEVER &&
      c.sackOk &&
      c.recovery === Recovery.Open &&
      !c.tlpOut &&
      c.sackedBytes === 0 &&
      c.rtt.srtt > 0
    ) {
      // RFC 8985 7.2.
      const ackDelay = c.sent.count === 1 ? limits.ptoAckDelayMs : 0;
      const pto = Math.max(2 * c.rtt.srtt, limits.ptoMinMs) + ackDelay;
      if (now + pto < c.rtoDeadline) c.ptoDeadline = now + pto;
    }
    return;
  }
  c.rtoDeadline = NEVER;
  c.ptoDeadline = NEVER;
  if (waiting && c.sndWnd === 0) {
    if (c.persistDeadline === NEVER) c.persistDeadline = now + persistInterval(c);
  } else c.persistDeadline = NEVER;
  // Bytes wait, nothing is in flight and the window is open: the link did not drain, and wakes us when it does.
  if (limits.keepaliveIdleMs > 0 && c.keepaliveDeadline === NEVER) c.keepaliveDeadline = now + limits.keepaliveIdleMs;
}

/** RFC 9293 SHLD-29, SHLD-30. */
export function persistInterval(c: Connection): Millis {
  return Math.min(
    Math.max(c.rtt.rto, c.env.limits.rtoMinMs) * 2 ** Math.min(c.persistBackoff, 16),
    c.env.limits.persistMaxMs,
  );
}

// --- Segments.

/** Length of the options that every segment of this connection carries now. */
function optionsLength(c: Connection): number {
  const blocks = sackBlocks(c);
  return (c.tsOk ? 12 : 0) + (blocks > 0 ? 4 + 8 * blocks : 0);
}

/** One segment of the synchronized states with the current acknowledgement and window. @returns false if the link does not drain. */
function sendSegment(c: Connection, seq: Seq, len: number, flags: number, now: Millis): boolean {
  const blocks = sackBlocks(c);
  const optLen = (c.tsOk ? 12 : 0) + (blocks > 0 ? 4 + 8 * blocks : 0);
  const headerLen = TCP_HEADER + optLen;
  const { sink, stats } = c.env;
  const off = sink.reserve(c, headerLen + len);
  if (off < 0) return false;
  const mem = c.mem;
  emitTcpHeader(mem, off, c.remotePort, c.guestPort, seq, c.rcvNxt, headerLen, flags, selectWindow(c));
  let at = off + TCP_HEADER;
  if (c.tsOk) {
    emitTimestamps(mem, at, c.tsClock(now), c.tsRecent);
    at += 12;
  }
  if (blocks > 0) at = emitSack(c, at, blocks);
  // Copy: from the send ring into the batch that leaves in one write; the one copy of the way to the guest.
  if (len > 0) c.snd.ring.readAt((seq - c.sndUna) | 0, mem, at, len);
  sink.commit(c, off, headerLen + len);
  stats.segmentsToGuest++;
  stats.bytesToGuest += len;
  acknowledged(c);
  return true;
}

/** RFC 2018 4: the block that grew last first; RFC 2883: before it, the duplicate just seen. */
function emitSack(c: Connection, at: number, blocks: number): number {
  const mem = c.mem;
  mem[at] = OPT_NOP;
  mem[at + 1] = OPT_NOP;
  mem[at + 2] = OPT_SACK;
  mem[at + 3] = 2 + 8 * blocks;
  at += 4;
  const a = c.assembler;
  let first = -1;
  if (c.dsackLeft !== c.dsackRight) {
    setU32(mem, at, c.dsackLeft);
    setU32(mem, at + 4, c.dsackRight);
    // A duplicate inside a range: that range comes next, or the duplicate could not be told from news (RFC 2883 4).
    if (a !== undefined) first = a.find(c.dsackLeft);
    c.dsackLeft = c.dsackRight;
    at += 8;
    blocks--;
  }
  if (a === undefined || blocks === 0) return at;
  if (first < 0) first = Math.max(0, a.find(a.recent));
  for (let n = 0; n < blocks; n++) {
    // The most recent range, then the others from the right: those nearest to what is being sent now.
    let i = n === 0 ? first : a.count - n;
    if (n > 0 && i <= first) i--;
    if (i < 0) i = 0;
    setU32(mem, at, a.edges[2 * i]!);
    setU32(mem, at + 4, a.edges[2 * i + 1]!);
    at += 8;
  }
  return at;
}

/** A pure acknowledgement. A link that does not drain keeps it pending. */
export function sendAck(c: Connection, now: Millis): boolean {
  if (sendSegment(c, c.sndNxt, 0, FLAG_ACK, now)) return true;
  c.ackNow = true;
  return false;
}

/** RFC 5961: an ACK that makes a genuine peer answer, counted per flow (RFC 5961 7, CVE-2016-5696). */
export function challengeAck(c: Connection, now: Millis): void {
  const { limits, stats } = c.env;
  if (now - c.challengeSince >= limits.challengeWindowMs) {
    c.challengeSince = now;
    c.challengeCount = 0;
  }
  if (c.challengeCount >= limits.challengeAcks) {
    stats.challengeAcksLimited++;
    return;
  }
  c.challengeCount++;
  stats.challengeAcks++;
  sendSegment(c, c.sndNxt, 0, FLAG_ACK, now);
}

/**
 * A probe that the peer must answer: an empty segment just left of what it has (window probe, keepalive). The peer makes
 * no use of its ACK field, so it stands for no acknowledgement that is due (RFC 9293 3.10.7.4 "first").
 */
export function sendProbe(c: Connection, now: Millis): boolean {
  const { ackPending, ackNow, unackedSegs, delackDeadline } = c;
  if (!sendSegment(c, seqAdd(c.sndUna, -1), 0, FLAG_ACK, now)) return false;
  c.ackPending = ackPending;
  c.ackNow = ackNow;
  c.unackedSegs = unackedSegs;
  c.delackDeadline = delackDeadline;
  return true;
}

/** RST of a connection that we know: in sequence, so that the peer believes it (RFC 9293 3.10.7, RFC 5961 3). */
export function sendReset(c: Connection, now: Millis): void {
  const pending = c.state === State.SynPending;
  const off = c.env.sink.reserve(c, TCP_HEADER);
  if (off < 0) return;
  // Answering a SYN: sequence 0 and an acknowledgement of the SYN (RFC 9293 3.5.2). Otherwise SND.NXT; where the window was
  // shrunk below it, the last place inside is what the peer accepts.
  let seq = pending ? 0 : c.sndNxt;
  if (!pending && c.sndWnd > 0 && seqLt(seqAdd(c.sndUna, c.sndWnd), seq)) seq = c.sndUna;
  const ack = pending ? seqAdd(c.rcvNxt, c.synData) : c.rcvNxt;
  emitTcpHeader(c.mem, off, c.remotePort, c.guestPort, seq, ack, TCP_HEADER, FLAG_RST | FLAG_ACK, 0);
  c.env.sink.commit(c, off, TCP_HEADER);
  c.env.stats.resetsToGuest++;
  c.lastSendAt = now;
}

export function sendSyn(c: Connection, now: Millis): void {
  handshakeSegment(c, FLAG_SYN, true, true, true, now);
}

export function sendSynAck(c: Connection, now: Millis): void {
  handshakeSegment(c, FLAG_SYN | FLAG_ACK, c.wndScaleOk, c.sackOk, c.tsOk, now);
}

/** RFC 9293 3.7.1, RFC 7323 2.2, 3.2: the window of a SYN is not scaled. */
function handshakeSegment(c: Connection, flags: number, ws: boolean, sack: boolean, ts: boolean, now: Millis): void {
  const optLen = 4 + (ws ? 4 : 0) + (ts ? 12 : sack ? 4 : 0);
  const { sink, stats } = c.env;
  const off = sink.reserve(c, TCP_HEADER + optLen);
  c.handshakeDue = off < 0;
  if (off < 0) return;
  const mem = c.mem;
  const wnd = Math.min(c.rcv.free, 0xffff);
  const ack = flags & FLAG_ACK ? c.rcvNxt : 0;
  emitTcpHeader(mem, off, c.remotePort, c.guestPort, c.iss, ack, TCP_HEADER + optLen, flags, wnd);
  let at = off + TCP_HEADER;
  mem[at] = OPT_MSS;
  mem[at + 1] = 4;
  setU16(mem, at + 2, c.linkMss);
  at += 4;
  if (ts) {
    // SACK-permitted takes the place of the two NOPs.
    emitTimestamps(mem, at, c.tsClock(now), flags & FLAG_ACK ? c.tsRecent : 0);
    if (sack) {
      mem[at] = OPT_SACK_PERMITTED;
      mem[at + 1] = 2;
    }
    at += 12;
  } else if (sack) {
    mem[at] = OPT_NOP;
    mem[at + 1] = OPT_NOP;
    mem[at + 2] = OPT_SACK_PERMITTED;
    mem[at + 3] = 2;
    at += 4;
  }
  if (ws) {
    mem[at] = OPT_NOP;
    mem[at + 1] = OPT_WINDOW_SCALE;
    mem[at + 2] = 3;
    mem[at + 3] = c.ownWndShift;
  }
  if (flags & FLAG_ACK) {
    c.rcvAdv = seqAdd(c.rcvNxt, wnd);
    c.lastAckSent = c.rcvNxt;
  }
  sink.commit(c, off, TCP_HEADER + optLen);
  stats.segmentsToGuest++;
  c.lastSendAt = now;
}

/** Marks every byte in flight lost: after a time-out, or a window that was shrunk over it and opened again. */
export function markAllLost(c: Connection, forgetSack: boolean): void {
  const sent = c.sent;
  let start = c.sndUna;
  c.lostBytes = 0;
  if (forgetSack) c.sackedBytes = 0;
  for (let i = 0; i < sent.count; i++) {
    const end = sent.endOf(i);
    const flags = sent.flags(i);
    if (forgetSack || !(flags & SENT_SACKED)) {
      sent.setFlags(i, (forgetSack ? flags & ~SENT_SACKED : flags) | SENT_LOST);
      c.lostBytes += (end - start) | 0;
    }
    start = end;
  }
}
