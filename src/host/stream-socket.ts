// Streams on the public `net.Socket`: the fallback of host-stream where the handles under it cannot be had. One copy and some
// microseconds a call more; the same behaviour otherwise, which the tests hold both to.

import net from 'node:net';
import type { Arrival, HostStream, StreamOwner } from './stream.ts';
import { failedStream } from './stream-failed.ts';

/** Dials an address and port, or a path; see `dialTcp`. */
export function dialSocket(to: net.NetConnectOpts, owner: StreamOwner): HostStream {
  let socket: net.Socket;
  try {
    socket = net.connect({ ...to, allowHalfOpen: true, noDelay: true });
  } catch (error) {
    // Some failures of a call of the system are thrown at once.
    return failedStream((error as NodeJS.ErrnoException).code ?? 'EIO', owner);
  }
  const stream = new SocketStream(socket, owner);
  socket.on('connect', () => {
    if (!stream.closed) owner.onConnect();
  });
  return stream;
}

/** The fallback of `acceptStreams`. */
export function acceptSockets(server: net.Server, onArrival: (arrival: Arrival) => void): void {
  const isPipe = typeof (server.address() ?? '') === 'string';
  server.on('connection', (socket) =>
    onArrival({
      remoteAddress: socket.remoteAddress,
      remotePort: socket.remotePort,
      localAddress: socket.localAddress,
      localPort: socket.localPort,
      adopt: (owner) => new SocketStream(socket, owner),
      socket: () => socket,
      refuse: () => {
        socket.on('error', () => {});
        if (isPipe) socket.destroy();
        else socket.resetAndDestroy();
      },
    }),
  );
}

export class SocketStream implements HostStream {
  readonly #socket: net.Socket;
  readonly #owner: StreamOwner;
  #into: Uint8Array | undefined;
  closed = false;

  constructor(socket: net.Socket, owner: StreamOwner) {
    this.#socket = socket;
    this.#owner = owner;
    socket.allowHalfOpen = true;
    socket.on('data', (chunk: Buffer) => this.#onData(chunk));
    // A listener for 'data' may start the flow by itself; it waits for `resume`.
    socket.pause();
    socket.on('end', () => {
      if (!this.closed) owner.onEnd();
    });
    socket.on('error', (error: NodeJS.ErrnoException) => {
      if (this.closed) return;
      owner.onError(error.code ?? error.message);
      this.closed = true;
    });
    socket.on('close', () => {
      this.closed = true;
      owner.onClose();
    });
  }

  get hasPeer(): boolean {
    return !this.closed && (this.#isPipe || this.#socket.remoteAddress !== undefined);
  }

  /** A unix socket or pipe, which has no peer's name at any time. */
  get #isPipe(): boolean {
    return this.#socket.localPort === undefined && this.#socket.localAddress === undefined;
  }

  resume(): void {
    if (!this.closed) this.#socket.resume();
  }

  /** Not to be had without a handle. */
  wantSendBuffer(_bytes: number): void {}

  recall(): void {
    this.#into = undefined;
  }

  write(bytes: Uint8Array, done: () => void): boolean {
    if (this.closed || !this.#socket.writable) {
      process.nextTick(done);
      return false;
    }
    let taken = false;
    this.#socket.write(bytes, () => {
      if (!taken) done();
    });
    taken = this.#socket.writableLength === 0;
    return taken;
  }

  writeAll(pieces: readonly Uint8Array[], done: () => void): boolean {
    // Copy: the way without handles has no gathering write that tells when it is over.
    return this.write(Buffer.concat(pieces), done);
  }

  end(): void {
    if (!this.closed) this.#socket.end();
  }

  destroy(): void {
    this.closed = true;
    this.#socket.destroy();
  }

  reset(): void {
    if (this.closed) return;
    this.closed = true;
    // TLS has no reset of its own, and `resetAndDestroy` throws for it.
    if (this.#socket.connecting || this.#isPipe || 'encrypted' in this.#socket) this.#socket.destroy();
    else this.#socket.resetAndDestroy();
  }

  #onData(chunk: Buffer): void {
    let at = 0;
    while (at < chunk.length && !this.closed) {
      const into = this.#into ?? this.#owner.readBuffer();
      const n = Math.min(into.length, chunk.length - at);
      // Copy: the event's chunk is not our memory.
      into.set(chunk.subarray(at, at + n));
      at += n;
      const more = this.#owner.onRead(n);
      this.#into = this.closed ? undefined : this.#owner.readBuffer();
      if (more) continue;
      this.#socket.pause();
      // Back to the front of the stream: it must not think that all was read, or 'end' would overtake the rest.
      if (at < chunk.length) this.#socket.unshift(chunk.subarray(at));
      return;
    }
  }
}
