// Which bytes of one datagram have arrived: the fragments in order, by start and end. Both IP families use it.
// It owns no bytes and no clock. Overlaps end a datagram (RFC 5722 for IPv6; the same here for IPv4, which has no use for them).

/** Answers of `FragmentSet.add`. */
export const FRAGMENT_NEW = 0;
/** Exactly a fragment that is there already. */
export const FRAGMENT_DUPLICATE = 1;
/** Overlaps another one, or contradicts where the datagram ends: the datagram is to be discarded. */
export const FRAGMENT_CONFLICT = 2;
/** One more than the datagram may have. */
export const FRAGMENT_TOO_MANY = 3;

/** The ranges of one datagram, sorted, at most `max` of them. Reused: `clear` it. */
export class FragmentSet {
  /** Fragments held. */
  count = 0;
  /** Bytes held. */
  bytes = 0;
  /** Payload length of the whole datagram, -1 until the last fragment is here. */
  total = -1;
  /** End of the furthest fragment. */
  reach = 0;
  #starts: Uint32Array;
  #ends: Uint32Array;
  readonly #max: number;

  constructor(max: number) {
    this.#max = max;
    // Most datagrams have few fragments: room grows when it is needed.
    this.#starts = new Uint32Array(Math.min(8, max));
    this.#ends = new Uint32Array(Math.min(8, max));
  }

  clear(): void {
    this.count = 0;
    this.bytes = 0;
    this.total = -1;
    this.reach = 0;
  }

  /** Everything from 0 to the end has arrived. */
  get complete(): boolean {
    return this.total >= 0 && this.bytes === this.total;
  }

  /** Whether the fragment at offset 0 is here. */
  get hasFirst(): boolean {
    return this.count > 0 && this.#starts[0] === 0;
  }

  /** End of the fragment at offset 0; meaningful only with `hasFirst`. */
  get firstEnd(): number {
    return this.#ends[0]!;
  }

  /** Notes [start, end), end > start; `last` if no fragments follow it. */
  add(start: number, end: number, last: boolean): number {
    const starts = this.#starts;
    const ends = this.#ends;
    // Fragments mostly come in order: look from the back.
    let at = this.count;
    while (at > 0 && starts[at - 1]! >= start) at--;
    if (at < this.count && starts[at] === start && ends[at] === end && last === (end === this.total)) {
      return FRAGMENT_DUPLICATE;
    }
    if (at > 0 && ends[at - 1]! > start) return FRAGMENT_CONFLICT;
    if (at < this.count && starts[at]! < end) return FRAGMENT_CONFLICT;
    if (this.total >= 0 && (last || end > this.total)) return FRAGMENT_CONFLICT;
    if (last && this.reach > end) return FRAGMENT_CONFLICT;
    if (this.count === this.#max) return FRAGMENT_TOO_MANY;
    if (this.count === starts.length) this.#grow();
    this.#starts.copyWithin(at + 1, at, this.count);
    this.#ends.copyWithin(at + 1, at, this.count);
    this.#starts[at] = start;
    this.#ends[at] = end;
    this.count++;
    this.bytes += end - start;
    if (end > this.reach) this.reach = end;
    if (last) this.total = end;
    return FRAGMENT_NEW;
  }

  #grow(): void {
    const n = Math.min(this.#max, this.#starts.length * 2);
    const starts = new Uint32Array(n);
    const ends = new Uint32Array(n);
    starts.set(this.#starts);
    ends.set(this.#ends);
    this.#starts = starts;
    this.#ends = ends;
  }
}
