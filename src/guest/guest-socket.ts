// A TCP connection of the embedded guest as an ordinary Duplex stream: half-open, with back-pressure through the TCP window both
// ways, errors with Node's codes. It owns the stream; the connection is tcp/'s.
//
//   end()              FIN after everything written
//   destroy()          RST, unless both directions have ended: nothing is left half done behind the program's back
//   resetAndDestroy()  RST

import { Duplex } from 'node:stream';
import type { Clock, Millis } from '../base/clock.ts';
import { UNREACHABLE_HOST, UNREACHABLE_NET, UNREACHABLE_PORT, UNREACHABLE_PROHIBITED } from '../ip/icmp.ts';
import { CloseReason, type TcpFlow } from '../tcp/flow.ts';
import { codedError } from './guest-link.ts';
import type { GuestFlowOwner } from './guest-tcp.ts';

/** Pause before packet memory is asked for again when it was full and nothing was under way. */
const MEMORY_RETRY_MS = 20;

/** What a program gets for an ICMP unreachable code, as Linux maps them; anything else is EHOSTUNREACH. */
const UNREACHABLE_ERRNO: Readonly<Record<number, string>> = {
  [UNREACHABLE_NET]: 'ENETUNREACH',
  [UNREACHABLE_HOST]: 'EHOSTUNREACH',
  [UNREACHABLE_PORT]: 'ECONNREFUSED',
  [UNREACHABLE_PROHIBITED]: 'EHOSTUNREACH',
};

/** The errno name of an ICMP destination unreachable code. */
export function errnoOfUnreachable(code: number): string {
  return UNREACHABLE_ERRNO[code] ?? 'EHOSTUNREACH';
}

const REASON_ERRNO: Readonly<Record<string, string>> = {
  [CloseReason.GuestReset]: 'ECONNRESET',
  [CloseReason.Refused]: 'ECONNREFUSED',
  [CloseReason.Unreachable]: 'EHOSTUNREACH',
  [CloseReason.RetransmitLimit]: 'ETIMEDOUT',
  [CloseReason.VmGone]: 'ENETDOWN',
};

/** One connection. Emits `connect` once established. */
export class GuestSocket extends Duplex implements GuestFlowOwner {
  readonly remoteAddress: string;
  readonly remotePort: number;
  readonly localAddress: string;
  readonly localPort: number;
  /** The handshake is complete. */
  connected = false;
  readonly flow: TcpFlow;
  readonly #clock: Clock;
  #icmpCode = -1;
  /** The stream has asked for bytes and has not been given enough. */
  #wanted = false;
  #endPushed = false;
  #flowOver = false;
  #waiting: { buf: Uint8Array; off: number; done: (error?: Error | null) => void } | undefined;
  #retry: NodeJS.Timeout | undefined;

  constructor(flow: TcpFlow, clock: Clock) {
    super({ allowHalfOpen: true, readableHighWaterMark: 256 * 1024, writableHighWaterMark: 256 * 1024 });
    this.flow = flow;
    this.#clock = clock;
    this.remoteAddress = flow.guest.toString();
    this.remotePort = flow.guestPort;
    this.localAddress = flow.remote.toString();
    this.localPort = flow.remotePort;
    flow.owner = this;
  }

  resetAndDestroy(): this {
    return this.destroy();
  }

  // --- The flow's events.

  onEstablished(_now: Millis): void {
    this.connected = true;
    this.emit('connect');
  }

  onUnreachable(code: number): void {
    this.#icmpCode = code;
  }

  onReadable(now: Millis): void {
    this.#pump(now);
  }

  onWritable(now: Millis): void {
    const waiting = this.#waiting;
    if (waiting === undefined || this.#flowOver) return;
    waiting.off += this.flow.write(waiting.buf, waiting.off, waiting.buf.length - waiting.off, now);
    if (waiting.off < waiting.buf.length) {
      this.flow.awaitWritable();
      this.#retryLater();
      return;
    }
    this.#waiting = undefined;
    waiting.done();
  }

  onClosed(reason: CloseReason, _now: Millis): void {
    if (this.#flowOver) return;
    this.#flowOver = true;
    clearTimeout(this.#retry);
    this.flow.release();
    if (reason === CloseReason.Done) {
      this.#pushEnd();
      return;
    }
    // Everything was said and heard; only the last acknowledgements are missing.
    if (this.#endPushed && this.writableEnded) {
      this.destroy();
      return;
    }
    const code = this.#icmpCode >= 0 ? errnoOfUnreachable(this.#icmpCode) : (REASON_ERRNO[reason] ?? 'ECONNABORTED');
    this.destroy(codedError(code, `${this.remoteAddress}:${this.remotePort} ${reason}`));
  }

  // --- The stream.

  override _read(): void {
    this.#wanted = true;
    this.#pump(this.#clock.now());
  }

  #pump(now: Millis): void {
    const { flow } = this;
    while (this.#wanted && !this.#flowOver) {
      const len = flow.readable;
      if (len === 0) break;
      // Copy: from the receive ring, so that the program may keep it.
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

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: (error?: Error | null) => void): void {
    if (this.#flowOver) {
      done(codedError('EPIPE', 'the connection has ended'));
      return;
    }
    const taken = this.flow.write(chunk, 0, chunk.length, this.#clock.now());
    if (taken === chunk.length) {
      done();
      return;
    }
    this.#waiting = { buf: chunk, off: taken, done };
    this.flow.awaitWritable();
    this.#retryLater();
  }

  /** Acknowledgements bring room if anything is under way; this timer if memory was short and nothing is. */
  #retryLater(): void {
    this.#retry ??= setTimeout(() => {
      this.#retry = undefined;
      if (!this.#flowOver) this.onWritable(this.#clock.now());
    }, MEMORY_RETRY_MS).unref();
  }

  override _final(done: (error?: Error | null) => void): void {
    if (!this.#flowOver) this.flow.shutdown(this.#clock.now());
    done();
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    clearTimeout(this.#retry);
    this.#waiting?.done(error ?? codedError('ECONNABORTED', 'the stream was destroyed'));
    this.#waiting = undefined;
    // Both directions done: the flow goes through its last states by itself.
    const complete = this.#endPushed && this.writableFinished;
    if (!this.#flowOver && !complete) {
      this.#flowOver = true;
      this.flow.abort(CloseReason.Killed, this.#clock.now());
      this.flow.release();
    }
    done(error);
  }
}
