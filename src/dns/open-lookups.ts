// The questions in flight in the order in which they came, linked through themselves (why no Set: see `attempt-table`).

import type { Lookup } from './lookup.ts';

export class OpenLookups {
  #oldest: Lookup | undefined = undefined;
  #newest: Lookup | undefined = undefined;
  size = 0;

  add(l: Lookup): void {
    l.older = this.#newest;
    if (this.#newest === undefined) this.#oldest = l;
    else this.#newest.newer = l;
    this.#newest = l;
    this.size++;
  }

  /** It must be there. */
  remove(l: Lookup): void {
    if (l.older === undefined) this.#oldest = l.newer;
    else l.older.newer = l.newer;
    if (l.newer === undefined) this.#newest = l.older;
    else l.newer.older = l.older;
    l.older = undefined;
    l.newer = undefined;
    this.size--;
  }

  /** All that are in it now, the oldest first. */
  list(): Lookup[] {
    const all: Lookup[] = [];
    for (let l = this.#oldest; l !== undefined; l = l.newer) all.push(l);
    return all;
  }
}
