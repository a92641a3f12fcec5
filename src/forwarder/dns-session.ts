// One guest's DNS connection over TCP (RFC 7766): frames of two length bytes and a message, several queries at once, answers as
// they come. It owns framing, back-pressure and the end of the flow; what the answer is, is `dns/responder`'s.
//
// Back-pressure both ways is the window: with too many questions open or answers unsent nothing more is read.

import { type Millis, NEVER } from '../base/clock.ts';
import type { Deadlined } from '../base/deadline-queue.ts';
import type { Asker } from '../dns/responder.ts';
import type { DnsStats } from '../dns/stats.ts';
import { CloseReason, type FlowOwner, type TcpFlow } from '../stack/ports.ts';

/** RFC 7766 6.2.3: a few seconds. */
const IDLE_MS = 10_000;
const OPEN_MAX = 64;
/** Unsent answers on one connection beyond which it is not read. */
const UNSENT_PAUSE_BYTES = 65_536;
const LENGTH_BYTES = 2;
const FRAME_MAX_BYTES = LENGTH_BYTES + 65_535;

/** What sessions share. */
export interface SessionHost {
  readonly stats: DnsStats;
  /** Bytes of unsent answers over all sessions, and their limit. */
  unsentBytes: number;
  readonly unsentLimitBytes: number;
  query(buf: Uint8Array, off: number, len: number, asker: Asker, now: Millis): void;
  /** Asks for `proceed` at the end of this turn. */
  wake(s: DnsSession): void;
  /** Its deadline may have moved. */
  update(s: DnsSession): void;
  closed(s: DnsSession): void;
}

/** A question of a session that waits for its answer. */
class HeldQuestion implements Asker {
  readonly client: number;
  readonly tcp = true;
  readonly linkLimitBytes = 0;
  readonly #session: DnsSession;

  constructor(session: DnsSession) {
    this.#session = session;
    this.client = session.client;
  }

  hold(): Asker {
    return this;
  }

  deliver(buf: Uint8Array, off: number, len: number, now: Millis): void {
    this.#session.onHeldAnswer(buf, off, len, now);
  }
}

export class DnsSession implements FlowOwner, Asker, Deadlined {
  readonly client: number;
  readonly tcp = true;
  readonly linkLimitBytes = 0;
  heapAt: Millis = NEVER;
  heapIndex = -1;
  readonly #flow: TcpFlow;
  readonly #host: SessionHost;
  /** A frame that does not lie in one piece yet: `#held` bytes of it. */
  #partial: Uint8Array | undefined = undefined;
  #held = 0;
  /** Answers that the guest's window does not take yet; the first is sent up to `#sent`. */
  readonly #unsent: Uint8Array[] = [];
  #sent = 0;
  #unsentBytes = 0;
  /** Questions without an answer. */
  #open = 0;
  #idleAt: Millis;
  #gone = false;
  #reading = false;
  readonly #frame: Uint8Array;

  /** @param frame scratch for one whole answer frame, shared by all sessions. */
  constructor(flow: TcpFlow, host: SessionHost, frame: Uint8Array, now: Millis) {
    this.#flow = flow;
    this.#host = host;
    this.#frame = frame;
    this.client = flow.vm.id;
    this.#idleAt = now + IDLE_MS;
  }

  onEstablished(now: Millis): void {
    this.#read(now);
  }

  onReadable(now: Millis): void {
    this.#read(now);
  }

  onWritable(now: Millis): void {
    this.#flush(now);
    if (this.#gone) return;
    this.#read(now);
  }

  onClosed(_reason: CloseReason, _now: Millis): void {
    this.#end();
  }

  hold(): Asker {
    this.#open++;
    return new HeldQuestion(this);
  }

  /** The answer to a held question, in whatever order they come. */
  onHeldAnswer(buf: Uint8Array, off: number, len: number, now: Millis): void {
    this.#open--;
    this.deliver(buf, off, len, now);
    // More may be read now, but not from inside the resolver.
    if (!this.#gone) this.#host.wake(this);
  }

  /** After `wake`: room for more questions, the end of the flow, or a new idle deadline. */
  proceed(now: Millis): void {
    this.#read(now);
  }

  deliver(buf: Uint8Array, off: number, len: number, now: Millis): void {
    if (this.#gone) return;
    const frame = this.#frame;
    frame[0] = len >>> 8;
    frame[1] = len;
    frame.set(buf.subarray(off, off + len), LENGTH_BYTES);
    this.#send(frame, LENGTH_BYTES + len, now);
    this.#idleAt = now + IDLE_MS;
  }

  nextDeadline(): Millis {
    if (this.#gone) return NEVER;
    return this.#open > 0 ? NEVER : this.#idleAt;
  }

  onDeadline(now: Millis): void {
    if (this.#gone || now < this.nextDeadline()) return;
    // Answers that the guest does not read are not worth a clean end.
    if (this.#unsent.length > 0) this.#abort(now, CloseReason.IdleOrphan);
    else this.#finish(now);
  }

  close(now: Millis): void {
    if (!this.#gone) this.#abort(now, CloseReason.Shutdown);
  }

  #abort(now: Millis, reason: CloseReason): void {
    this.#end();
    this.#flow.abort(reason, now);
  }

  /** A clean end from our side; what is left of it is the flow's own business. */
  #finish(now: Millis): void {
    this.#end();
    this.#flow.shutdown(now);
    this.#flow.orphan(now);
  }

  #end(): void {
    if (this.#gone) return;
    this.#gone = true;
    this.#host.unsentBytes -= this.#unsentBytes;
    this.#unsentBytes = 0;
    this.#unsent.length = 0;
    this.#partial = undefined;
    this.#host.closed(this);
  }

  #read(now: Millis): void {
    if (this.#gone || this.#reading) return;
    const flow = this.#flow;
    this.#reading = true;
    while (!this.#gone && flow.readable > 0 && this.#mayRead()) {
      this.#idleAt = now + IDLE_MS;
      this.#take(now);
    }
    this.#reading = false;
    if (this.#gone) return;
    if (flow.ended && this.#open === 0 && this.#unsent.length === 0) this.#finish(now);
    else this.#host.update(this);
  }

  #mayRead(): boolean {
    return this.#open < OPEN_MAX && this.#unsentBytes < UNSENT_PAUSE_BYTES;
  }

  /** One whole frame in place, or what there is of one. */
  #take(now: Millis): void {
    const flow = this.#flow;
    const { mem, readableOffset: at, readable } = flow;
    if (this.#held === 0 && readable >= LENGTH_BYTES) {
      const len = (mem[at]! << 8) | mem[at + 1]!;
      if (readable >= LENGTH_BYTES + len) {
        this.#host.query(mem, at + LENGTH_BYTES, len, this, now);
        if (!this.#gone) flow.consume(LENGTH_BYTES + len, now);
        return;
      }
    }
    const want = this.#held < LENGTH_BYTES ? LENGTH_BYTES : LENGTH_BYTES + this.#frameLength();
    const n = Math.min(want - this.#held, readable);
    const partial = this.#room(this.#held + n);
    // Copy: a frame split over segments or the ring's end; 512 bytes at first, grown only by what really came.
    partial.set(mem.subarray(at, at + n), this.#held);
    this.#held += n;
    flow.consume(n, now);
    if (this.#held < LENGTH_BYTES || this.#held < LENGTH_BYTES + this.#frameLength()) return;
    const len = this.#held - LENGTH_BYTES;
    this.#held = 0;
    this.#host.query(partial, LENGTH_BYTES, len, this, now);
    if (partial.length > 4096) this.#partial = undefined;
  }

  #frameLength(): number {
    const p = this.#partial!;
    return (p[0]! << 8) | p[1]!;
  }

  #room(bytes: number): Uint8Array {
    const old = this.#partial;
    if (old !== undefined && old.length >= bytes) return old;
    const grown = new Uint8Array(Math.min(FRAME_MAX_BYTES, Math.max(512, bytes, (old?.length ?? 0) * 2)));
    if (old !== undefined) grown.set(old.subarray(0, this.#held));
    this.#partial = grown;
    return grown;
  }

  #send(frame: Uint8Array, len: number, now: Millis): void {
    let taken = 0;
    if (this.#unsent.length === 0) taken = this.#flow.write(frame, 0, len, now);
    if (taken === len) return;
    // Copy: the window is shut, and the frame's bytes are shared.
    this.#unsent.push(frame.slice(taken, len));
    this.#unsentBytes += len - taken;
    this.#host.unsentBytes += len - taken;
    if (this.#host.unsentBytes > this.#host.unsentLimitBytes) {
      this.#host.stats.refusedLimit++;
      this.#abort(now, CloseReason.Killed);
    }
  }

  #flush(now: Millis): void {
    while (!this.#gone && this.#unsent.length > 0) {
      const first = this.#unsent[0]!;
      const n = this.#flow.write(first, this.#sent, first.length - this.#sent, now);
      this.#sent += n;
      this.#unsentBytes -= n;
      this.#host.unsentBytes -= n;
      if (n > 0) this.#idleAt = now + IDLE_MS;
      if (this.#sent < first.length) return;
      this.#unsent.shift();
      this.#sent = 0;
    }
  }
}
