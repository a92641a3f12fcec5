// Time as the core sees it: a number handed in. Nothing here reads a clock.

/** Monotonic milliseconds since some fixed start, fractional. Never wall-clock time. */
export type Millis = number;

/** "No deadline": larger than every time. */
export const NEVER: Millis = Number.POSITIVE_INFINITY;

/** A source of monotonic time; only shell folders hold one. */
export interface Clock {
  now(): Millis;
}
