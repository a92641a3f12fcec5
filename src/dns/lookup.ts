// The state of one question that is being asked upstream, and of each query sent for it. No decisions: those are `resolver`'s.

import { copyBytes, setU16 } from '../base/bytes.ts';
import { type Millis, NEVER } from '../base/clock.ts';
import type { Deadlined } from '../base/deadline-queue.ts';
import { HEADER_BYTES, type QueryView, UDP_SAFE_BYTES, type UpstreamQuery, upstreamQuery } from './message.ts';
import { equalNames } from './name.ts';
import type { Keyed, QuestionKey } from './question-table.ts';
import type { ResponseView } from './response.ts';
import type { Server } from './server.ts';

/** Somebody who wants the answer. `next` belongs to the resolver. */
export interface Waiter {
  /** Whose share of the open questions it counts against (the VM's number). */
  readonly client: number;
  next: Waiter | undefined;
  /** Called once; the view is valid until the call returns, its id and the question's case are not the guest's. */
  onAnswer(view: ResponseView, now: Millis): void;
}

/** UDP size offered to a server on the host itself. */
const LOOPBACK_SIZE_BYTES = 4096;

/** One query sent to one server. */
export class Attempt {
  readonly lookup: Lookup;
  readonly server: Server;
  readonly tcp: boolean;
  /** Sent only to see whether a suspect server is back. */
  readonly probe: boolean;
  readonly id: number;
  readonly sentAt: Millis;
  /** Without an answer for so long it is silent. */
  readonly patienceMs: Millis;
  /** The transport's socket: an answer must come by the same. */
  channel: unknown = undefined;
  /** The transport's note that it sent this again on a new connection. */
  resent = false;
  live = true;
  /** Its silence has been held against the server. */
  silent = false;
  /** The next of its lookup; the lookup's. */
  nextOfLookup: Attempt | undefined = undefined;
  /** The next of its bucket; the table's. */
  nextInBucket: Attempt | undefined = undefined;

  constructor(
    lookup: Lookup,
    server: Server,
    tcp: boolean,
    probe: boolean,
    id: number,
    now: Millis,
    patienceMs: Millis,
  ) {
    this.lookup = lookup;
    this.server = server;
    this.tcp = tcp;
    this.probe = probe;
    this.id = id;
    this.sentAt = now;
    this.patienceMs = patienceMs;
  }

  /** Bytes of the whole query. */
  get length(): number {
    return this.lookup.query.wire.length;
  }

  /** A copy of the whole query. */
  get wire(): Uint8Array {
    const out = new Uint8Array(this.length);
    this.writeTo(out, 0);
    return out;
  }

  /** Writes the whole query. Copy: each attempt has its own id, and the socket may hold its bytes for a while. */
  writeTo(out: Uint8Array, off: number): void {
    const { wire, sizeOff } = this.lookup.query;
    copyBytes(wire, 0, out, off, wire.length);
    setU16(out, off, this.id);
    if (sizeOff >= 0) setU16(out, off + sizeOff, this.server.isLoopback ? LOOPBACK_SIZE_BYTES : UDP_SAFE_BYTES);
  }
}

export class Lookup implements Keyed<Lookup>, Deadlined {
  nextInBucket: Lookup | undefined = undefined;
  /** Its neighbours among the open lookups; the resolver's. */
  newer: Lookup | undefined = undefined;
  older: Lookup | undefined = undefined;
  heapAt: Millis = NEVER;
  heapIndex = -1;
  readonly hash: number;
  readonly keyFlags: number;
  readonly nameLen: number;
  readonly type: number;
  readonly klass: number;
  readonly query: UpstreamQuery;
  /** Others may join it, and its answer may be cached. */
  readonly shareable: boolean;
  /** Version of the policy that sent it upstream. */
  readonly localVersion: number;
  waiters: Waiter | undefined = undefined;
  /** Servers in the order of this lookup, and how many have been asked, going round. */
  order: readonly Server[] = [];
  step = 0;
  /** One of them has kept silent. */
  hurried = false;
  /** Attempts that are out, the oldest first, linked by `nextOfLookup`. */
  attempts: Attempt | undefined = undefined;
  /** When patience with the last server asked ends. */
  nextStepAt: Millis = NEVER;
  /** When the guest's own patience is about to end. */
  deadline: Millis = NEVER;
  /** The best of the answers that are not good enough to stop at, and its rcode; undefined without one. */
  best: Uint8Array | undefined = undefined;
  bestRcode = -1;
  /** Every server is to be heard before "no such name" is believed. */
  thorough = false;
  /** `best` says that the name or type does not exist. */
  negative = false;
  /** The host's own resolver has been asked and has not answered. */
  hostOpen = false;
  /** It may be asked if no server answers. */
  hostLast = false;
  /** Answered; a probe may still be out. */
  finished = false;
  readonly #onDeadline: (l: Lookup, now: Millis) => void;

  constructor(q: QueryView, key: QuestionKey, localVersion: number, onDeadline: (l: Lookup, now: Millis) => void) {
    this.hash = key.hash;
    this.keyFlags = key.flags;
    this.nameLen = q.nameLen;
    this.type = q.type;
    this.klass = q.klass;
    this.query = upstreamQuery(q);
    this.shareable = q.shareable;
    this.localVersion = localVersion;
    this.#onDeadline = onDeadline;
  }

  add(a: Attempt): void {
    let last = this.attempts;
    while (last?.nextOfLookup !== undefined) last = last.nextOfLookup;
    if (last === undefined) this.attempts = a;
    else last.nextOfLookup = a;
  }

  /** Nothing happens if it is not there. */
  remove(a: Attempt): void {
    if (this.attempts === a) this.attempts = a.nextOfLookup;
    else {
      let before = this.attempts;
      while (before !== undefined && before.nextOfLookup !== a) before = before.nextOfLookup;
      if (before === undefined) return;
      before.nextOfLookup = a.nextOfLookup;
    }
    a.nextOfLookup = undefined;
  }

  matches(key: QuestionKey): boolean {
    return (
      this.nameLen === key.nameLen &&
      this.type === key.type &&
      this.klass === key.klass &&
      this.keyFlags === key.flags &&
      equalNames(this.query.wire, HEADER_BYTES, key.name, 0, key.nameLen)
    );
  }

  nextDeadline(): Millis {
    if (!this.finished) return Math.min(this.deadline, this.nextStepAt);
    return this.attempts === undefined ? NEVER : this.deadline;
  }

  onDeadline(now: Millis): void {
    this.#onDeadline(this, now);
  }
}
