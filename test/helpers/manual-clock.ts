// Time that stands still until it is told to move: what tests of the core use for `now`.

/** Monotonic milliseconds under a test's control. */
export class ManualClock {
  /** Current time, ms. Starts away from 0, so that "0 = never" mistakes show. */
  time: number;

  constructor(start = 10_000) {
    this.time = start;
  }

  now(): number {
    return this.time;
  }

  /** Moves forward; never back. */
  advance(ms: number): void {
    this.time += Math.max(0, ms);
  }
}
