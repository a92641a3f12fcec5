// How often something costly may be started: a token bucket.

import type { Millis } from '../base/clock.ts';

export interface StartRateOptions {
  /** Starts at once. */
  readonly burst: number;
  /** Starts a second in the long run. */
  readonly perSecond: number;
}

export class StartRate {
  readonly #options: StartRateOptions;
  #tokens: number;
  #at: Millis;

  constructor(options: StartRateOptions, now: Millis) {
    this.#options = options;
    this.#tokens = options.burst;
    this.#at = now;
  }

  /** Whether one may be started; `take` takes it. */
  allows(now: Millis): boolean {
    const { burst, perSecond } = this.#options;
    if (now > this.#at) {
      this.#tokens = Math.min(burst, this.#tokens + ((now - this.#at) * perSecond) / 1000);
      this.#at = now;
    }
    return this.#tokens >= 1;
  }

  take(): void {
    this.#tokens--;
  }
}
