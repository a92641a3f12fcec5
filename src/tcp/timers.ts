// A connection's deadlines: which is next, and what each does when it comes. A deadline that comes late (the process or the VM
// was stopped) does its work once, not as often as it could have come.

import { type Millis, NEVER } from '../base/clock.ts';
import type { Connection } from './connection.ts';
import { CloseReason } from './flow.ts';
import { markAllLost, output, persistInterval, resend, sendProbe, sendReset, sendSyn, sendSynAck } from './output.ts';
import { detectLoss, lastEntryStart } from './recovery.ts';
import { Recovery, State } from './state.ts';

/** The earliest of the connection's deadlines. */
export function earliest(c: Connection): Millis {
  return Math.min(
    c.rtoDeadline,
    c.ptoDeadline,
    c.reoDeadline,
    c.delackDeadline,
    c.persistDeadline,
    c.swsDeadline,
    c.lifeDeadline,
    c.keepaliveDeadline,
  );
}

/** Does what is due. */
export function onDeadline(c: Connection, now: Millis): void {
  if (now >= c.lifeDeadline) {
    onLife(c, now);
    return;
  }
  if (now >= c.delackDeadline) {
    c.delackDeadline = NEVER;
    c.ackNow = true;
    // Nothing rode along: this peer waits for acknowledgements, so the next ones go at once.
    c.quickAcks = 16;
  }
  if (now >= c.swsDeadline) {
    c.swsDeadline = NEVER;
    c.swsOverride = true;
  }
  if (now >= c.reoDeadline) detectLoss(c, false, now);
  if (now >= c.rtoDeadline) {
    if (c.state === State.SynSent || c.state === State.SynReceived) onHandshakeTimeout(c, now);
    else onRetransmitTimeout(c, now);
  } else if (now >= c.ptoDeadline) onTailProbe(c, now);
  if (now >= c.persistDeadline) onPersist(c, now);
  if (now >= c.keepaliveDeadline) onKeepalive(c, now);
  output(c, now);
}

/** TIME-WAIT is over, FIN-WAIT-2 was given up, or the host never answered the dial. */
function onLife(c: Connection, now: Millis): void {
  c.lifeDeadline = NEVER;
  if (c.state === State.SynPending) {
    sendReset(c, now);
    c.close(CloseReason.Unreachable, true);
  } else if (c.state === State.FinWait2) c.close(CloseReason.IdleOrphan, true);
  else c.close(CloseReason.Done, true);
}

/** RFC 9293 3.8.3, RFC 6298 5: SYN or SYN-ACK again. */
function onHandshakeTimeout(c: Connection, now: Millis): void {
  const { limits } = c.env;
  if (c.synTries >= (c.state === State.SynSent ? limits.synRetries : limits.synAckRetries)) {
    c.env.stats.retransmitLimit++;
    c.close(CloseReason.RetransmitLimit, true);
    return;
  }
  c.synTries++;
  c.rtt.backOff();
  c.rtoDeadline = now + c.rtt.rto;
  c.env.stats.retransmits++;
  if (c.state === State.SynSent) sendSyn(c, now);
  else sendSynAck(c, now);
}

/** RFC 6298 5.4 to 5.6, RFC 5681 3.1 (4), RFC 2018 8. */
function onRetransmitTimeout(c: Connection, now: Millis): void {
  c.rtoDeadline = NEVER;
  if (c.sent.count === 0) return;
  if (c.blocked) {
    // What was sent may still lie in our own batch: the link has not drained, so nothing can be said to be lost.
    c.rtoDeadline = now + c.rtt.rto;
    return;
  }
  if (c.backoffs >= c.env.limits.dataRetries) {
    c.env.stats.retransmitLimit++;
    sendReset(c, now);
    c.close(CloseReason.RetransmitLimit, true);
    return;
  }
  c.env.stats.timeouts++;
  if (c.recovery !== Recovery.Loss) {
    c.cc.onTimeout((c.sndNxt - c.sndUna) | 0, c.effSndMss, now);
    c.undoTs = 0;
    c.undoRetrans = 0;
    c.undoUna = c.sndUna;
  } else c.cc.cwnd = c.effSndMss;
  c.recovery = Recovery.Loss;
  c.recover = c.sndNxt;
  c.dupAcks = 0;
  c.tlpOut = false;
  c.reoDeadline = NEVER;
  c.ptoDeadline = NEVER;
  markAllLost(c, true);
  c.backoffs++;
  c.rtt.backOff();
  c.rtoDeadline = now + c.rtt.rto;
}

/** RFC 8985 7.3: new data if there is any, else the last segment again. */
function onTailProbe(c: Connection, now: Millis): void {
  c.ptoDeadline = NEVER;
  if (c.sent.count === 0 || c.blocked || c.recovery !== Recovery.Open) return;
  const before = c.sndNxt;
  const cwnd = c.cc.cwnd;
  c.cc.cwnd = cwnd + c.effSndMss;
  output(c, now);
  c.cc.cwnd = cwnd;
  c.tlpIsRetrans = false;
  if (c.sndNxt === before) {
    const undoTs = c.undoTs;
    const undoRetrans = c.undoRetrans;
    if (c.sent.count === 0 || !resend(c, c.sent.count - 1, lastEntryStart(c), now)) return;
    c.undoTs = undoTs;
    c.undoRetrans = undoRetrans;
    c.tlpIsRetrans = true;
  }
  c.tlpOut = true;
  c.tlpEnd = c.sndNxt;
  c.ptoDeadline = NEVER;
  c.rtoDeadline = now + c.rtt.rto;
  c.env.stats.tailProbes++;
}

/** RFC 9293 3.8.6.1: a closed window is asked about for ever, as long as the asking is answered. */
function onPersist(c: Connection, now: Millis): void {
  c.persistDeadline = NEVER;
  if (c.sndWnd > 0) return;
  if (c.probesUnanswered >= c.env.limits.dataRetries) {
    c.env.stats.retransmitLimit++;
    sendReset(c, now);
    c.close(CloseReason.RetransmitLimit, true);
    return;
  }
  if (sendProbe(c, now)) {
    c.persistBackoff++;
    c.probesUnanswered++;
    c.env.stats.persistProbes++;
  }
  c.persistDeadline = now + persistInterval(c);
}

/** RFC 9293 3.8.4: off unless configured. */
function onKeepalive(c: Connection, now: Millis): void {
  const { limits } = c.env;
  c.keepaliveDeadline = NEVER;
  if (c.sent.count > 0) return;
  const due = c.lastRecvAt + limits.keepaliveIdleMs;
  if (c.keepaliveProbes === 0 && now < due) {
    c.keepaliveDeadline = due;
    return;
  }
  if (c.keepaliveProbes >= limits.keepaliveProbes) {
    sendReset(c, now);
    c.close(CloseReason.RetransmitLimit, true);
    return;
  }
  c.keepaliveProbes++;
  sendProbe(c, now);
  c.keepaliveDeadline = now + limits.keepaliveIntervalMs;
}
