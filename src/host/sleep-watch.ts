// Notices that the host has slept. Linux's monotonic clock stands still meanwhile and the wall clock does not; macOS's goes on, but a look
// that was due comes late. So clocks are compared whenever something happens anyway, and twice a minute when nothing does. A step of the wall
// clock ahead looks the same and means the same to those who are told: what they knew of the time is old.

import type { Millis } from '../base/clock.ts';
import type { Pollable } from './wake-timer.ts';

/** A jump from this on is a sleep; slewing clocks make a few ms a second at most. */
export const SLEEP_LEAST_MS = 5000;
/** Longest time between looks: an idle daemon wakes so often for it. */
export const LOOK_MS = 30_000;
/** Between looks that traffic causes. */
const PAUSE_MS = 250;

export class SleepWatch implements Pollable {
  readonly #wall: () => number;
  readonly #onWake: (sleptMs: number) => void;
  #lookedAt: Millis;
  #wallAt: number;

  /** @param wall the wall clock, ms. @param onWake is told the length of the sleep, from within `look` or `poll`. */
  constructor(wall: () => number, now: Millis, onWake: (sleptMs: number) => void) {
    this.#wall = wall;
    this.#onWake = onWake;
    this.#lookedAt = now;
    this.#wallAt = wall();
  }

  nextDeadline(): Millis {
    return this.#lookedAt + LOOK_MS;
  }

  poll(now: Millis): void {
    if (now >= this.nextDeadline()) this.#compare(now);
  }

  /** Something happens: compares the clocks unless that was done a moment ago. Cheap enough for every packet. */
  look(now: Millis): void {
    if (now - this.#lookedAt >= PAUSE_MS) this.#compare(now);
  }

  #compare(now: Millis): void {
    const wall = this.#wall();
    const passed = now - this.#lookedAt;
    const jumped = wall - this.#wallAt - passed;
    this.#lookedAt = now;
    this.#wallAt = wall;
    const slept = jumped >= SLEEP_LEAST_MS ? jumped : passed >= LOOK_MS + SLEEP_LEAST_MS ? passed : 0;
    if (slept > 0) this.#onWake(slept);
  }
}
