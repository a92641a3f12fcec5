// What the peer's SYN or SYN-ACK settles: sequence numbers, options, MSS and the first window (RFC 9293 3.7.1, RFC 7323 2.2).

import type { Millis } from '../base/clock.ts';
import type { CongestionControl } from './congestion.ts';
import type { Connection } from './connection.ts';
import { Cubic } from './cubic.ts';
import { DEFAULT_MSS_V4, DEFAULT_MSS_V6, MAX_WND_SHIFT, RCV_WND_SHIFT, type TcpLimits } from './limits.ts';
import { NewReno } from './new-reno.ts';
import type { SegmentView } from './segment.ts';
import { seqAdd } from './seq.ts';

/** Options and numbers of the peer's SYN (or SYN-ACK), RFC 9293 3.7.1, RFC 7323 2.2. */
export function takeSyn(c: Connection, seg: SegmentView, now: Millis): void {
  const { limits } = c.env;
  c.irs = seg.segSeq;
  c.synData = seg.payloadLen;
  c.rcvNxt = seqAdd(seg.segSeq, 1);
  c.rcvAdv = c.rcvNxt;
  c.lastAckSent = c.rcvNxt;
  c.tsOk = seg.hasTs;
  if (seg.hasTs) {
    c.tsRecent = seg.tsVal;
    c.tsRecentAt = now;
  }
  c.sackOk = seg.sackPermitted;
  c.wndScaleOk = seg.wndShift >= 0;
  c.sndWndShift = c.wndScaleOk ? Math.min(seg.wndShift, MAX_WND_SHIFT) : 0;
  c.rcvWndShift = c.wndScaleOk ? RCV_WND_SHIFT : 0;
  if (!c.wndScaleOk) c.rcv.target = Math.min(c.rcv.target, 65_535);
  c.sndWnd = seg.segWnd;
  c.sndWndMax = seg.segWnd;
  c.sndWl1 = seg.segSeq;
  const peerMss = seg.mss < 0 ? (c.guest.isV4 ? DEFAULT_MSS_V4 : DEFAULT_MSS_V6) : Math.max(seg.mss, limits.mssFloor);
  c.firstWnd = seg.segWnd;
  c.pathMss = Math.min(peerMss, c.linkMss);
  c.effSndMss = c.pathMss;
  limitMss(c);
  c.cc = newCongestion(limits, c.effSndMss);
}

/**
 * No segment above half of the guest's first window, whatever it shows later: a receiver that waits for more than it has room for
 * would stall for seconds (slirp4netns #128).
 */
export function limitMss(c: Connection): void {
  if (c.firstWnd === 0) c.firstWnd = c.sndWndMax;
  if (c.firstWnd > 0) c.effSndMss = Math.min(c.pathMss, Math.max(DEFAULT_MSS_V4, c.firstWnd >>> 1));
}

/** The configured congestion control. */
export function newCongestion(limits: TcpLimits, mss: number): CongestionControl {
  return limits.congestion === 'cubic' ? new Cubic(mss) : new NewReno(mss);
}
