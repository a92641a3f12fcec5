// Virtual time: what is to happen when. Events of one moment happen in the order in which they were asked for, so that a run is
// a function of its seed.

interface Entry {
  at: number;
  order: number;
  run: () => void;
}

/** A queue of events on a clock that jumps from one to the next. */
export class Timeline {
  /** Current time, ms. Starts away from 0, so that "0 = never" mistakes show. */
  now = 10_000;
  /** Events run so far. */
  ran = 0;
  readonly #heap: Entry[] = [];
  #order = 0;

  /** When the next event is due; Infinity for none. */
  get next(): number {
    return this.#heap.length === 0 ? Number.POSITIVE_INFINITY : this.#heap[0]!.at;
  }

  /** Has `run` called at `at`, or at once if that is past. */
  at(at: number, run: () => void): void {
    const h = this.#heap;
    const e: Entry = { at: Math.max(at, this.now), order: this.#order++, run };
    let i = h.length;
    h.push(e);
    while (i > 0) {
      const p = (i - 1) >> 1;
      if (!before(e, h[p]!)) break;
      h[i] = h[p]!;
      i = p;
    }
    h[i] = e;
  }

  in(ms: number, run: () => void): void {
    this.at(this.now + ms, run);
  }

  /** Moves to the next event and runs it. */
  step(): void {
    const h = this.#heap;
    const e = h[0];
    if (e === undefined) return;
    const last = h.pop()!;
    if (h.length > 0) {
      let i = 0;
      for (;;) {
        let c = 2 * i + 1;
        if (c >= h.length) break;
        if (c + 1 < h.length && before(h[c + 1]!, h[c]!)) c++;
        if (!before(h[c]!, last)) break;
        h[i] = h[c]!;
        i = c;
      }
      h[i] = last;
    }
    this.now = Math.max(this.now, e.at);
    this.ran++;
    e.run();
  }
}

function before(a: Entry, b: Entry): boolean {
  return a.at < b.at || (a.at === b.at && a.order < b.order);
}

/** One alarm that is moved often and rings seldom. A move to later leaves the event where it is. */
export class Alarm {
  #at = Number.POSITIVE_INFINITY;
  #queued = Number.POSITIVE_INFINITY;
  readonly #timeline: Timeline;
  readonly #ring: () => void;

  constructor(timeline: Timeline, ring: () => void) {
    this.#timeline = timeline;
    this.#ring = ring;
  }

  /** @param at Infinity: not at all. */
  set(at: number): void {
    this.#at = at;
    if (at < this.#queued) this.#queue(at);
  }

  #queue(at: number): void {
    this.#queued = at;
    this.#timeline.at(at, () => {
      if (this.#queued !== at) return;
      this.#queued = Number.POSITIVE_INFINITY;
      if (this.#at <= this.#timeline.now) {
        this.#at = Number.POSITIVE_INFINITY;
        this.#ring();
      } else if (this.#at < Number.POSITIVE_INFINITY) this.#queue(this.#at);
    });
  }
}
