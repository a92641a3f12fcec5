// Many segments at a time, both ways, where nothing but their place in the sequence differs: what the kernel does in one call instead
// of the walk of each. Input and output remain the rule; a run is what they would have done segment by segment, and a test holds it to
// that. RFC 9293 3.10.7.4 (text in order), 3.8 (full segments).

import type { Millis } from '../base/clock.ts';
import { NEVER } from '../base/clock.ts';
import type { Connection } from './connection.ts';
import { acknowledged, pipe, restartIdle, sackBlocks, selectWindow } from './outgoing.ts';
import { emitTcpHeader, emitTimestamps, FLAG_ACK, FLAG_PSH, type SegmentView, TCP_HEADER } from './segment.ts';
import { SENT_MAX } from './sent-queue.ts';
import { seqAdd } from './seq.ts';
import { EVENT_READABLE, Recovery, State } from './state.ts';

/** Payload below which looking for more of the same does not pay. */
const RUN_MIN_BYTES = 256;
const TIMESTAMPS = 12;

/** After `input`: may segments like `seg` follow, that change nothing but RCV.NXT and what there is to read? */
export function startsRun(c: Connection, seg: SegmentView): boolean {
  return (
    seg.payloadLen >= RUN_MIN_BYTES &&
    c.state === State.Established &&
    (seg.flags | FLAG_PSH) === (FLAG_ACK | FLAG_PSH) &&
    c.rcvNxt === seqAdd(seg.segSeq, seg.payloadLen) &&
    seg.segAck === c.sndUna &&
    // It was not an old one once more: its window is the one that is known.
    c.sndWl1 === seg.segSeq &&
    c.sndWnd === seg.segWnd << c.sndWndShift &&
    seg.hasTs === c.tsOk &&
    seg.payloadOff - seg.off === (c.tsOk ? TCP_HEADER + TIMESTAMPS : TCP_HEADER) &&
    c.assembler === undefined &&
    c.rcv.beyond === 0 &&
    !c.finSeen &&
    !c.orphaned
  );
}

/**
 * After `input` of an acknowledgement that carried nothing else: may the next ones, each acknowledging more, be passed over but for the
 * last? Not while something is being recovered: there each of them counts.
 */
export function startsAckRun(c: Connection, seg: SegmentView): boolean {
  return (
    seg.payloadLen === 0 &&
    seg.flags === FLAG_ACK &&
    (c.state === State.Established || c.state === State.CloseWait) &&
    c.sent.count > 0 &&
    c.rcvNxt === seg.segSeq &&
    seg.segAck === c.sndUna &&
    seg.hasTs === c.tsOk &&
    seg.payloadOff - seg.off === (c.tsOk ? TCP_HEADER + TIMESTAMPS : TCP_HEADER) &&
    c.recovery === Recovery.Open &&
    c.sackedBytes === 0 &&
    c.dupAcks === 0 &&
    !c.tlpOut
  );
}

/** `frames` segments that carry on have been stored at the ring's tail: `bytes` in all, `longest` the largest, `last` the last. */
export function carryOn(c: Connection, frames: number, bytes: number, longest: number, last: number): void {
  const { stats } = c.env;
  if (longest > c.rcvMss) c.rcvMss = Math.min(longest, c.linkMss);
  c.rcv.advance(bytes);
  c.rcvNxt = seqAdd(c.rcvNxt, bytes);
  // The window they show is the one known; the segment that shows it is the last of them (RFC 9293 3.10.7.4 "fifth").
  c.sndWl1 = seqAdd(c.rcvNxt, -last);
  stats.segmentsFromGuest += frames;
  stats.bytesFromGuest += bytes;
  c.ackPending = true;
  c.unackedSegs += frames;
  c.events |= EVENT_READABLE;
  c.env.wake(c);
}

/** Sends full segments in one go, as far as the windows go. @returns how many; 0: one at a time; -1: the link does not drain. */
export function sendRun(c: Connection, unsent: number, wndRoom: number, mss: number, now: Millis): number {
  const { sink, stats } = c.env;
  if (sink.reserveRun === undefined || sink.commitRun === undefined || mss < RUN_MIN_BYTES || sackBlocks(c) > 0)
    return 0;
  if (c.recovery === Recovery.Open && c.sndNxt === c.sndUna && now - c.lastSendAt > c.rtt.rto && c.rtt.srtt > 0)
    restartIdle(c);
  const inFlight = pipe(c);
  let most = Math.max(Math.floor((c.cc.cwnd - inFlight) / mss), inFlight > 0 ? 0 : 1);
  most = Math.min(most, Math.floor(wndRoom / mss), SENT_MAX - c.sent.count, Math.floor(unsent / mss));
  // The FIN rides on the last segment, which is made by itself.
  if (c.finQueued && most * mss === unsent) most--;
  if (most < 2) return 0;
  const headerLen = TCP_HEADER + (c.tsOk ? TIMESTAMPS : 0);
  const n = sink.reserveRun(c, headerLen + mss, most);
  if (n === 0) return -1;
  const { mem } = c;
  const off = sink.runOffset ?? 0;
  const bytes = n * mss;
  emitTcpHeader(mem, off, c.remotePort, c.guestPort, c.sndNxt, c.rcvNxt, headerLen, FLAG_ACK, selectWindow(c));
  if (c.tsOk) emitTimestamps(mem, off + TCP_HEADER, c.tsClock(now), c.tsRecent);
  sink.commitRun(c, off, headerLen, mss, n, bytes === unsent ? FLAG_ACK | FLAG_PSH : FLAG_ACK);
  stats.segmentsToGuest += n;
  stats.bytesToGuest += bytes;
  acknowledged(c);
  c.prrOut += bytes;
  c.bytesToGuest += bytes;
  c.lastSendAt = now;
  let end = c.sndNxt;
  for (let i = 0; i < n; i++) {
    end = seqAdd(end, mss);
    c.sent.push(end, now);
  }
  c.sndNxt = end;
  c.swsOverride = false;
  c.ptoDeadline = NEVER;
  return n;
}
