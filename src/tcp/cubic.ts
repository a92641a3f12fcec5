// CUBIC (RFC 9438): beta 0.7, C 0.4, Reno-friendly region, fast convergence. Windows in bytes, computed in segments.

import type { Millis } from '../base/clock.ts';
import { type CongestionControl, initialWindow } from './congestion.ts';

const BETA = 0.7;
const C = 0.4;
/** RFC 9438 4.3: additive increase that matches Reno's rate with this beta. */
const ALPHA = (3 * (1 - BETA)) / (1 + BETA);

export class Cubic implements CongestionControl {
  cwnd: number;
  ssthresh: number = Number.POSITIVE_INFINITY;
  /** In segments, as in the RFC. */
  wMax = 0;
  k = 0;
  wEst = 0;
  #epochStart: Millis = -1;
  #prior = { cwnd: 0, ssthresh: 0, wMax: 0 };

  constructor(mss: number) {
    this.cwnd = initialWindow(mss);
  }

  onAck(acked: number, mss: number, rtt: number, now: Millis): void {
    if (this.cwnd < this.ssthresh) {
      this.cwnd += acked;
      return;
    }
    const cwnd = this.cwnd / mss;
    if (this.#epochStart < 0) {
      this.#epochStart = now;
      this.wEst = cwnd;
      if (cwnd >= this.wMax) {
        this.wMax = cwnd;
        this.k = 0;
      } else this.k = Math.cbrt((this.wMax - cwnd) / C);
    }
    const segs = acked / mss;
    const t = (now - this.#epochStart) / 1000;
    const w = C * (t + rtt / 1000 - this.k) ** 3 + this.wMax;
    // RFC 9438 4.2: at most 1.5 x cwnd a round trip.
    const target = Math.min(Math.max(w, cwnd), 1.5 * cwnd);
    // From the window at the last reduction on, Reno's own pace (RFC 9438 4.3).
    this.wEst += (this.wEst >= this.#prior.cwnd / mss ? 1 : ALPHA) * (segs / cwnd);
    const cubicNow = C * (t - this.k) ** 3 + this.wMax;
    let next = cwnd;
    if (cubicNow < this.wEst) next = Math.max(cwnd, this.wEst);
    else next += ((target - cwnd) / cwnd) * segs;
    this.cwnd = next * mss;
  }

  onLoss(flightSize: number, mss: number, _now: Millis): void {
    this.#reduce(flightSize, mss);
  }

  onTimeout(flightSize: number, mss: number, _now: Millis): void {
    this.#reduce(flightSize, mss);
    this.cwnd = mss;
  }

  undo(): void {
    this.cwnd = Math.max(this.cwnd, this.#prior.cwnd);
    this.ssthresh = this.#prior.ssthresh;
    this.wMax = this.#prior.wMax;
    this.#epochStart = -1;
  }

  onIdle(restartWindow: number): void {
    this.cwnd = Math.min(this.cwnd, restartWindow);
    this.#epochStart = -1;
  }

  #reduce(flightSize: number, mss: number): void {
    this.#prior = { cwnd: this.cwnd, ssthresh: this.ssthresh, wMax: this.wMax };
    const cwnd = this.cwnd / mss;
    // Fast convergence, RFC 9438 4.7.
    this.wMax = cwnd < this.wMax ? (cwnd * (1 + BETA)) / 2 : cwnd;
    this.ssthresh = Math.max(Math.min(this.cwnd, flightSize) * BETA, 2 * mss);
    this.#epochStart = -1;
  }
}
