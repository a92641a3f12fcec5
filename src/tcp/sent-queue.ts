// What was sent and is not cumulatively acknowledged: one entry a segment, in sequence order, in parallel typed arrays.
// Segment boundaries never split on a SACK, so a scoreboard cannot be blown up by the peer (CVE-2019-11477, -11478).

import type { Millis } from '../base/clock.ts';
import type { Seq } from './seq.ts';

export const SENT_SACKED = 1;
export const SENT_LOST = 2;
/** Sent more than once. */
export const SENT_RETRANS = 4;

const EMPTY_I32 = new Int32Array(0);
const EMPTY_F64 = new Float64Array(0);
const EMPTY_U8 = new Uint8Array(0);

const START_CAP = 8;
/** Most segments in flight on one flow; output waits beyond it. */
export const SENT_MAX = 16_384;

/** A ring of sent segments. Entry i starts where entry i-1 ends; entry 0 starts at SND.UNA. */
export class SentQueue {
  count = 0;
  #head = 0;
  #mask = 0;
  #end: Int32Array = EMPTY_I32;
  #at: Float64Array = EMPTY_F64;
  #flags: Uint8Array = EMPTY_U8;

  get full(): boolean {
    return this.count >= SENT_MAX;
  }

  push(endSeq: Seq, now: Millis): void {
    if (this.count === this.#end.length) this.#resize(Math.max(START_CAP, this.#end.length * 2));
    const i = (this.#head + this.count++) & this.#mask;
    this.#end[i] = endSeq;
    this.#at[i] = now;
    this.#flags[i] = 0;
  }

  endOf(i: number): Seq {
    return this.#end[(this.#head + i) & this.#mask]!;
  }

  setEnd(i: number, endSeq: Seq): void {
    this.#end[(this.#head + i) & this.#mask] = endSeq;
  }

  sentAt(i: number): Millis {
    return this.#at[(this.#head + i) & this.#mask]!;
  }

  setSentAt(i: number, now: Millis): void {
    this.#at[(this.#head + i) & this.#mask] = now;
  }

  flags(i: number): number {
    return this.#flags[(this.#head + i) & this.#mask]!;
  }

  setFlags(i: number, flags: number): void {
    this.#flags[(this.#head + i) & this.#mask] = flags;
  }

  /** Cuts entry i in two at `mid`; both keep its time and flags (a path MTU that shrank). */
  split(i: number, mid: Seq): void {
    const end = this.endOf(i);
    const at = this.sentAt(i);
    const flags = this.flags(i);
    this.push(end, at);
    for (let j = this.count - 1; j > i + 1; j--) {
      this.setEnd(j, this.endOf(j - 1));
      this.setSentAt(j, this.sentAt(j - 1));
      this.setFlags(j, this.flags(j - 1));
    }
    this.setEnd(i, mid);
    this.setEnd(i + 1, end);
    this.setSentAt(i + 1, at);
    this.setFlags(i + 1, flags);
  }

  shift(): void {
    this.#head = (this.#head + 1) & this.#mask;
    if (--this.count === 0) {
      this.#head = 0;
      // A flow that had much in flight gives the arrays back once it has none.
      if (this.#end.length > 64) this.#drop();
    }
  }

  clear(): void {
    this.count = 0;
    this.#head = 0;
    this.#drop();
  }

  #drop(): void {
    this.#end = EMPTY_I32;
    this.#at = EMPTY_F64;
    this.#flags = EMPTY_U8;
    this.#mask = 0;
  }

  #resize(cap: number): void {
    const end = new Int32Array(cap);
    const at = new Float64Array(cap);
    const flags = new Uint8Array(cap);
    for (let i = 0; i < this.count; i++) {
      end[i] = this.endOf(i);
      at[i] = this.sentAt(i);
      flags[i] = this.flags(i);
    }
    this.#end = end;
    this.#at = at;
    this.#flags = flags;
    this.#head = 0;
    this.#mask = cap - 1;
  }
}
