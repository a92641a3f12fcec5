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

/** Longest chain of one hash: more is an attack, and the newcomer stays out. */
const CHAIN_MAX = 8;

export class QuestionTable<T extends Keyed<T>> {
  readonly #buckets = new Map<number, T>();
  size = 0;

  find(key: QuestionKey): T | undefined {
    let e = this.#buckets.get(key.hash);
    while (e !== undefined && !e.matches(key)) e = e.nextInBucket;
    return e;
  }

  /** @returns false if the chain is full; the entry is not in the table then. */
  add(e: T): boolean {
    const head = this.#buckets.get(e.hash);
    let n = 0;
    for (let c = head; c !== undefined; c = c.nextInBucket) n++;
    if (n >= CHAIN_MAX) return false;
    e.nextInBucket = head;
    this.#buckets.set(e.hash, e);
    this.size++;
    return true;
  }

  /** Removes an entry; nothing happens if it is not there. */
  remove(e: T): void {
    const head = this.#buckets.get(e.hash);
    if (head === e) {
      if (e.nextInBucket === undefined) this.#buckets.delete(e.hash);
      else this.#buckets.set(e.hash, e.nextInBucket);
    } else {
      let before = head;
      while (before !== undefined && before.nextInBucket !== e) before = before.nextInBucket;
      if (before === undefined) return;
      before.nextInBucket = e.nextInBucket;
    }
    e.nextInBucket = undefined;
    this.size--;
  }

  clear(): void {
    this.#buckets.clear();
    this.size = 0;
  }
}
