// Where a connection's numbers begin: initial sequence numbers (RFC 6528) and timestamp offsets (RFC 7323 5.4), both from keyed hashes
// of its addresses and ports, so that nobody outside can guess them and no two flows tell of each other.

import type { Millis } from '../base/clock.ts';
import type { Random } from '../base/random.ts';
import { SipHash } from '../base/sip-hash.ts';
import type { Connection } from '../tcp/connection.ts';
import { seqAdd, seqLeq } from '../tcp/seq.ts';

export class InitialNumbers {
  readonly #isn: SipHash;
  readonly #ts: SipHash;

  constructor(random: Random) {
    this.#isn = new SipHash(random);
    this.#ts = new SipHash(random);
  }

  /** RFC 6528: a 4-microsecond clock and a keyed hash of the 4-tuple. */
  isn(c: Connection, now: Millis): number {
    const ports = (c.guestPort << 16) | c.remotePort;
    const high = c.guest.isV4
      ? 0
      : this.#isn.hash4(c.guest.w0 ^ c.remote.w0, c.guest.w1, c.guest.w2, c.remote.w1 ^ c.remote.w2);
    const isn = (Math.floor(now * 250) + this.#isn.hash4(c.guest.w3, c.remote.w3, ports, high)) | 0;
    // A flow that sent faster than the clock ticks may have overtaken it: no old segment may fall into the new one's window.
    return c.issAbove !== undefined && seqLeq(isn, c.issAbove) ? seqAdd(c.issAbove, 0x1_0001) : isn;
  }

  /** What is added to the clock of a flow's timestamps; one of addresses, both ports in a word, and the direction of the open. */
  tsOffset(a: number, b: number, ports: number, active: number): number {
    return this.#ts.hash4(a, b, ports, active);
  }
}
