// NewReno's window arithmetic (RFC 5681, RFC 6582) with appropriate byte counting (RFC 3465, L = 2).

import type { Millis } from '../base/clock.ts';
import { type CongestionControl, initialWindow } from './congestion.ts';

export class NewReno implements CongestionControl {
  cwnd: number;
  ssthresh: number = Number.POSITIVE_INFINITY;
  #acked = 0;
  #priorCwnd = 0;
  #priorSsthresh = 0;

  constructor(mss: number) {
    this.cwnd = initialWindow(mss);
  }

  onAck(acked: number, mss: number): void {
    if (this.cwnd < this.ssthresh) {
      // Deviation: RFC 3465 2.2 caps the growth at two segments an ACK; one ACK stands for a whole batch here, so bytes are counted
      // as they are, which an ACK in pieces cannot raise (TCP-REC-12).
      this.cwnd += acked;
      return;
    }
    this.#acked += acked;
    if (this.#acked >= this.cwnd) {
      this.#acked -= this.cwnd;
      this.cwnd += mss;
    }
  }

  onLoss(flightSize: number, mss: number, _now: Millis): void {
    this.#save();
    this.ssthresh = Math.max(flightSize / 2, 2 * mss);
  }

  onTimeout(flightSize: number, mss: number, _now: Millis): void {
    this.#save();
    this.ssthresh = Math.max(flightSize / 2, 2 * mss);
    this.cwnd = mss;
    this.#acked = 0;
  }

  undo(): void {
    this.cwnd = Math.max(this.cwnd, this.#priorCwnd);
    this.ssthresh = this.#priorSsthresh;
  }

  onIdle(restartWindow: number): void {
    this.cwnd = Math.min(this.cwnd, restartWindow);
  }

  #save(): void {
    this.#priorCwnd = this.cwnd;
    this.#priorSsthresh = this.ssthresh;
  }
}
