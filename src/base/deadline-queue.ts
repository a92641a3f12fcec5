// A binary heap of deadlines. An entry that moves later is left where it is and re-queued when it comes up (cheaper than
// moving it at every acknowledgement); one that moves earlier is moved at once.

import { type Millis, NEVER } from './clock.ts';

/** Something with a deadline; `heapAt` and `heapIndex` belong to the queue. */
export interface Deadlined {
  /** When it wants `onDeadline` next; NEVER for not at all. */
  nextDeadline(): Millis;
  onDeadline(now: Millis): void;
  heapAt: Millis;
  /** -1 while not queued. */
  heapIndex: number;
}

export class DeadlineQueue<E extends Deadlined = Deadlined> {
  readonly #heap: E[] = [];

  get size(): number {
    return this.#heap.length;
  }

  /** The earliest time at which anything may be due (may be early, never late). */
  get next(): Millis {
    return this.#heap.length === 0 ? NEVER : this.#heap[0]!.heapAt;
  }

  /** Tells the queue that an entry's deadline may have changed. */
  update(e: E): void {
    const at = e.nextDeadline();
    if (e.heapIndex < 0) {
      if (at === NEVER) return;
      e.heapAt = at;
      e.heapIndex = this.#heap.length;
      this.#heap.push(e);
      this.#up(e.heapIndex);
    } else if (at < e.heapAt) {
      e.heapAt = at;
      this.#up(e.heapIndex);
    }
  }

  remove(e: E): void {
    const i = e.heapIndex;
    if (i < 0) return;
    e.heapIndex = -1;
    const last = this.#heap.pop()!;
    if (last === e) return;
    this.#heap[i] = last;
    last.heapIndex = i;
    this.#up(i);
    this.#down(last.heapIndex);
  }

  /**
   * Runs what is due; each entry at most once per call, so that no entry can keep the caller here.
   * @param failed hears of an entry that threw, and the others go on; without it the error is the caller's.
   */
  run(now: Millis, failed?: (e: E, error: unknown) => void): void {
    let budget = this.#heap.length;
    while (budget-- > 0 && this.#heap.length > 0) {
      const e = this.#heap[0]!;
      if (e.heapAt > now) return;
      const at = e.nextDeadline();
      if (at > now) {
        // Stale: the deadline moved later or went away since it was queued.
        if (at === NEVER) this.remove(e);
        else {
          e.heapAt = at;
          this.#down(0);
        }
        continue;
      }
      this.remove(e);
      try {
        e.onDeadline(now);
      } catch (error) {
        if (failed === undefined) throw error;
        failed(e, error);
      }
      this.update(e);
    }
  }

  #up(i: number): void {
    const h = this.#heap;
    const e = h[i]!;
    while (i > 0) {
      const p = (i - 1) >> 1;
      const parent = h[p]!;
      if (parent.heapAt <= e.heapAt) break;
      h[i] = parent;
      parent.heapIndex = i;
      i = p;
    }
    h[i] = e;
    e.heapIndex = i;
  }

  #down(i: number): void {
    const h = this.#heap;
    const e = h[i]!;
    const n = h.length;
    for (;;) {
      let c = 2 * i + 1;
      if (c >= n) break;
      if (c + 1 < n && h[c + 1]!.heapAt < h[c]!.heapAt) c++;
      const child = h[c]!;
      if (child.heapAt >= e.heapAt) break;
      h[i] = child;
      child.heapIndex = i;
      i = c;
    }
    h[i] = e;
    e.heapIndex = i;
  }
}
