// One timer for every deadline of the process's core: those who have deadlines are asked for the earliest, and polled when it comes.

import type { Clock, Millis } from '../base/clock.ts';

/** Something with deadlines of its own. */
export interface Pollable {
  /** NEVER if there is none. */
  nextDeadline(): Millis;
  poll(now: Millis): void;
}

/** Longest time a timer is set for; node's own limit is 2^31 ms. */
const LONGEST_MS = 3_600_000;

export class WakeTimer {
  /** Times it fired. */
  wakeups = 0;
  readonly #clock: Clock;
  readonly #pollables: Pollable[] = [];
  #timer: NodeJS.Timeout | undefined;
  #immediate: NodeJS.Immediate | undefined;
  /** When the timer fires. */
  #at: Millis = Number.POSITIVE_INFINITY;
  #closed = false;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  add(pollable: Pollable): void {
    this.#pollables.push(pollable);
    this.update();
  }

  /** A deadline may have come nearer. One that moved away is left to be found stale. */
  update(): void {
    if (this.#closed) return;
    let at = Number.POSITIVE_INFINITY;
    for (const p of this.#pollables) at = Math.min(at, p.nextDeadline());
    if (at >= this.#at) return;
    this.#at = at;
    clearTimeout(this.#timer);
    const delay = Math.min(Math.max(0, at - this.#clock.now()), LONGEST_MS);
    this.#timer = setTimeout(() => this.#fired(), Math.ceil(delay));
    this.#timer.unref();
  }

  /**
   * Deadlines are looked at only after the sockets have been: if this process was stopped for a while, the answers that make
   * a retransmission needless lie there unread.
   */
  #fired(): void {
    this.#timer = undefined;
    this.#immediate = setImmediate(() => {
      this.#immediate = undefined;
      this.#at = Number.POSITIVE_INFINITY;
      if (this.#closed) return;
      this.wakeups++;
      const now = this.#clock.now();
      for (const p of this.#pollables) if (p.nextDeadline() <= now) p.poll(now);
      this.update();
    });
  }

  close(): void {
    this.#closed = true;
    clearTimeout(this.#timer);
    if (this.#immediate !== undefined) clearImmediate(this.#immediate);
  }
}
