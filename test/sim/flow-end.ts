// An application behind a TcpFlow of src/: the host's side of a flow, and both sides where the embedded guest takes part. It
// stands where the forwarder's HostFlow stands and keeps to the same rules of the border, with bytes of a seeded stream and
// every freedom of a host: slow, paused, gone.

import type { Random } from '../../src/base/random.ts';
import { CloseReason, type FlowOwner, type RefuseReason, type TcpFlow } from '../../src/tcp/flow.ts';
import type { Outcome, Pair, SimEnd } from './ends.ts';
import type { Stream } from './stream.ts';
import type { Timeline } from './timeline.ts';

const NEVER = Number.POSITIVE_INFINITY;
/** As the forwarder's pause when the packet memory is full. */
const MEMORY_RETRY_MS = 20;
const SCRATCH = new Uint8Array(64 * 1024);

export interface FlowEndOptions {
  /** The host's kernel takes each write only after this time; 0: at once. */
  slowMs: number;
  /** Writes straight into the flow's ring instead of from elsewhere. */
  lend: boolean;
}

export class FlowEnd implements SimEnd, FlowOwner {
  readonly label: string;
  readonly flow: TcpFlow;
  outcome: Outcome = 'opening';
  reason = '';
  established = false;
  written = 0;
  received = 0;
  shut = false;
  sawEof = false;
  readonly #pair: Pair;
  readonly #stream: Stream;
  readonly #timeline: Timeline;
  readonly #options: FlowEndOptions;
  readonly #random: Random;
  /** Bytes that the application has written and the flow has not taken. */
  #waiting = 0;
  #shutSent = false;
  #allowance = NEVER;
  /** Bytes that the host's kernel is taking. */
  #taking = 0;
  #discard = false;
  #retrying = false;
  #orphaned = false;
  #answered: boolean;

  /** @param answered false: a SYN that waits for `accept` or `refuse`. */
  constructor(
    label: string,
    pair: Pair,
    stream: Stream,
    flow: TcpFlow,
    timeline: Timeline,
    random: Random,
    options: FlowEndOptions,
    answered: boolean,
  ) {
    this.#answered = answered;
    this.label = label;
    this.#pair = pair;
    this.#stream = stream;
    this.flow = flow;
    this.#timeline = timeline;
    this.#random = random;
    this.#options = options;
    flow.owner = this;
  }

  get finished(): boolean {
    return this.outcome !== 'open' && this.outcome !== 'opening';
  }

  // --- Answering a SYN.

  accept(): void {
    if (this.finished) return;
    this.#answered = true;
    this.flow.accept(this.#timeline.now);
    this.#push();
  }

  refuse(reason: RefuseReason): void {
    if (this.finished) return;
    this.#end('refused', reason);
    this.flow.refuse(reason, this.#timeline.now);
    this.flow.release();
  }

  // --- The application.

  write(bytes: number): void {
    if (this.shut || this.finished) return;
    this.written += bytes;
    this.#waiting += bytes;
    this.#push();
  }

  read(bytes: number): void {
    this.#allowance = (this.#allowance === NEVER ? 0 : this.#allowance) + bytes;
    this.#take();
  }

  pause(): void {
    this.#allowance = 0;
  }

  resume(): void {
    this.#allowance = NEVER;
    this.#take();
  }

  shutdown(): void {
    if (this.finished || this.shut) return;
    this.shut = true;
    this.#push();
  }

  close(): void {
    if (this.finished) return;
    this.#discard = true;
    if (this.outcome === 'opening' || this.flow.readable > 0 || this.#taking > 0) this.abort();
    else this.shutdown();
  }

  abort(): void {
    if (this.finished) return;
    this.#end('aborted', 'own');
    this.flow.abort(CloseReason.HostReset, this.#timeline.now);
    this.flow.release();
  }

  vanish(): void {}

  resize(): void {}

  /** The socket is gone after it ended cleanly. */
  forsake(): void {
    if (this.finished || this.#orphaned) return;
    if (!this.shut) return this.abort();
    this.#orphaned = true;
    this.flow.orphan(this.#timeline.now);
  }

  // --- FlowOwner.

  onEstablished(): void {
    if (this.outcome === 'opening') this.outcome = 'open';
    this.established = true;
    this.#take();
  }

  onReadable(): void {
    this.#take();
  }

  onWritable(): void {
    this.#push();
  }

  onClosed(reason: CloseReason): void {
    if (this.finished) return;
    if (reason === CloseReason.Done) {
      if (!this.sawEof) this.#eof();
      this.#end('clean', reason);
    } else this.#end(this.established ? 'reset' : 'refused', reason);
    this.flow.release();
  }

  /** The embedded guest's owner hears of it before `onClosed`. */
  onUnreachable(): void {}

  // --- To the other side.

  #push(): void {
    if (this.finished || !this.#answered) return;
    const { flow } = this;
    const now = this.#timeline.now;
    while (this.#waiting > 0) {
      const place = this.written - this.#waiting;
      const want = Math.min(this.#waiting, SCRATCH.length, flow.writable);
      if (want === 0) return flow.awaitWritable();
      let taken: number;
      if (this.#options.lend) {
        const room = flow.room(want);
        if (room === 0) return this.#retryLater();
        // Sometimes less than what was lent, as a short read is.
        taken = Math.min(room, want, 1 + ((this.#random.i32() >>> 0) % want));
        this.#stream.fill(flow.mem, flow.roomOffset, taken, place);
        this.#waiting -= taken;
        flow.commit(taken, now);
      } else {
        this.#stream.fill(SCRATCH, 0, want, place);
        taken = flow.write(SCRATCH, 0, want, now);
        this.#waiting -= taken;
        if (taken < want) return this.#retryLater();
      }
    }
    if (this.shut && !this.#shutSent) {
      this.#shutSent = true;
      flow.shutdown(now);
    }
  }

  /** The packet memory is full: nothing of ours under way may bring us back. */
  #retryLater(): void {
    if (this.#retrying) return;
    this.#retrying = true;
    this.#timeline.in(MEMORY_RETRY_MS, () => {
      this.#retrying = false;
      this.#push();
    });
  }

  // --- From the other side.

  #take(): void {
    const { flow } = this;
    const now = this.#timeline.now;
    while (!this.finished && this.established && this.#taking === 0 && !this.sawEof) {
      if (this.#discard && flow.readable > 0) return this.abort();
      const len = Math.min(flow.readable, this.#allowance);
      if (len === 0) break;
      const off = flow.readableOffset;
      this.#pair.check(this, this.received, flow.mem, off, len);
      if (this.#options.slowMs > 0) {
        this.#taking = len;
        flow.pin();
        this.#timeline.in(this.#options.slowMs, () => this.#taken(off, len));
        return;
      }
      this.#count(len);
      flow.consume(len, now);
    }
    if (!this.finished && this.established && this.#taking === 0 && flow.ended && !this.sawEof) this.#eof();
  }

  /** The kernel has taken a write: until now the bytes had to stay as they were. */
  #taken(off: number, len: number): void {
    if (this.finished) return;
    this.#taking = 0;
    this.#pair.check(this, this.received, this.flow.mem, off, len);
    this.#count(len);
    this.flow.consume(len, this.#timeline.now);
    this.#take();
  }

  #count(len: number): void {
    this.received += len;
    if (this.#allowance !== NEVER) this.#allowance = Math.max(0, this.#allowance - len);
  }

  #eof(): void {
    this.sawEof = true;
    this.#pair.checkEof(this);
  }

  #end(outcome: Outcome, reason: string): void {
    this.outcome = outcome;
    this.reason = reason;
  }
}
