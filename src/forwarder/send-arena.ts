// Memory for datagrams on their way into host sockets: the bytes of a guest's packet are gone when the call returns, while
// dgram may hold its buffer until its callback. One piece is filled front to back and starts over when nothing is in flight, which is the
// case after nearly every turn; what does not fit gets memory of its own, up to a cap.

import { Buffer } from 'node:buffer';

const ARENA_BYTES = 1024 * 1024;

/** Shared by all UDP sockets of one forwarder. */
export class SendArena {
  /** After `place`: where the copy lies. */
  buf: Uint8Array;
  /** After `place`: offset of the copy in `buf`. */
  off = 0;
  /** Datagrams whose callback has not come. */
  inFlight = 0;
  inFlightBytes = 0;
  /** Datagrams refused because too many bytes were in flight. */
  refused = 0;
  readonly #maxBytes: number;
  #piece: Uint8Array | undefined = undefined;
  #next = 0;

  /** @param maxBytes in flight at once; default 8 MiB. */
  constructor(maxBytes: number = 8 * 1024 * 1024) {
    this.#maxBytes = maxBytes;
    this.buf = Buffer.alloc(0);
  }

  /** Copies a datagram in. Each success is to be matched by one `done`. */
  place(src: Uint8Array, off: number, len: number): boolean {
    if (this.inFlightBytes + len > this.#maxBytes) {
      this.refused++;
      return false;
    }
    this.#piece ??= Buffer.allocUnsafeSlow(ARENA_BYTES);
    if (this.#next + len <= ARENA_BYTES) {
      this.buf = this.#piece;
      this.off = this.#next;
      this.#next += len;
    } else {
      this.buf = Buffer.allocUnsafe(len);
      this.off = 0;
    }
    // Copy: dgram.send may complete after the packet's memory is used again.
    this.buf.set(src.subarray(off, off + len), this.off);
    this.inFlight++;
    this.inFlightBytes += len;
    return true;
  }

  /** A datagram of `len` bytes is sent or failed. */
  done(len: number): void {
    this.inFlight--;
    this.inFlightBytes -= len;
    if (this.inFlight === 0) this.#next = 0;
  }
}
