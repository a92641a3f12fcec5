// Who may hold a control connection, and for how long. A crowd of idle connections must not lock out a client that has something to ask,
// nor make the daemon grow: beyond the limit the one that has been idle longest is closed for each that comes. Connections with a
// request in work are not touched; long-lived ones (streams, owners of forwards) are counted apart.

import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Server, Socket } from 'node:net';
import { ApiError } from './api-error.ts';

/** Connections of one server at once. */
export const CONNECTIONS_MAX = 512;
/** Of them: event and capture streams, */
export const STREAMS_MAX = 64;
/** and connections whose end removes forwards. */
export const OWNERS_MAX = 256;

/** A client that takes nothing of its answer for so long has gone; node:http then destroys the connection. */
const ANSWER_TIMEOUT_MS = 30_000;

export class ConnectionKeeper {
  /** Idle connections closed for others. */
  evicted = 0;
  /** Connections closed at once, as every other one was at work. */
  refused = 0;
  readonly #max: number;
  readonly #all = new Set<Socket>();
  /** Those without a whole request, the longest idle first. */
  readonly #idle = new Set<Socket>();
  readonly #owners = new Map<Socket, () => void>();
  #streams = 0;

  constructor(server: Server, max: number = CONNECTIONS_MAX) {
    this.#max = max;
    server.on('connection', (socket: Socket) => this.#onConnection(socket));
  }

  get size(): number {
    return this.#all.size;
  }

  /** A request's headers are in. Its connection is idle again when the answer is out. */
  onRequest(incoming: IncomingMessage, response: ServerResponse): void {
    const { socket } = incoming;
    socket.setTimeout(ANSWER_TIMEOUT_MS);
    const bodyless =
      incoming.headers['content-length'] === undefined && incoming.headers['transfer-encoding'] === undefined;
    // A body that trickles in is no work of ours yet: such a connection may be closed for another.
    if (bodyless) this.#idle.delete(socket);
    else incoming.once('end', () => this.#idle.delete(socket));
    response.once('close', () => {
      if (socket.destroyed || !this.#all.has(socket)) return;
      // node:http sets its keep-alive time-out when an answer is out; an owner's connection lasts until the owner ends it.
      if (this.#owners.has(socket)) socket.setTimeout(0);
      else {
        this.#idle.delete(socket);
        this.#idle.add(socket);
      }
    });
  }

  /** A request that is not of node:http is in: the connection is at work until it ends. */
  work(socket: Socket): void {
    this.#idle.delete(socket);
  }

  /** The connection lasts until its client ends it; `onEnd` is called then, once. @throws ApiError 503 */
  keep(socket: Socket, onEnd: () => void): void {
    if (this.#owners.has(socket)) return;
    if (this.#owners.size >= OWNERS_MAX) {
      const message = `forwards hang on ${OWNERS_MAX} connections already; at most so many do`;
      throw new ApiError(503, 'ERR_CONNECTION_LIMIT', message);
    }
    if (socket.destroyed) throw new ApiError(400, 'ERR_BAD_REQUEST', 'the connection has ended');
    this.#owners.set(socket, onEnd);
    this.#idle.delete(socket);
  }

  /** Whether `keep` was called for it. */
  keeps(socket: Socket): boolean {
    return this.#owners.has(socket);
  }

  /** Counts a stream until its response is over. @throws ApiError 503 */
  openStream(socket: Socket, response: ServerResponse): void {
    if (this.#streams >= STREAMS_MAX)
      throw new ApiError(503, 'ERR_STREAM_LIMIT', `${STREAMS_MAX} streams are open; at most so many are`);
    this.#streams++;
    socket.setTimeout(0);
    socket.setKeepAlive(true, 60_000);
    response.once('close', () => {
      this.#streams--;
    });
  }

  #onConnection(socket: Socket): void {
    if (this.#all.size >= this.#max) {
      const [longest] = this.#idle;
      if (longest === undefined) {
        this.refused++;
        socket.destroy();
        return;
      }
      this.evicted++;
      // Not seen here any more at once: its 'close' comes later.
      this.#gone(longest);
      longest.destroy();
    }
    this.#all.add(socket);
    this.#idle.add(socket);
    socket.once('close', () => this.#gone(socket));
  }

  #gone(socket: Socket): void {
    this.#all.delete(socket);
    this.#idle.delete(socket);
    const onEnd = this.#owners.get(socket);
    this.#owners.delete(socket);
    onEnd?.();
  }
}
