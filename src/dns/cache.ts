// The answer cache: whole responses by question, TTLs counted down as they are read, bounded by bytes, least recently used out first.
// It decides nothing about what may be cached (`response.cacheTtlSec` does) and fetches nothing by itself. RFC 2181 8, RFC 2308.

import { copyBytes } from '../base/bytes.ts';
import type { Millis } from '../base/clock.ts';
import { HEADER_BYTES } from './message.ts';
import { equalNames } from './name.ts';
import { type Keyed, type QuestionKey, QuestionTable } from './question-table.ts';
import { ageTtls, type ResponseView } from './response.ts';

/** What an entry costs besides its bytes, for the bound. */
const ENTRY_OVERHEAD_BYTES = 320;
/** No answer is believed longer than a day (RFC 8767 4 speaks of a cap of days; a laptop changes networks). */
export const TTL_CAP_SEC = 86_400;
/** RFC 2308 5: one to three hours is sensible for negative answers. */
export const NEGATIVE_TTL_CAP_SEC = 3600;

/** Entries that went and wait to be used again, and how large their memory may be. */
const SPARE_MAX = 64;
const SPARE_BYTES = 1024;
/** Memory for a message, and for offsets of TTLs, comes in such steps, so that it fits again. */
const MESSAGE_STEP_BYTES = 64;
const TTL_STEP = 4;

function stepped(value: number, step: number): number {
  return Math.ceil(value / step) * step;
}

/** One cached response. Entries are used again: with a full cache and new names all the time, made anew they would keep the collector busy. */
export class CacheEntry implements Keyed<CacheEntry> {
  hash = 0;
  nextInBucket: CacheEntry | undefined = undefined;
  newer: CacheEntry | undefined = undefined;
  older: CacheEntry | undefined = undefined;
  /** The response as it came, `length` bytes; its question is the key's name. */
  message: Uint8Array;
  length = 0;
  ttlAt: Uint16Array;
  ttlCount = 0;
  nameLen = 0;
  type = 0;
  klass = 0;
  keyFlags = 0;
  storedAt: Millis = Number.NEGATIVE_INFINITY;
  expiresAt: Millis = Number.NEGATIVE_INFINITY;
  /** Version of the policy under which the question was last known to be for upstream. */
  localVersion = 0;
  hasOpt = false;

  constructor(bytes: number, ttls: number) {
    this.message = new Uint8Array(stepped(bytes, MESSAGE_STEP_BYTES));
    this.ttlAt = new Uint16Array(stepped(ttls, TTL_STEP));
  }

  /** Takes a response in. */
  fill(key: QuestionKey, view: ResponseView, ttlSec: number, localVersion: number, now: Millis): void {
    this.hash = key.hash;
    this.nameLen = key.nameLen;
    this.type = key.type;
    this.klass = key.klass;
    this.keyFlags = key.flags;
    const { length, ttlCount } = view;
    // Of its memory it keeps what is about as large as it needs.
    const bytes = stepped(length, MESSAGE_STEP_BYTES);
    if (this.message.length !== bytes) this.message = new Uint8Array(bytes);
    if (this.ttlAt.length !== stepped(ttlCount, TTL_STEP)) this.ttlAt = new Uint16Array(stepped(ttlCount, TTL_STEP));
    // Copy: the socket's buffer is gone after this call.
    copyBytes(view.buf, view.off, this.message, 0, length);
    for (let i = 0; i < ttlCount; i++) this.ttlAt[i] = view.ttlAt[i]!;
    this.length = length;
    this.ttlCount = ttlCount;
    this.storedAt = now;
    this.expiresAt = now + ttlSec * 1000;
    this.localVersion = localVersion;
    this.hasOpt = view.optOff >= 0;
  }

  get cost(): number {
    return this.message.length + this.ttlAt.byteLength + ENTRY_OVERHEAD_BYTES;
  }

  matches(key: QuestionKey): boolean {
    return (
      this.nameLen === key.nameLen &&
      this.type === key.type &&
      this.klass === key.klass &&
      this.keyFlags === key.flags &&
      equalNames(this.message, HEADER_BYTES, key.name, 0, key.nameLen)
    );
  }

  /** Copies the response to `out` with its TTLs counted down. @returns its length. */
  writeTo(out: Uint8Array, off: number, now: Millis): number {
    copyBytes(this.message, 0, out, off, this.length);
    const ageSec = Math.floor((now - this.storedAt) / 1000);
    ageTtls(out, off, this.ttlAt, this.ttlCount, ageSec, TTL_CAP_SEC);
    return this.length;
  }
}

export class Cache {
  /** Bytes held, overhead included. */
  bytes = 0;
  hits = 0;
  misses = 0;
  evicted = 0;
  readonly #limitBytes: number;
  readonly #table = new QuestionTable<CacheEntry>();
  readonly #spare: CacheEntry[] = [];
  #newest: CacheEntry | undefined = undefined;
  #oldest: CacheEntry | undefined = undefined;

  /** @param limitBytes 0 turns the cache off. */
  constructor(limitBytes: number) {
    this.#limitBytes = limitBytes;
  }

  get size(): number {
    return this.#table.size;
  }

  find(key: QuestionKey, now: Millis): CacheEntry | undefined {
    const e = this.#table.find(key);
    if (e === undefined) {
      this.misses++;
      return undefined;
    }
    if (now >= e.expiresAt) {
      this.remove(e);
      this.misses++;
      return undefined;
    }
    this.hits++;
    if (e !== this.#newest) {
      this.#unlink(e);
      this.#link(e);
    }
    return e;
  }

  /** What is kept under a question; neither counted nor taken for a use. */
  peek(key: QuestionKey, now: Millis): CacheEntry | undefined {
    const e = this.#table.find(key);
    return e !== undefined && now < e.expiresAt ? e : undefined;
  }

  /** Keeps a response that answers `key` for `ttlSec` (0: not at all), in place of what was kept under it. */
  insert(key: QuestionKey, view: ResponseView, ttlSec: number, localVersion: number, now: Millis): void {
    const cost = stepped(view.length, MESSAGE_STEP_BYTES) + stepped(view.ttlCount, TTL_STEP) * 2 + ENTRY_OVERHEAD_BYTES;
    if (ttlSec <= 0 || cost > this.#limitBytes) return;
    const old = this.#table.find(key);
    if (old !== undefined) this.remove(old);
    while (this.bytes + cost > this.#limitBytes && this.#oldest !== undefined) {
      this.remove(this.#oldest);
      this.evicted++;
    }
    const cap = view.answers > 0 ? TTL_CAP_SEC : NEGATIVE_TTL_CAP_SEC;
    const e = this.#spare.pop() ?? new CacheEntry(view.length, view.ttlCount);
    e.fill(key, view, Math.min(ttlSec, cap), localVersion, now);
    if (!this.#table.add(e)) return;
    this.#link(e);
    this.bytes += e.cost;
  }

  /** Takes an entry out; it may be another's from the next `insert` on. */
  remove(e: CacheEntry): void {
    this.#table.remove(e);
    this.#unlink(e);
    this.bytes -= e.cost;
    if (this.#spare.length < SPARE_MAX && e.message.length <= SPARE_BYTES) this.#spare.push(e);
  }

  /** Forgets everything: where answers come from has changed. */
  flush(): void {
    this.#table.clear();
    this.#newest = undefined;
    this.#oldest = undefined;
    this.bytes = 0;
  }

  #link(e: CacheEntry): void {
    e.older = this.#newest;
    e.newer = undefined;
    if (this.#newest !== undefined) this.#newest.newer = e;
    this.#newest = e;
    if (this.#oldest === undefined) this.#oldest = e;
  }

  #unlink(e: CacheEntry): void {
    if (e.newer !== undefined) e.newer.older = e.older;
    else this.#newest = e.older;
    if (e.older !== undefined) e.older.newer = e.newer;
    else this.#oldest = e.newer;
    e.newer = undefined;
    e.older = undefined;
  }
}
