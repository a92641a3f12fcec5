// Frames to the guest: collected back to back in one block, written with one call a turn. Implements the stack's `Egress`.
// It owns the batches' memory and which of them the kernel still reads; the socket is behind `BatchSink`.
//
// A batch's block comes from the slab with its first frame and goes back as soon as the kernel has it, so that all links share
// the same few warm pages and an idle one holds next to nothing. One small block is kept for the link's whole life: with the
// slab full, acknowledgements must still leave, or nothing would ever be freed.
// A VM that does not drain holds `MAX_BATCHES` blocks beside that one and no more: then `reserve` refuses, and `onDrained` tells
// when it is over.

import { invariant } from '../base/invariant.ts';
import type { Slab } from '../base/slab.ts';
import type { Egress } from '../stack/ports.ts';
import { type FrameFormat, maxTxFrameBytes, prefixBytes, writePrefix } from './framing.ts';
import type { LinkCounters } from './link-counters.ts';

/** Bytes of a batch's block. */
export const BATCH_BLOCK_BYTES: number = 256 * 1024;
/** What a unix socket's default send buffer takes in one write; what goes beyond completes late and out of cache. */
export const BATCH_LIMIT_BYTES = 219_264;
/** A batch this large is written out within the turn: another large frame would not fit it. */
const BATCH_FULL_BYTES = 200 * 1024;
/** Blocks that one link holds at most beside the kept one: one that the kernel takes, one behind it. A third gained nothing. */
export const MAX_BATCHES = 2;
const KEPT_MIN_BYTES = 16 * 1024;

/** The socket as the writer sees it. */
export interface BatchSink {
  /**
   * Writes `bytes`.
   * @returns true if the kernel took all of them before this returned; otherwise they stay as they are until `done` is called, which
   * it is also after a failure.
   */
  write(bytes: Uint8Array, done: () => void): boolean;
}

/** One block of frames; a slot that is used again and again. */
class Batch {
  readonly kept: boolean;
  readonly done: () => void;
  off = -1;
  /** Bytes that may be filled. */
  cap = 0;
  fill = 0;
  /** The kernel has not taken all of it yet. */
  busy = false;

  constructor(kept: boolean, onDone: (batch: Batch) => void) {
    this.kept = kept;
    this.done = () => onDone(this);
  }
}

function isFree(batch: Batch): boolean {
  return !batch.busy;
}

/** Bytes of the kept block: some frames of a small MTU, one of a large one. */
export function keptBlockBytes(format: FrameFormat, mtu: number): number {
  const frame = prefixBytes(format) + maxTxFrameBytes(format, mtu);
  return Math.max(KEPT_MIN_BYTES, 2 ** Math.ceil(Math.log2(frame)));
}

/** The link's end of `Egress`. */
export class FrameWriter implements Egress {
  readonly #format: FrameFormat;
  readonly #slab: Slab;
  readonly #mem: Uint8Array;
  readonly #sink: BatchSink;
  readonly #counters: LinkCounters;
  readonly #onClose: (reason: string) => void;
  readonly #onDrained: () => void;
  readonly #prefix: number;
  readonly #maxFrame: number;
  readonly #batches: Batch[] = [];
  readonly #kept: Batch;
  #current: Batch | undefined;
  /** The slab had no block when one was last wanted: the kept one serves everybody. */
  #slabFull = false;
  #reserved = 0;
  runOffset = 0;
  runStride = 0;
  #waiting = false;
  #closed = false;

  /**
   * @param keptOff a slab block of `keptBlockBytes`; the writer's from now on, freed by `dispose`.
   * @param onDrained a batch is free again after `reserve` refused.
   * @param onClose the stack ends the connection.
   */
  constructor(
    format: FrameFormat,
    mtu: number,
    slab: Slab,
    keptOff: number,
    sink: BatchSink,
    counters: LinkCounters,
    onDrained: () => void,
    onClose: (reason: string) => void,
  ) {
    this.#format = format;
    this.#slab = slab;
    this.#mem = slab.mem;
    this.#sink = sink;
    this.#counters = counters;
    this.#onDrained = onDrained;
    this.#onClose = onClose;
    this.#prefix = prefixBytes(format);
    this.#maxFrame = maxTxFrameBytes(format, mtu);
    const onDone = (batch: Batch): void => this.#written(batch);
    for (let i = 0; i < MAX_BATCHES; i++) this.#batches.push(new Batch(false, onDone));
    this.#kept = new Batch(true, onDone);
    this.#kept.off = keptOff;
    this.#kept.cap = Math.min(keptBlockBytes(format, mtu), BATCH_LIMIT_BYTES);
  }

  /** True while `reserve` has refused and nothing has drained since. */
  get waiting(): boolean {
    return this.#waiting;
  }

  reserve(len: number, bulk = false): number {
    if (this.#closed) return -1;
    if (len > this.#maxFrame) {
      this.#counters.txTooBig++;
      return -1;
    }
    let batch = this.#current;
    if (batch !== undefined && batch.fill + this.#prefix + len > batch.cap) {
      this.flush();
      batch = undefined;
    }
    if (batch?.kept === true && bulk && !this.#slabFull) {
      // Its room is for those who cannot wait. With a batch free it leaves now: nothing would say later that there is room.
      if (!this.#batches.some(isFree)) {
        this.#counters.txRefused++;
        this.#waiting = true;
        return -1;
      }
      this.flush();
      batch = undefined;
    }
    if (batch === undefined) {
      batch = this.#take(bulk);
      if (batch === undefined) {
        this.#counters.txRefused++;
        this.#waiting = true;
        return -1;
      }
      this.#current = batch;
    }
    this.#reserved = len;
    return batch.off + batch.fill + this.#prefix;
  }

  commit(off: number, len: number): void {
    if (this.#closed || len === 0) return;
    const batch = this.#current;
    invariant(
      batch !== undefined && off === batch.off + batch.fill + this.#prefix,
      'committed frame is the reserved one',
    );
    invariant(len <= this.#reserved, 'committed frame is no longer than reserved');
    writePrefix(this.#format, this.#mem, off - this.#prefix, len);
    batch.fill += this.#prefix + len;
    this.#reserved = 0;
    this.#counters.txFrames++;
    this.#counters.txBytes += len;
    if (batch.fill >= BATCH_FULL_BYTES) this.flush();
  }

  reserveRun(len: number, count: number): number {
    const off = this.reserve(len, true);
    const batch = this.#current;
    if (off < 0 || batch === undefined) return 0;
    this.runOffset = off;
    this.runStride = this.#prefix + len;
    return Math.min(count, Math.floor((batch.cap - batch.fill) / this.runStride));
  }

  commitRun(off: number, len: number, count: number): void {
    const batch = this.#current;
    if (this.#closed || count === 0) return;
    const bytes = count * this.runStride;
    invariant(
      batch !== undefined && off === this.runOffset && len === this.#reserved,
      'committed run is the reserved one',
    );
    invariant(batch.fill + bytes <= batch.cap, 'committed run is no longer than reserved');
    for (let at = off - this.#prefix, i = 0; i < count; i++, at += this.runStride)
      writePrefix(this.#format, this.#mem, at, len);
    batch.fill += bytes;
    this.#reserved = 0;
    this.#counters.txFrames += count;
    this.#counters.txBytes += count * len;
    if (batch.fill >= BATCH_FULL_BYTES) this.flush();
  }

  flush(): void {
    const batch = this.#current;
    if (batch === undefined) return;
    this.#current = undefined;
    this.#reserved = 0;
    if (batch.fill === 0) {
      this.#release(batch);
      return;
    }
    const end = batch.off + batch.fill;
    batch.fill = 0;
    this.#counters.txWrites++;
    if (this.#sink.write(this.#mem.subarray(batch.off, end), batch.done)) {
      this.#release(batch);
    } else {
      batch.busy = true;
      this.#counters.txAsync++;
    }
  }

  close(reason: string): void {
    this.#onClose(reason);
  }

  /** No frame is taken from now on; the blocks stay, as the stack may be writing into one at this moment. */
  shut(): void {
    this.#closed = true;
    this.#waiting = false;
  }

  /** Gives all memory back. The socket is closed: the kernel reads nothing any more, and no call of the stack is under way. */
  dispose(): void {
    this.shut();
    this.#current = undefined;
    for (const batch of [...this.#batches, this.#kept]) {
      if (batch.off >= 0) this.#slab.free(batch.off);
      batch.off = -1;
      batch.busy = false;
    }
  }

  /** The kept block is for a full slab, and for frames that would be lost if they had to wait. */
  #take(bulk: boolean): Batch | undefined {
    const batch = this.#batches.find(isFree);
    if (batch === undefined && bulk) return undefined;
    const off = batch === undefined ? -1 : this.#slab.alloc(BATCH_BLOCK_BYTES);
    this.#slabFull = batch !== undefined && off < 0;
    if (batch !== undefined && off >= 0) {
      batch.off = off;
      batch.cap = BATCH_LIMIT_BYTES;
      return batch;
    }
    return this.#kept.busy ? undefined : this.#kept;
  }

  #release(batch: Batch): void {
    if (batch.kept || batch.off < 0) return;
    this.#slab.free(batch.off);
    batch.off = -1;
  }

  /** A write that was waited for is over. */
  #written(batch: Batch): void {
    if (this.#closed || !batch.busy) return;
    batch.busy = false;
    this.#release(batch);
    if (!this.#waiting) return;
    this.#waiting = false;
    this.#onDrained();
    this.flush();
  }
}
