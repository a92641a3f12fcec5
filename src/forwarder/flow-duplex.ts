// A TCP flow with a guest as an ordinary Duplex stream, for what speaks to guests by streams and not by sockets of the host: the control
// API inside the guest, and tunnels. Back-pressure is the window both ways. It owns the stream; the flow is the stack's.
//
//   end()      FIN after everything written
//   destroy()  RST, unless both directions have ended

import { Duplex } from 'node:stream';
import type { Clock, Millis } from '../base/clock.ts';
import { CloseReason, type FlowOwner, type TcpFlow } from '../stack/ports.ts';

/** Pause before packet memory is asked for again when it was full and nothing was under way. */
const MEMORY_RETRY_MS = 20;
const BUFFER_BYTES = 64 * 1024;

/** Emits `connect` once the handshake is complete. */
export class FlowDuplex extends Duplex implements FlowOwner {
  /** The guest. */
  readonly remoteAddress: string;
  readonly remotePort: number;
  /** What the guest speaks to. */
  readonly localAddress: string;
  readonly localPort: number;
  readonly vmId: number;
  readonly #flow: TcpFlow;
  readonly #clock: Clock;
  #wanted = false;
  #endPushed = false;
  #over = false;
  #waiting: { readonly buf: Uint8Array; off: number; readonly done: (error?: Error | null) => void } | undefined;
  #retry: NodeJS.Timeout | undefined;

  constructor(flow: TcpFlow, clock: Clock) {
    super({ allowHalfOpen: true, readableHighWaterMark: BUFFER_BYTES, writableHighWaterMark: BUFFER_BYTES });
    this.#flow = flow;
    this.#clock = clock;
    this.remoteAddress = flow.guest.toString();
    this.remotePort = flow.guestPort;
    this.localAddress = flow.remote.toString();
    this.localPort = flow.remotePort;
    this.vmId = flow.vm.id;
    flow.owner = this;
  }

  onEstablished(): void {
    this.emit('connect');
  }

  onReadable(now: Millis): void {
    this.#pump(now);
  }

  onWritable(now: Millis): void {
    const waiting = this.#waiting;
    if (waiting === undefined || this.#over) return;
    waiting.off += this.#flow.write(waiting.buf, waiting.off, waiting.buf.length - waiting.off, now);
    if (waiting.off < waiting.buf.length) {
      this.#wait();
      return;
    }
    this.#waiting = undefined;
    waiting.done();
  }

  onClosed(reason: CloseReason): void {
    if (this.#over) return;
    this.#over = true;
    clearTimeout(this.#retry);
    this.#flow.release();
    if (reason === CloseReason.Done) {
      this.#pushEnd();
      return;
    }
    if (this.#endPushed && this.writableEnded) {
      this.destroy();
      return;
    }
    const code = reason === CloseReason.Refused ? 'ECONNREFUSED' : 'ECONNRESET';
    this.destroy(Object.assign(new Error(`${this.remoteAddress}:${this.remotePort}: ${reason}`), { code }));
  }

  /** Gives the flow to another owner; the stream is closed, the flow is not. @returns what was read of it and not taken. */
  detach(): { readonly flow: TcpFlow; readonly rest: Buffer } {
    const rest: Buffer = this.read() ?? Buffer.alloc(0);
    this.#over = true;
    this.destroy();
    return { flow: this.#flow, rest };
  }

  override _read(): void {
    this.#wanted = true;
    this.#pump(this.#clock.now());
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: (error?: Error | null) => void): void {
    if (this.#over) {
      done(Object.assign(new Error('the flow has ended'), { code: 'EPIPE' }));
      return;
    }
    const taken = this.#flow.write(chunk, 0, chunk.length, this.#clock.now());
    if (taken === chunk.length) {
      done();
      return;
    }
    this.#waiting = { buf: chunk, off: taken, done };
    this.#wait();
  }

  override _final(done: (error?: Error | null) => void): void {
    if (!this.#over) this.#flow.shutdown(this.#clock.now());
    done();
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    clearTimeout(this.#retry);
    const waiting = this.#waiting;
    this.#waiting = undefined;
    waiting?.done(error ?? Object.assign(new Error('the stream was destroyed'), { code: 'ECONNABORTED' }));
    if (!this.#over && !(this.#endPushed && this.writableFinished)) {
      this.#over = true;
      this.#flow.abort(CloseReason.Killed, this.#clock.now());
      this.#flow.release();
    }
    done(error);
  }

  #pump(now: Millis): void {
    const flow = this.#flow;
    while (this.#wanted && !this.#over) {
      const len = flow.readable;
      if (len === 0) break;
      // Copy: from the receive ring, so that the reader may keep it.
      const chunk = Buffer.from(flow.mem.subarray(flow.readableOffset, flow.readableOffset + len));
      flow.consume(len, now);
      if (!this.push(chunk)) this.#wanted = false;
    }
    if (flow.ended) this.#pushEnd();
  }

  #pushEnd(): void {
    if (this.#endPushed) return;
    this.#endPushed = true;
    this.push(null);
  }

  /** Acknowledgements bring room if anything is under way; the timer if memory was short and nothing is. */
  #wait(): void {
    this.#flow.awaitWritable();
    this.#retry ??= setTimeout(() => {
      this.#retry = undefined;
      if (!this.#over) this.onWritable(this.#clock.now());
    }, MEMORY_RETRY_MS).unref();
  }
}
