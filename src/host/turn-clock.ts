// When a turn that the host side asked for ends: after all sockets that are ready now were read, so that what they bring leaves in one
// write; or, while only one socket at a time has anything, at once, so that it does not wait for the end of the round.

import type { Clock, Millis } from '../base/clock.ts';

/** Turns with one read each, in a row, after which the next one is ended at once. */
const LONELY = 16;
/** A read this soon after the last is of the same round: they belong together again. */
const SAME_ROUND_MS = 0.04;

export class TurnClock {
  readonly #clock: Clock;
  readonly #run: (now: Millis) => void;
  #wanted = false;
  #scheduled = false;
  #reading = false;
  /** Reads since the last turn. */
  #reads = 0;
  #lonely = 0;
  /** When the last read, or the turn at its end, was over. */
  #lastEnd: Millis = Number.NEGATIVE_INFINITY;
  readonly #immediate = (): void => this.#onImmediate();

  /** @param run ends the turn. */
  constructor(clock: Clock, run: (now: Millis) => void) {
    this.#clock = clock;
    this.#run = run;
  }

  /** A turn is due, soon. Inside a bracket of `beginRead` and `endRead` it may be at its end. */
  want(): void {
    this.#wanted = true;
    if (!this.#reading && !this.#scheduled) this.#schedule();
  }

  /** A socket is being read; what it brings may ask for a turn. */
  beginRead(now: Millis): void {
    this.#reading = true;
    if (now - this.#lastEnd < SAME_ROUND_MS) this.#lonely = 0;
  }

  endRead(now: Millis): void {
    this.#reading = false;
    this.#reads++;
    this.#lastEnd = now;
    if (!this.#wanted || this.#scheduled) return;
    if (this.#lonely >= LONELY) this.#end(now);
    else this.#schedule();
  }

  #schedule(): void {
    this.#scheduled = true;
    setImmediate(this.#immediate);
  }

  #onImmediate(): void {
    this.#scheduled = false;
    if (this.#reads === 1) this.#lonely++;
    else this.#lonely = 0;
    if (this.#wanted) this.#end(this.#clock.now());
  }

  #end(now: Millis): void {
    this.#wanted = false;
    this.#reads = 0;
    this.#run(now);
    // What the turn itself took does not count as a pause between two reads.
    this.#lastEnd = this.#clock.now();
  }
}
