// What must hold inside the TCP whenever a turn is over (conformance reference 5, "assert always" 2, 4 and 5): its books balance,
// nothing waits without an armed timer, nothing grows past its limit.

import type { Connection } from '../../src/tcp/connection.ts';
import type { TcpLimits } from '../../src/tcp/limits.ts';
import { windowUpdateDue } from '../../src/tcp/output.ts';
import { SENT_LOST, SENT_SACKED } from '../../src/tcp/sent-queue.ts';
import { Recovery, STATE_NAMES, State } from '../../src/tcp/state.ts';
import { fail } from './ends.ts';

const NEVER = Number.POSITIVE_INFINITY;

/** Longer sent queues are not counted through at every turn. */
const COUNTED = 256;

/** Checks one connection. @param linkBlocked the link refuses frames now. */
export function checkConnection(c: Connection, limits: TcpLimits, now: number, linkBlocked: boolean): void {
  const where = `${c.guestPort} ${STATE_NAMES[c.state]}`;
  if (c.state === State.Closed) fail(`${where}: closed, but in the flow table`);
  books(c, where);
  if (c.rcv.ring.used > limits.rcvBufMax) fail(`${where}: ${c.rcv.ring.used} bytes received and held`);
  if (c.snd.used > limits.sndBufMax) fail(`${where}: ${c.snd.used} bytes held for sending`);
  if (c.assembler !== undefined && c.assembler.count > limits.oooRanges) fail(`${where}: too many ranges out of order`);
  if (c.snd.free < 0 || c.rcv.free < 0) fail(`${where}: negative room`);

  const next = c.nextDeadline();
  if (next < NEVER) {
    if (c.heapIndex < 0) fail(`${where}: deadline not queued`);
    if (c.heapAt > next) fail(`${where}: deadline queued ${c.heapAt - next} ms too late`);
    if (next < now && !c.awake) fail(`${where}: deadline ${now - next} ms past was not served`);
  }
  if (c.awake) return;
  waits(c, where, linkBlocked);
}

/** SND.UNA, SND.NXT, the sent queue and its counts tell the same story. */
function books(c: Connection, where: string): void {
  const { sent } = c;
  const flight = (c.sndNxt - c.sndUna) | 0;
  if (flight < 0) fail(`${where}: SND.UNA past SND.NXT`);
  if (c.state >= State.Established && c.state !== State.TimeWait) {
    const fin = c.finSent && ((c.sndNxt - c.finSeq) | 0) > 0 ? 1 : 0;
    const finAcked = c.finSent && ((c.sndUna - c.finSeq) | 0) > 0;
    if (flight - (finAcked ? 0 : fin) > c.snd.used) fail(`${where}: ${flight} in flight, ${c.snd.used} held`);
    if (flight > 0 !== sent.count > 0) fail(`${where}: ${flight} bytes in flight, ${sent.count} segments`);
  }
  if (((c.rcvAdv - c.rcvNxt) | 0) < 0) fail(`${where}: RCV.NXT past the window's edge`);
  if (c.lostBytes < 0 || c.sackedBytes < 0 || c.lostBytes + c.sackedBytes > flight) {
    fail(`${where}: ${c.lostBytes} lost + ${c.sackedBytes} SACKed of ${flight}`);
  }
  if (sent.count === 0 || sent.count > COUNTED) return;
  let lost = 0;
  let sacked = 0;
  let start = c.sndUna;
  for (let i = 0; i < sent.count; i++) {
    const end = sent.endOf(i);
    const len = (end - start) | 0;
    if (len <= 0) fail(`${where}: sent queue out of order at ${i}`);
    const flags = sent.flags(i);
    if (flags & SENT_LOST && flags & SENT_SACKED) fail(`${where}: segment lost and SACKed`);
    if (flags & SENT_LOST) lost += len;
    if (flags & SENT_SACKED) sacked += len;
    start = end;
  }
  if (start !== c.sndNxt) fail(`${where}: sent queue ends ${(c.sndNxt - start) | 0} before SND.NXT`);
  if (lost !== c.lostBytes) fail(`${where}: lostBytes ${c.lostBytes}, marked ${lost}`);
  if (sacked !== c.sackedBytes) fail(`${where}: sackedBytes ${c.sackedBytes}, marked ${sacked}`);
}

/** Whatever waits for something has a timer that ends the wait. */
function waits(c: Connection, where: string, linkBlocked: boolean): void {
  if (c.state === State.SynPending || c.state === State.TimeWait) {
    if (c.lifeDeadline === NEVER) fail(`${where}: no deadline`);
    return;
  }
  if (c.state === State.SynSent || c.state === State.SynReceived) {
    if (c.rtoDeadline === NEVER) fail(`${where}: no handshake timer`);
    return;
  }
  const resend = Math.min(c.rtoDeadline, c.ptoDeadline, c.persistDeadline, c.reoDeadline, c.swsDeadline);
  if (c.sent.count > 0) {
    if (Math.min(c.rtoDeadline, c.persistDeadline) === NEVER)
      fail(`${where}: bytes in flight, neither RTO nor persist`);
  } else if (c.recovery !== Recovery.Open && c.lostBytes > 0) fail(`${where}: lost bytes, nothing in flight`);
  const unsent = ((c.sndUna + c.snd.used - c.sndNxt) | 0) > 0 || (c.finQueued && !c.finSent);
  if (unsent && c.sent.count === 0 && resend === NEVER && !(c.blocked && linkBlocked)) {
    fail(`${where}: bytes to send, nothing in flight, no timer (window ${c.sndWnd})`);
  }
  const acks = c.ackPending || c.ackNow;
  if (acks && c.delackDeadline === NEVER && !(c.blocked && linkBlocked))
    fail(`${where}: acknowledgement owed, no timer`);
  const offered = (c.rcvAdv - c.rcvNxt) | 0;
  if (!(c.blocked && linkBlocked) && offered < c.rcvMss && windowUpdateDue(c))
    fail(`${where}: window update due and not sent`);
}
