// Questions as keys: name folded, type, class and the flags that change an answer, hashed with a secret seed.
// A table of them serves the cache and the questions in flight without a string per query.

import { foldName, NAME_MAX_BYTES } from './name.ts';

/** The question looked for; one per owner, set again for each query. */
export class QuestionKey {
  /** Folded wire name. */
  readonly name: Uint8Array = new Uint8Array(NAME_MAX_BYTES);
  nameLen = 0;
  type = 0;
  klass = 0;
  /** KEY_ bits of `message`. */
  flags = 0;
  /** int32. */
  hash = 0;
  readonly #seed: number;

  /** @param seed secret, or a guest could aim at one bucket. */
  constructor(seed: number) {
    this.#seed = seed;
  }

  set(buf: Uint8Array, nameOff: number, nameLen: number, type: number, klass: number, flags: number): void {
    foldName(buf, nameOff, this.name, 0, nameLen);
    this.nameLen = nameLen;
    this.type = type;
    this.klass = klass;
    this.flags = flags;
    let h = this.#seed;
    for (let i = 0; i < nameLen; i++) h = Math.imul(h ^ this.name[i]!, 0x01000193);
    h = Math.imul(h ^ ((type << 16) | klass), 0x01000193);
    h = Math.imul(h ^ flags ^ (h >>> 15), 0x2c1b3c6d);
    this.hash = h ^ (h >>> 13);
  }
}

/** Something kept under a question; the fields belong to the table. */
export interface Keyed<T> {
  readonly hash: number;
  nextInBucket: T | undefined;
  /** Whether it was made for exactly this question. */
  matches(key: QuestionKey): boolean;
}

/** Most entries of one hash: more is an attack, and the newcomer stays out. */
const SAME_HASH_MAX = 8;
/** A power of two. */
const FIRST_BUCKETS = 64;

/** Chained, with buckets that grow with the entries: a Map that entries come to and go from all the time is made anew again and again. */
export class QuestionTable<T extends Keyed<T>> {
  #buckets: (T | undefined)[] = new Array<T | undefined>(FIRST_BUCKETS).fill(undefined);
  size = 0;

  find(key: QuestionKey): T | undefined {
    let e = this.#buckets[this.#bucketOf(key.hash)];
    while (e !== undefined && !(e.hash === key.hash && e.matches(key))) e = e.nextInBucket;
    return e;
  }

  /** @returns false if there are too many of its hash; the entry is not in the table then. */
  add(e: T): boolean {
    let same = 0;
    for (let c = this.#buckets[this.#bucketOf(e.hash)]; c !== undefined; c = c.nextInBucket) {
      if (c.hash === e.hash) same++;
    }
    if (same >= SAME_HASH_MAX) return false;
    if (this.size >= this.#buckets.length) this.#grow();
    const at = this.#bucketOf(e.hash);
    e.nextInBucket = this.#buckets[at];
    this.#buckets[at] = e;
    this.size++;
    return true;
  }

  /** Removes an entry; nothing happens if it is not there. */
  remove(e: T): void {
    const at = this.#bucketOf(e.hash);
    const head = this.#buckets[at];
    if (head === e) this.#buckets[at] = e.nextInBucket;
    else {
      let before = head;
      while (before !== undefined && before.nextInBucket !== e) before = before.nextInBucket;
      if (before === undefined) return;
      before.nextInBucket = e.nextInBucket;
    }
    e.nextInBucket = undefined;
    this.size--;
  }

  clear(): void {
    this.#buckets = new Array<T | undefined>(FIRST_BUCKETS).fill(undefined);
    this.size = 0;
  }

  #bucketOf(hash: number): number {
    return hash & (this.#buckets.length - 1);
  }

  #grow(): void {
    const old = this.#buckets;
    this.#buckets = new Array<T | undefined>(old.length * 2).fill(undefined);
    for (let e of old) {
      while (e !== undefined) {
        const next = e.nextInBucket;
        const at = this.#bucketOf(e.hash);
        e.nextInBucket = this.#buckets[at];
        this.#buckets[at] = e;
        e = next;
      }
    }
  }
}
