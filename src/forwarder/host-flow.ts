// One TCP flow between a guest and a socket of the host: bytes both ways, ends as ends, resets as resets. It owns the socket;
// the connection with the guest is the stack's.
//
// Guest to host: bytes lie in the flow's receive ring and are written from there, one write a turn. What the kernel does not
// take at once stays pinned in the ring until the write completes; the ring is the window, so the guest stops by itself.
//
// Host to guest: the socket reads (`onread`) into one scratch buffer that all quiet flows share, for a read is complete before
// any other begins, and the bytes are copied to the flow's send ring. A flow whose reads are large gets its next read straight
// into the ring, and the ring back when it falls quiet. When the ring is full reading stops, and the host's own TCP holds the sender back.

import type { Clock, Millis } from '../base/clock.ts';
import type { HostStream, StreamOwner } from '../host/stream.ts';
import type { TurnClock } from '../host/turn-clock.ts';
import { CloseReason, type FlowOwner, type TcpFlow } from '../stack/ports.ts';
import { isStaleRoute, refuseReasonOf } from './errno.ts';
import type { Lender, Loans } from './loans.ts';

/** Reads of at least this size move a flow to reading into its own ring. */
const BULK_BYTES = 32 * 1024;
/** A read into the ring is to be this long, if the ring may grow so far: few large reads, and writes as large behind them. */
const LEND_BYTES = 256 * 1024;
/** Each recall of a lent piece leaves some bytes in Node's handle until it is closed: a flow that needs more of them reads by the scratch buffer. */
const RECALLS_MAX = 1000;
/** Bytes of the shared read buffer. */
export const SCRATCH_BYTES: number = 64 * 1024;
/** Reading stops when less than this is free in the send ring, */
const PAUSE_BYTES = 8 * 1024;
/** and goes on when this much is, or half of what the ring may be. */
const RESUME_BYTES = 512 * 1024;
/** Pause before memory is asked for again when the packet memory was full and nothing of the flow was under way. */
const MEMORY_RETRY_MS = 20;

/** What all flows of a forwarder share. */
export interface HostFlowContext {
  readonly clock: Clock;
  /** The shared read buffer; its bytes mean nothing between two callbacks. */
  readonly scratch: Buffer;
  /** The packet memory, as a Buffer. */
  readonly mem: Buffer;
  readonly stats: HostFlowStats;
  /** Every flow that has a socket. */
  readonly live: Set<HostFlow>;
  readonly turns: TurnClock;
  readonly loans: Loans;
  /** A dial failed for want of a route. */
  readonly onNoRoute?: (() => void) | undefined;
}

export class HostFlowStats {
  dialled = 0;
  dialFailed = 0;
  accepted = 0;
  resets = 0;
  bytesToHost = 0;
  bytesToGuest = 0;
  /** Writes that the host's kernel did not take at once. */
  writesPending = 0;
  /** Times reading from the host stopped because the guest's side was full. */
  readsPaused = 0;
  memoryWaits = 0;
}

export class HostFlow implements FlowOwner, StreamOwner, Lender {
  readonly flow: TcpFlow;
  readonly #context: HostFlowContext;
  #stream: HostStream | undefined;
  /** The dial is under way: the guest has not been answered. */
  #dialling = false;
  #established: boolean;
  /** The flow is over; only the socket's own clean end may be outstanding. */
  #over = false;
  #hostEnded = false;
  #guestEnded = false;
  /** Bytes of the receive ring that the kernel has not taken yet. */
  #writing = 0;
  #lent = 0;
  /** Is on the list of those who lend. */
  #lends = false;
  /** Has read since `recallIdle` was asked last. */
  #busy = false;
  #recalls = 0;
  #lastRead = 0;
  /** Bytes that the read under way may bring. */
  #asked = 0;
  #paused = false;
  /** Bytes read that found no room: at most one read's worth. */
  #spill: Buffer | undefined;
  #retry: NodeJS.Timeout | undefined;
  readonly #onWritten: () => void;

  /** @param established false: `accept` or `refuse` is due once the socket is connected. */
  constructor(flow: TcpFlow, context: HostFlowContext, established: boolean) {
    this.flow = flow;
    this.#context = context;
    this.#established = established;
    this.#onWritten = () => this.#written();
  }

  /** Takes the stream; a connecting one answers the guest when it is connected. */
  attach(stream: HostStream, dialling: boolean): void {
    this.#stream = stream;
    this.#dialling = dialling;
    this.#context.live.add(this);
    stream.resume();
  }

  /** The daemon stops: the host's side is reset too. */
  destroy(): void {
    this.#drop(true);
  }

  get remoteText(): string {
    return `${this.flow.remote}:${this.flow.remotePort}`;
  }

  // --- The host's events.

  onConnect(): void {
    if (!this.#dialling || this.#over) return;
    this.#dialling = false;
    this.flow.accept(this.#context.clock.now());
  }

  onError(errno: string): void {
    if (this.#over) return;
    const now = this.#context.clock.now();
    if (this.#dialling) {
      this.#context.stats.dialFailed++;
      this.#over = true;
      this.flow.refuse(refuseReasonOf(errno), now);
      this.flow.release();
      this.#drop(false);
      if (isStaleRoute(errno)) this.#context.onNoRoute?.();
    } else this.#onReset();
  }

  #onReset(): void {
    this.#context.stats.resets++;
    this.#over = true;
    this.flow.abort(CloseReason.HostReset, this.#context.clock.now());
    // The socket is destroyed here if it is not already, before its memory is given back.
    this.#drop(false);
  }

  onEnd(): void {
    if (this.#hostEnded || this.#over) return;
    // A reset that came together with data is told as an end by the libuv of Node 20; the kernel knows no peer then any more.
    // (After the guest's own FIN it never does: `onRead` sees to that case.)
    if (!this.#guestEnded && this.#stream?.hasPeer !== true) {
      this.#onReset();
      return;
    }
    this.#hostEnded = true;
    this.#unlend();
    if (this.#spill === undefined) this.flow.shutdown(this.#context.clock.now());
  }

  onClose(): void {
    this.#context.live.delete(this);
    this.#context.loans.delete(this);
    clearTimeout(this.#retry);
    if (this.#over) return;
    // Both ends are over for the socket; the flow with the guest finishes by itself.
    if (this.#hostEnded && this.#guestEnded) return;
    if (this.#hostEnded) this.flow.orphan(this.#context.clock.now());
    else {
      this.#over = true;
      this.flow.abort(CloseReason.HostReset, this.#context.clock.now());
      this.flow.release();
    }
  }

  // --- Host to guest.

  readBuffer(): Uint8Array {
    const buffer = this.#nextBuffer();
    this.#asked = buffer.length;
    return buffer;
  }

  #nextBuffer(): Buffer {
    const { scratch, mem } = this.#context;
    if (this.#over) return scratch;
    const free = this.flow.writable;
    if (free < SCRATCH_BYTES) return scratch.subarray(0, Math.max(free, PAUSE_BYTES));
    if (this.#lastRead < BULK_BYTES || this.#paused || this.#spill !== undefined || this.#recalls === RECALLS_MAX) {
      return scratch;
    }
    const room = this.flow.room(LEND_BYTES);
    if (room < BULK_BYTES) {
      // Too short a piece at the ring's end: this read goes through the scratch buffer and wraps round.
      if (room > 0) this.flow.commit(0, 0);
      return scratch;
    }
    this.#lent = Math.min(room, LEND_BYTES);
    if (!this.#lends) {
      this.#lends = true;
      this.#context.loans.add(this);
    }
    const off = this.flow.roomOffset;
    return mem.subarray(off, off + this.#lent);
  }

  onRead(bytes: number): boolean {
    const { clock, scratch, stats, turns } = this.#context;
    const now = clock.now();
    this.#lastRead = bytes;
    this.#busy = true;
    stats.bytesToGuest += bytes;
    turns.beginRead(now);
    // A bug that ends this flow must not end the turns of all.
    try {
      if (this.#lent > 0) {
        this.#lent = 0;
        this.flow.commit(bytes, now);
      } else if (!this.#over) {
        const taken = this.flow.write(scratch, 0, bytes, now);
        // Copy: the packet memory is full; these bytes wait here, and nothing more is read.
        if (taken < bytes) this.#spill = Buffer.from(scratch.subarray(taken, bytes));
      }
    } finally {
      turns.endRead(now);
    }
    if (this.#over) return false;
    if (this.#spill !== undefined || this.flow.writable < PAUSE_BYTES) {
      this.#pause();
      return false;
    }
    if (!this.#guestEnded || bytes === this.#asked) return true;
    // Reading anew from the next round on: libuv (before Node 24) takes a reset behind a short read for an end otherwise.
    setImmediate(resumeReading, this);
    return false;
  }

  /** Goes on where a read was the last of its round. */
  readOn(): void {
    if (!this.#over && !this.#paused) this.#stream?.resume();
  }

  recallIdle(): boolean {
    const { flow } = this;
    if (this.#lent > 0 && !this.#busy && flow.writable === flow.writableLimit) {
      this.#recalls++;
      this.#lastRead = 0;
      this.#unlend();
      this.#stream?.recall();
    }
    this.#busy = false;
    this.#lends = this.#lent > 0;
    return this.#lends;
  }

  #pause(): void {
    this.#paused = true;
    this.#context.stats.readsPaused++;
    this.flow.awaitWritable();
    if (this.#spill !== undefined) this.#retryLater();
  }

  /** Memory is short: acknowledgements bring the flow back if any are under way, this timer if none are. */
  #retryLater(): void {
    this.#context.stats.memoryWaits++;
    this.#retry ??= setTimeout(() => {
      this.#retry = undefined;
      if (!this.#over) this.onWritable(this.#context.clock.now());
    }, MEMORY_RETRY_MS);
  }

  onWritable(now: Millis): void {
    if (this.#over) return;
    const spill = this.#spill;
    if (spill !== undefined) {
      const taken = this.flow.write(spill, 0, spill.length, now);
      if (taken < spill.length) {
        this.#spill = spill.subarray(taken);
        this.flow.awaitWritable();
        this.#retryLater();
        return;
      }
      this.#spill = undefined;
      if (this.#hostEnded) {
        this.flow.shutdown(now);
        return;
      }
    }
    if (!this.#paused) return;
    if (this.flow.writable < Math.min(RESUME_BYTES, this.flow.writableLimit >>> 1)) {
      this.flow.awaitWritable();
      return;
    }
    this.#paused = false;
    this.#stream?.resume();
  }

  // --- Guest to host.

  onEstablished(now: Millis): void {
    this.#established = true;
    this.onReadable(now);
  }

  onReadable(now: Millis): void {
    const { flow } = this;
    const stream = this.#stream;
    if (stream === undefined || this.#over) return;
    const { mem, stats } = this.#context;
    while (this.#writing === 0) {
      const len = flow.readable;
      if (len === 0) break;
      const off = flow.readableOffset;
      stats.bytesToHost += len;
      if (stream.write(mem.subarray(off, off + len), this.#onWritten)) {
        flow.consume(len, now);
        continue;
      }
      flow.pin();
      this.#writing = len;
      stats.writesPending++;
    }
    if (flow.ended && this.#writing === 0) this.#endHost();
  }

  /** The write that waited is over. */
  #written(): void {
    const len = this.#writing;
    if (len === 0 || this.#over) return;
    this.#writing = 0;
    const now = this.#context.clock.now();
    this.flow.consume(len, now);
    if (this.flow.readable > 0 || this.flow.ended) this.onReadable(now);
  }

  #endHost(): void {
    if (this.#guestEnded) return;
    this.#guestEnded = true;
    this.#stream?.end();
  }

  // --- The end.

  onClosed(reason: CloseReason, _now: Millis): void {
    if (this.#over) return;
    this.#over = true;
    if (reason === CloseReason.Done) {
      // Every byte has been taken: the host gets its end of stream, and the socket closes by itself when it has both.
      this.#endHost();
      this.#unlend();
      if (this.#hostEnded) this.flow.release();
      else this.#drop(true);
      return;
    }
    this.#drop(true);
  }

  #unlend(): void {
    if (this.#lent === 0) return;
    this.#lent = 0;
    this.flow.commit(0, 0);
  }

  /** Lets go of the stream, with a reset where there is a connection to reset, and of the flow's memory. */
  #drop(reset: boolean): void {
    const stream = this.#stream;
    this.#stream = undefined;
    this.#over = true;
    this.#spill = undefined;
    clearTimeout(this.#retry);
    this.#context.live.delete(this);
    this.#context.loans.delete(this);
    if (reset) stream?.reset();
    else stream?.destroy();
    this.#lent = 0;
    this.flow.release();
  }

  /** For status: whether the handshake with the guest is complete. */
  get established(): boolean {
    return this.#established;
  }
}

/** For `setImmediate`, without a closure a read. */
function resumeReading(flow: HostFlow): void {
  flow.readOn();
}
