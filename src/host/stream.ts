// The border of a stream socket of the host: what may be done with it, and what its owner is told. Types only; host-stream makes them.

import type net from 'node:net';

/** Who hears of a stream. Nothing is called from inside a call of the stream's. */
export interface StreamOwner {
  /** The dial stands. Accepted and adopted streams never say it. */
  onConnect(): void;
  /** Memory for the next read, of at least one byte; held by the stream until `onRead`, or until it is closed. */
  readBuffer(): Uint8Array;
  /** `bytes` have arrived in that memory. @returns false to stop reading; `resume` goes on. */
  onRead(bytes: number): boolean;
  /** The peer's end of stream. Nothing is read after it. */
  onEnd(): void;
  /** The dial, a read or a write has failed with this errno name. Once; the stream closes by itself. */
  onError(errno: string): void;
  /** The descriptor is closed: the kernel reads and writes no memory of ours any more. Once, and last. */
  onClose(): void;
}

/** A connected, or connecting, stream socket. It closes by itself once both ends are over, or after an error. */
export interface HostStream {
  /** `destroy` or `reset` was called, or it has failed or ended both ways. */
  readonly closed: boolean;
  /** False once the kernel knows no peer any more: an end of stream that was a reset. */
  readonly hasPeer: boolean;
  /** Starts reading, or goes on. Harmless while it reads, and while it dials: it reads then once it is connected. */
  resume(): void;
  /** Asks the kernel for a send buffer of this size, before the first `resume`; where it cannot be had all stays as it is. */
  wantSendBuffer(bytes: number): void;
  /** Gives back the memory that `readBuffer` handed out, and asks for other before the next read. */
  recall(): void;
  /**
   * Writes `bytes`.
   * @returns true if the kernel took all of them before this returned; `done` is not called then. Otherwise they must stay as they
   * are until `done` is called, which it is also after a failure. Several writes complete in order.
   */
  write(bytes: Uint8Array, done: () => void): boolean;
  /** The same with several pieces, in one system call. */
  writeAll(pieces: readonly Uint8Array[], done: () => void): boolean;
  /** End of stream behind what was written. */
  end(): void;
  /** Closes it; what the kernel has not taken yet is lost. Idempotent. */
  destroy(): void;
  /** Closes it with a reset, where there is a connection to reset. Idempotent. */
  reset(): void;
}

/** A client that was accepted and is nobody's yet. */
export interface Arrival {
  /** The client's end, undefined if it has gone already. */
  readonly remoteAddress: string | undefined;
  readonly remotePort: number | undefined;
  /** Our end. All four are undefined for a client of a unix socket. */
  readonly localAddress: string | undefined;
  readonly localPort: number | undefined;
  /** Takes it. Nothing is read before `resume`. */
  adopt(owner: StreamOwner): HostStream;
  /** Takes it as a socket of `node:net`: paused, half-open at both ends. */
  socket(): net.Socket;
  /** Turns it away, with a reset where there can be one. */
  refuse(): void;
}
