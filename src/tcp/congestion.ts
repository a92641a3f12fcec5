// What a congestion controller is: owner of cwnd and ssthresh, told of acknowledgements and losses, never of segments.

import type { Millis } from '../base/clock.ts';

/** All sizes in bytes. RFC 5681 names. */
export interface CongestionControl {
  cwnd: number;
  ssthresh: number;
  /** `acked` new bytes while cwnd was what limited us. `rtt` is the smoothed RTT in ms (0 if unknown). */
  onAck(acked: number, mss: number, rtt: number, now: Millis): void;
  /** Entry into recovery: ssthresh by the algorithm's own cut. cwnd follows by recovery (PRR), not here. */
  onLoss(flightSize: number, mss: number, now: Millis): void;
  /** RTO: RFC 5681 (4), cwnd = 1 MSS. */
  onTimeout(flightSize: number, mss: number, now: Millis): void;
  /** The last reduction was for nothing (RFC 3522, 5682): cwnd and ssthresh are put back. */
  undo(): void;
  /** RFC 5681 4.1 restart after idle. */
  onIdle(restartWindow: number): void;
}

/** RFC 6928 (1). */
export function initialWindow(mss: number): number {
  return Math.min(10 * mss, Math.max(2 * mss, 14_600));
}
