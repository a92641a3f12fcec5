// Round-trip estimation and the retransmission time-out (RFC 6298), with the windowed minimum that RACK wants (RFC 8985 6.2).

import type { Millis } from '../base/clock.ts';
import type { TcpLimits } from './limits.ts';

/** Clock granularity G. */
const GRANULARITY_MS = 1;
/** How long a minimum is believed: as Linux tcp_min_rtt_wlen. */
const MIN_RTT_WINDOW_MS = 300_000;

/** SRTT, RTTVAR and RTO of one flow. */
export class RttEstimator {
  /** 0 before the first sample. */
  srtt = 0;
  rttVar = 0;
  rto: Millis;
  /** Smallest sample of the last five minutes; Infinity before the first. */
  minRtt: number = Number.POSITIVE_INFINITY;
  #minRttAt: Millis = 0;
  readonly #limits: TcpLimits;

  constructor(limits: TcpLimits) {
    this.#limits = limits;
    this.rto = limits.rtoInitialMs;
  }

  /** RFC 6298 2.2, 2.3. @param r a sample, ms; never from a retransmitted segment unless a timestamp tells (Karn). */
  sample(r: number, now: Millis): void {
    if (r < 0) return;
    if (r <= this.minRtt || now - this.#minRttAt > MIN_RTT_WINDOW_MS) {
      this.minRtt = r;
      this.#minRttAt = now;
    }
    if (this.srtt === 0) {
      this.srtt = Math.max(r, 0.001);
      this.rttVar = r / 2;
    } else {
      this.rttVar = 0.75 * this.rttVar + 0.25 * Math.abs(this.srtt - r);
      this.srtt = 0.875 * this.srtt + 0.125 * r;
    }
    this.reset();
  }

  /** RTO anew from the estimate. A back-off ends here, with a sample and not before (Karn; RFC 6298 5). */
  reset(): void {
    if (this.srtt === 0) return;
    const rto = this.srtt + Math.max(GRANULARITY_MS, 4 * this.rttVar);
    this.rto = Math.min(Math.max(rto, this.#limits.rtoMinMs), this.#limits.rtoMaxMs);
  }

  /** RFC 6298 5.5. */
  backOff(): void {
    this.rto = Math.min(this.rto * 2, this.#limits.rtoMaxMs);
  }
}
