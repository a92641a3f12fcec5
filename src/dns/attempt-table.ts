// Queries in flight by their id, chained through themselves. Not a Map: one that entries come to and go from all the time is made anew
// again and again, and a discarded one that has grown old keeps the next alive with all that was in it, until the whole heap is
// collected: 4.5 MB of answered questions survived each collection of young objects at 10,000 names a second.

import type { Attempt } from './lookup.ts';

/** A power of two. Ids are random, so buckets are even: eight entries each at 8192 queries. */
const BUCKETS = 1024;

export class AttemptTable {
  readonly #buckets: (Attempt | undefined)[] = new Array<Attempt | undefined>(BUCKETS).fill(undefined);
  size = 0;

  get(id: number): Attempt | undefined {
    let a = this.#buckets[id & (BUCKETS - 1)];
    while (a !== undefined && a.id !== id) a = a.nextInBucket;
    return a;
  }

  /** Its id must be free. */
  add(a: Attempt): void {
    const at = a.id & (BUCKETS - 1);
    a.nextInBucket = this.#buckets[at];
    this.#buckets[at] = a;
    this.size++;
  }

  /** Nothing happens if it is not there. */
  remove(a: Attempt): void {
    const at = a.id & (BUCKETS - 1);
    if (this.#buckets[at] === a) this.#buckets[at] = a.nextInBucket;
    else {
      let before = this.#buckets[at];
      while (before !== undefined && before.nextInBucket !== a) before = before.nextInBucket;
      if (before === undefined) return;
      before.nextInBucket = a.nextInBucket;
    }
    a.nextInBucket = undefined;
    this.size--;
  }

  /** All that are in it now. */
  list(): Attempt[] {
    const all: Attempt[] = [];
    for (const head of this.#buckets) for (let a = head; a !== undefined; a = a.nextInBucket) all.push(a);
    return all;
  }
}
