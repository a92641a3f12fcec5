// The host's monotonic clock and one-shot timers, the only places where shell code reads time or waits.
// Both are interfaces to their users, so that tests run on manual time.

import type { Clock, Millis } from '../base/clock.ts';

/** Milliseconds since the process started, with fractions; stands still while the host sleeps. */
export class HostClock implements Clock {
  now(): Millis {
    return performance.now();
  }
}

/** One-shot timers. */
export interface Timers {
  /** Runs `run` once after at least `delayMs`. @returns a function that cancels it; harmless when it already ran. */
  after(delayMs: number, run: () => void): () => void;
}

/** Timers of the event loop; they do not keep the process alive. */
export class HostTimers implements Timers {
  after(delayMs: number, run: () => void): () => void {
    const timer = setTimeout(run, delayMs);
    timer.unref();
    return () => clearTimeout(timer);
  }
}
