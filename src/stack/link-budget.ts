// What all flows of a VM together may have on their way to it. The queue in front of a VM (batches, the kernel's socket buffer, whoever
// reads it) is first in, first out, so what a large transfer puts there beyond need is what a small message waits behind. The
// acknowledgements say what has left it. In the line of byte queue limits and of TCP small queues, with acknowledgements for completions.
//
// A short queue costs throughput, as every process on the way must be woken more often; so it is kept short only while there is somebody
// whom it serves: a message alone on its flow, or a datagram, not long ago.

import type { Millis } from '../base/clock.ts';
import type { Connection } from '../tcp/connection.ts';
import { pipe } from '../tcp/outgoing.ts';

/** A flow with less than this on its way, or sent since it was idle, is not the one that fills the queue. */
const SMALL_BYTES = 64 * 1024;
/** Who was held goes on when there is room for a batch: few large writes instead of many small ones. */
const QUANTUM_BYTES = 192 * 1024;
/** The queue stays short for so long after a small message. */
const QUIET_AFTER_MS = 300;

export class LinkBudget {
  /** Bytes believed to be on their way, of all flows. */
  inFlight = 0;
  /** When something small was sent last, which should not wait. */
  urgentAt: Millis = Number.NEGATIVE_INFINITY;
  readonly #limit: number;
  readonly #resume: number;
  readonly #held = new Set<Connection>();

  /** @param limitBytes from so many on a flow waits for acknowledgements, its own or others'. */
  constructor(limitBytes: number) {
    this.#limit = limitBytes;
    this.#resume = limitBytes - QUANTUM_BYTES;
  }

  /** `c` sends something with nothing before it on its way: if that was all for a while, it is a message that somebody waits for. */
  alone(c: Connection, now: Millis): void {
    if (c.bytesToGuest - c.leftAlone < SMALL_BYTES) this.urgentAt = now;
    c.leftAlone = c.bytesToGuest;
  }

  /** Whether `c` may send new data; if not, `count` or `forget` names it when its time has come. */
  admits(c: Connection, now: Millis): boolean {
    if (now - this.urgentAt > QUIET_AFTER_MS) return true;
    const own = pipe(c);
    const limit = this.#held.has(c) ? this.#resume : this.#limit;
    if (own < SMALL_BYTES || this.inFlight + own - c.counted < limit) return true;
    this.#held.add(c);
    return false;
  }

  /** What `c` has on its way has changed. @returns one that was held and may go on now; who waits longest comes first. */
  count(c: Connection, now: Millis): Connection | undefined {
    const own = pipe(c);
    this.inFlight += own - c.counted;
    c.counted = own;
    return this.#next(now);
  }

  /** `c` is over. @returns as `count` does. */
  forget(c: Connection, now: Millis): Connection | undefined {
    this.inFlight -= c.counted;
    c.counted = 0;
    this.#held.delete(c);
    return this.#next(now);
  }

  #next(now: Millis): Connection | undefined {
    if (this.#held.size === 0) return undefined;
    if (this.inFlight >= this.#resume && now - this.urgentAt <= QUIET_AFTER_MS) return undefined;
    for (const c of this.#held) {
      this.#held.delete(c);
      return c;
    }
    return undefined;
  }
}
