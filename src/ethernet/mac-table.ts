// The learning switch's table: which port a MAC was last seen on. It owns entries, ageing and caps; it moves no frames.
// Open addressing over typed arrays with a seeded hash; removal shifts back, so there are no tombstones. IEEE 802.1D 7.8, 7.9.

import type { Millis } from '../base/clock.ts';
import { Drop } from '../base/drop.ts';
import type { Random } from '../base/random.ts';

export interface MacTableOptions {
  /** An address not seen for this long is forgotten. Default 300,000 ms (802.1D 7.9.2). */
  readonly ageMs?: number;
  /** Addresses one port may hold. Default 64. */
  readonly maxPerPort?: number;
  /** Addresses in all. Default 1,024. */
  readonly maxTotal?: number;
  /** An address used on its port within this time does not move to another one: nobody takes over a talking neighbour. Default 1,000 ms. */
  readonly moveHoldMs?: number;
}

/** MAC (as `macHi`, `macLo`) -> port id. Port ids are positive integers; 0 means "unknown". */
export class MacTable {
  /** Addresses held, aged ones included until they are swept. */
  size = 0;
  /** Addresses learned. */
  learned = 0;
  /** Addresses that went to another port. */
  moved = 0;
  /** Moves refused because the address was in use on its port. */
  moveRefused = 0;
  /** Addresses not learned because a cap was reached. */
  capped = 0;
  /** Addresses forgotten by age. */
  aged = 0;

  readonly #ageMs: number;
  readonly #maxPerPort: number;
  readonly #maxTotal: number;
  readonly #moveHoldMs: number;
  readonly #seed: number;
  readonly #mask: number;
  readonly #hi: Uint16Array;
  readonly #lo: Int32Array;
  readonly #port: Float64Array;
  readonly #seen: Float64Array;
  readonly #perPort = new Map<number, number>();
  #nextSweep: Millis = 0;

  constructor(random: Random, options: MacTableOptions = {}) {
    this.#ageMs = options.ageMs ?? 300_000;
    this.#maxPerPort = options.maxPerPort ?? 64;
    this.#maxTotal = options.maxTotal ?? 1024;
    this.#moveHoldMs = options.moveHoldMs ?? 1000;
    this.#seed = random.i32();
    // At most half full, so that probes stay short.
    let slots = 16;
    while (slots < this.#maxTotal * 2) slots *= 2;
    this.#mask = slots - 1;
    this.#hi = new Uint16Array(slots);
    this.#lo = new Int32Array(slots);
    this.#port = new Float64Array(slots);
    this.#seen = new Float64Array(slots);
  }

  /** Changes whenever an address is new on a port. */
  get changes(): number {
    return this.learned + this.moved;
  }

  /** The port of an address, or 0. */
  lookup(hi: number, lo: number, now: Millis): number {
    const i = this.#find(hi, lo);
    const port = this.#port[i]!;
    return port !== 0 && now - this.#seen[i]! <= this.#ageMs ? port : 0;
  }

  /**
   * Notes that a frame from this address came in on `port`.
   * @param own the address is known to be this port's: it moves here at once.
   * @returns EthMacTableFull when a cap is reached, EthMacTaken when the address is in use on another port; the frame is to be dropped.
   */
  learn(hi: number, lo: number, port: number, now: Millis, own = false): Drop {
    let i = this.#find(hi, lo);
    const old = this.#port[i]!;
    if (old === port) {
      this.#seen[i] = now;
      return Drop.None;
    }
    if (old !== 0) {
      if (!own && now - this.#seen[i]! < this.#moveHoldMs) {
        this.moveRefused++;
        return Drop.EthMacTaken;
      }
      if (!this.#hasRoom(port, 0, now)) return Drop.EthMacTableFull;
      // A sweep may have shifted the entry, or removed it.
      i = this.#find(hi, lo);
      if (this.#port[i] !== 0) {
        this.#count(old, -1);
        this.#count(port, 1);
        this.#port[i] = port;
        this.#seen[i] = now;
        this.moved++;
        return Drop.None;
      }
    }
    if (!this.#hasRoom(port, 1, now)) return Drop.EthMacTableFull;
    i = this.#find(hi, lo);
    this.#hi[i] = hi;
    this.#lo[i] = lo;
    this.#port[i] = port;
    this.#seen[i] = now;
    this.#count(port, 1);
    this.size++;
    this.learned++;
    return Drop.None;
  }

  /** Forgets every address of a port that is gone. */
  dropPort(port: number): void {
    for (let i = 0; i <= this.#mask; ) {
      if (this.#port[i] === port) this.#removeAt(i);
      else i++;
    }
    // An entry that wrapped round the end may have been shifted from the start to the end behind the walk.
    if (this.#perPort.has(port)) this.dropPort(port);
  }

  /** Addresses held by a port. */
  countOf(port: number): number {
    return this.#perPort.get(port) ?? 0;
  }

  /** Addresses of a port as two numbers each, high 16 and low 32 bits; for status. */
  addressesOf(port: number): { readonly hi: number; readonly lo: number }[] {
    const found: { readonly hi: number; readonly lo: number }[] = [];
    for (let i = 0; i <= this.#mask; i++)
      if (this.#port[i] === port) found.push({ hi: this.#hi[i]!, lo: this.#lo[i]! });
    return found;
  }

  #hasRoom(port: number, extra: number, now: Millis): boolean {
    if (this.#roomNow(port, extra)) return true;
    // At most one sweep a second, whatever a guest sends.
    if (now >= this.#nextSweep) {
      this.#nextSweep = now + 1000;
      this.#sweep(now);
      if (this.#roomNow(port, extra)) return true;
    }
    this.capped++;
    return false;
  }

  #roomNow(port: number, extra: number): boolean {
    return this.countOf(port) < this.#maxPerPort && this.size + extra <= this.#maxTotal;
  }

  #sweep(now: Millis): void {
    for (let i = 0; i <= this.#mask; ) {
      if (this.#port[i] !== 0 && now - this.#seen[i]! > this.#ageMs) {
        this.#removeAt(i);
        this.aged++;
      } else i++;
    }
  }

  #hash(hi: number, lo: number): number {
    let h = Math.imul(lo ^ this.#seed, 0x9e3779b1);
    h = Math.imul(h ^ (h >>> 15) ^ hi, 0x85ebca6b);
    h = Math.imul(h ^ (h >>> 13) ^ this.#seed, 0xc2b2ae35);
    return (h ^ (h >>> 16)) & this.#mask;
  }

  /** The slot of an address, or the free slot where it would go. */
  #find(hi: number, lo: number): number {
    let i = this.#hash(hi, lo);
    while (this.#port[i] !== 0 && (this.#lo[i] !== lo || this.#hi[i] !== hi)) i = (i + 1) & this.#mask;
    return i;
  }

  #removeAt(i: number): void {
    this.#count(this.#port[i]!, -1);
    this.size--;
    let hole = i;
    for (let j = (i + 1) & this.#mask; this.#port[j] !== 0; j = (j + 1) & this.#mask) {
      const home = this.#hash(this.#hi[j]!, this.#lo[j]!);
      // Entry j may fill the hole unless its home lies cyclically in (hole, j].
      if (((j - home) & this.#mask) < ((j - hole) & this.#mask)) continue;
      this.#hi[hole] = this.#hi[j]!;
      this.#lo[hole] = this.#lo[j]!;
      this.#port[hole] = this.#port[j]!;
      this.#seen[hole] = this.#seen[j]!;
      hole = j;
    }
    this.#port[hole] = 0;
  }

  #count(port: number, by: number): void {
    const n = this.countOf(port) + by;
    if (n === 0) this.#perPort.delete(port);
    else this.#perPort.set(port, n);
  }
}
