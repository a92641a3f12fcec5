// Memory for datagrams on their way into host sockets: the bytes of a guest's packet are gone when the call returns, while a send that
// the kernel did not take at once reads them later. It owns the copies and their bound; who sends them is udp-socket's business.
//
// Nearly all sends are done when they return, so one place, the scratch, is used over and over, with a view for each length made once.
// While a send that is not done holds it, further datagrams go into a larger piece, filled front to back and started over when nothing is
// left in it; what does not fit there gets memory of its own, up to a cap.

import { Buffer } from 'node:buffer';
import { copyBytes } from '../base/bytes.ts';
import type { Slab } from '../base/slab.ts';

const PIECE_BYTES = 1024 * 1024;
/** More than any datagram. */
const SCRATCH_BYTES = 64 * 1024;
/** Views kept, a power of two: every length up to the usual MTUs has its own. */
const VIEWS = 2048;

export interface SendArenaOptions {
  /** In flight at once; default 8 MiB. */
  readonly maxBytes?: number;
  /** The packet memory, from which a copy into a scratch in the same memory is cheapest. */
  readonly slab?: Slab;
}

/** Shared by all UDP sockets of one process. */
export class SendArena {
  /** After `place`: the copy. */
  bytes: Uint8Array = new Uint8Array(0);
  /** Datagrams placed and not done. */
  inFlight = 0;
  inFlightBytes = 0;
  /** Datagrams refused because too many bytes were in flight. */
  refused = 0;
  readonly #maxBytes: number;
  readonly #slab: Slab | undefined;
  /** Where the scratch lies. */
  #mem: Uint8Array | undefined = undefined;
  #off = 0;
  readonly #views: (Uint8Array | undefined)[] = [];
  /** The view of the scratch that is in flight. */
  #held: Uint8Array | undefined = undefined;
  #piece: Uint8Array | undefined = undefined;
  #next = 0;

  constructor(options: SendArenaOptions = {}) {
    this.#maxBytes = options.maxBytes ?? 8 * 1024 * 1024;
    this.#slab = options.slab;
    // At once: what the packet memory holds when nothing is under way is the same at all times.
    if (this.#slab !== undefined) this.#settle();
  }

  /** Copies a datagram of at most 64 KiB in. Each success is to be matched by one `done`. */
  place(src: Uint8Array, off: number, len: number): boolean {
    if (this.inFlightBytes + len > this.#maxBytes) {
      this.refused++;
      return false;
    }
    if (this.#held === undefined) {
      this.bytes = this.#view(len);
      this.#held = this.bytes;
      // Copy: a send may be done after the packet's memory is used again, and which will be cannot be known before.
      copyBytes(src, off, this.#mem!, this.#off, len);
    } else {
      this.bytes = this.#room(len);
      // Copy: the same.
      copyBytes(src, off, this.bytes, 0, len);
    }
    this.inFlight++;
    this.inFlightBytes += len;
    return true;
  }

  /** A datagram is sent or failed. @param bytes as `place` left it. */
  done(bytes: Uint8Array): void {
    this.inFlight--;
    this.inFlightBytes -= bytes.length;
    if (bytes === this.#held) this.#held = undefined;
    if (this.inFlight === 0) this.#next = 0;
  }

  #view(len: number): Uint8Array {
    const at = len & (VIEWS - 1);
    const view = this.#views[at];
    if (view !== undefined && view.length === len) return view;
    if (this.#mem === undefined) this.#settle();
    const mem = this.#mem!;
    const made = new Uint8Array(mem.buffer, mem.byteOffset + this.#off, len);
    this.#views[at] = made;
    return made;
  }

  #settle(): void {
    const off = this.#slab?.alloc(SCRATCH_BYTES) ?? -1;
    this.#mem = off < 0 ? new Uint8Array(SCRATCH_BYTES) : this.#slab!.mem;
    this.#off = Math.max(0, off);
    for (let i = 0; i < VIEWS; i++) this.#views.push(undefined);
  }

  #room(len: number): Uint8Array {
    this.#piece ??= Buffer.allocUnsafeSlow(PIECE_BYTES);
    if (this.#next + len > PIECE_BYTES) return Buffer.allocUnsafe(len);
    const at = this.#next;
    this.#next += len;
    return this.#piece.subarray(at, this.#next);
  }
}
