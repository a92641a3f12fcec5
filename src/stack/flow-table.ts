// Which TCP connection a segment belongs to: open addressing over connections, seeded, both families in one table. A lookup
// makes nothing. Removal shifts back, so there are no tombstones.

import { type Random, randomBelow } from '../base/random.ts';
import type { IpAddress } from '../ip/address.ts';
import type { Connection } from '../tcp/connection.ts';

const START = 64;
/** Source ports of our own connections towards guests. */
const EPHEMERAL_FIRST = 32_768;
const EPHEMERAL_COUNT = 28_232;

/** Connections by (guest, guest port, remote, remote port). */
export class FlowTable {
  size = 0;
  #slots: (Connection | undefined)[] = new Array<Connection | undefined>(START).fill(undefined);
  #mask = START - 1;
  readonly #seed: number;

  constructor(seed: number) {
    this.#seed = seed;
  }

  /** IPv4: the packet path's lookup, four numbers. */
  find4(guest: number, guestPort: number, remote: number, remotePort: number): Connection | undefined {
    const hash = this.#hash(guest, remote, (guestPort << 16) | remotePort);
    for (let i = hash & this.#mask; ; i = (i + 1) & this.#mask) {
      const c = this.#slots[i];
      if (c === undefined) return undefined;
      if (
        c.hash === hash &&
        c.guest.w3 === guest &&
        c.remote.w3 === remote &&
        c.guestPort === guestPort &&
        c.remotePort === remotePort &&
        c.guest.isV4 &&
        c.remote.isV4
      ) {
        return c;
      }
    }
  }

  find(guest: IpAddress, guestPort: number, remote: IpAddress, remotePort: number): Connection | undefined {
    const hash = this.#hashOf(guest, guestPort, remote, remotePort);
    for (let i = hash & this.#mask; ; i = (i + 1) & this.#mask) {
      const c = this.#slots[i];
      if (c === undefined) return undefined;
      if (
        c.hash === hash &&
        c.guestPort === guestPort &&
        c.remotePort === remotePort &&
        c.guest.equals(guest) &&
        c.remote.equals(remote)
      ) {
        return c;
      }
    }
  }

  /** A port at which `src` has no connection with that port of the guest; -1 if none was found. */
  freePort(src: IpAddress, guest: IpAddress, guestPort: number, random: Random): number {
    const start = randomBelow(random, EPHEMERAL_COUNT);
    for (let i = 0; i < 1024; i++) {
      const port = EPHEMERAL_FIRST + ((start + i) % EPHEMERAL_COUNT);
      if (this.find(guest, guestPort, src, port) === undefined) return port;
    }
    return -1;
  }

  /** Adds a connection whose 4-tuple is not in the table. */
  add(c: Connection): void {
    if (2 * (this.size + 1) > this.#slots.length) this.#resize(this.#slots.length * 2);
    c.hash = this.#hashOf(c.guest, c.guestPort, c.remote, c.remotePort);
    this.#put(c);
    this.size++;
  }

  remove(c: Connection): void {
    const slots = this.#slots;
    const mask = this.#mask;
    let hole = c.hash & mask;
    while (slots[hole] !== c) {
      if (slots[hole] === undefined) return;
      hole = (hole + 1) & mask;
    }
    for (let j = (hole + 1) & mask; slots[j] !== undefined; j = (j + 1) & mask) {
      const home = slots[j]!.hash & mask;
      // An entry may fill the hole unless its home lies cyclically in (hole, j].
      if (((j - home) & mask) < ((j - hole) & mask)) continue;
      slots[hole] = slots[j];
      hole = j;
    }
    slots[hole] = undefined;
    this.size--;
    if (this.#slots.length > START && this.size * 8 < this.#slots.length) this.#resize(this.#slots.length >>> 1);
  }

  /** A copy of what is in the table, so that the caller may close what it visits. */
  all(): Connection[] {
    return this.#slots.filter((c) => c !== undefined);
  }

  #put(c: Connection): void {
    let i = c.hash & this.#mask;
    while (this.#slots[i] !== undefined) i = (i + 1) & this.#mask;
    this.#slots[i] = c;
  }

  #resize(length: number): void {
    const old = this.#slots;
    this.#slots = new Array<Connection | undefined>(length).fill(undefined);
    this.#mask = length - 1;
    for (const c of old) if (c !== undefined) this.#put(c);
  }

  #hashOf(guest: IpAddress, guestPort: number, remote: IpAddress, remotePort: number): number {
    const ports = (guestPort << 16) | remotePort;
    if (guest.isV4 && remote.isV4) return this.#hash(guest.w3, remote.w3, ports);
    const low = this.#hash(guest.w0 ^ guest.w2, guest.w1, guest.w3);
    return this.#hash(low ^ remote.w0 ^ remote.w2, remote.w1 ^ remote.w3, ports);
  }

  #hash(a: number, b: number, c: number): number {
    let h = Math.imul(a ^ this.#seed, 0x9e3779b1);
    h = Math.imul(h ^ (h >>> 15) ^ b, 0x85ebca6b);
    h = Math.imul(h ^ (h >>> 13) ^ c, 0xc2b2ae35);
    return h ^ (h >>> 16);
  }
}
