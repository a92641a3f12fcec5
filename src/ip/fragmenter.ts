// Cuts an outgoing IP payload into fragments that fit an MTU: a reusable cursor, no memory of its own. RFC 791 3.2.

import { IPV4_HEADER, IPV4_MF } from './ipv4.ts';

/** Walks the fragments of one payload: `start`, then `next` until it says false. */
export class FragmentCursor {
  /** Offset of this fragment in the payload, a multiple of 8. */
  offset = 0;
  /** Bytes of payload in this fragment. */
  length = 0;
  /** Whether fragments follow. */
  more = false;
  #payloadLength = 0;
  #perFragment = 0;
  #next = 0;

  /** @param mtu of the IP packet, at least 28. A payload that fits gives one piece with `flagsFragment` 0. */
  start(payloadLength: number, mtu: number): void {
    const room = mtu - IPV4_HEADER;
    this.#payloadLength = payloadLength;
    this.#perFragment = payloadLength <= room ? payloadLength : Math.max(8, room & ~7);
    this.#next = 0;
  }

  /** Moves to the next fragment; an empty payload has one empty piece. */
  next(): boolean {
    if (this.#next > this.#payloadLength || (this.#next === this.#payloadLength && this.#next > 0)) return false;
    this.offset = this.#next;
    this.length = Math.min(this.#perFragment, this.#payloadLength - this.offset);
    this.#next = this.offset + this.length;
    this.more = this.#next < this.#payloadLength;
    if (this.#payloadLength === 0) this.#next = 1;
    return true;
  }

  /** The header word for this fragment: MF and the offset in units of 8 bytes. */
  get flagsFragment(): number {
    return (this.more ? IPV4_MF : 0) | (this.offset >>> 3);
  }
}
