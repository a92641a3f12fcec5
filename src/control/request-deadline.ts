// How long a client of the control API may take to send a request. Node's own limits are kept by a timer of the server that runs every second
// for as long as it listens, and wakes an idle daemon; these run only while a request is awaited.

import type { IncomingMessage, Server } from 'node:http';
import type { Socket } from 'node:net';

/** For `connectionsCheckingInterval`: Node's own check never comes. */
export const NO_CHECKING_MS = 0x7fffffff;

/** One connection: the timer of the request that is awaited, and that request once its header is there. */
interface Client {
  timer: NodeJS.Timeout | undefined;
  request: IncomingMessage | undefined;
}

/**
 * Emits `clientError` with the code ERR_HTTP_REQUEST_TIMEOUT, as Node does, for a connection whose request is not complete `limitMs`
 * after the connection was made, or `idleMs` more after the last answer. Call it before the server listens.
 * @param mayIdle whether a connection may wait without a request for as long as it likes.
 */
export function limitRequestTime(
  server: Server,
  limitMs: number,
  idleMs: number,
  mayIdle: (socket: Socket) => boolean = () => false,
): void {
  const clients = new WeakMap<Socket, Client>();
  server.on('connection', (socket: Socket) => {
    const client: Client = { timer: undefined, request: undefined };
    clients.set(socket, client);
    socket.once('close', () => clearTimeout(client.timer));
    limit(client, socket, limitMs);
  });
  server.on('request', (request, response) => {
    const { socket } = request;
    const client = clients.get(socket);
    if (client === undefined) return;
    client.request = request;
    if (mayIdle(socket)) limit(client, socket, limitMs);
    response.once('finish', () => {
      client.request = undefined;
      if (!socket.destroyed) limit(client, socket, limitMs + idleMs);
    });
  });

  function limit(client: Client, socket: Socket, ms: number): void {
    clearTimeout(client.timer);
    client.timer = setTimeout(() => {
      // It is all there, and the answer takes as long as it takes.
      if (client.request?.complete || (client.request === undefined && mayIdle(socket))) return;
      const error = Object.assign(new Error('the request came too slowly'), { code: 'ERR_HTTP_REQUEST_TIMEOUT' });
      server.emit('clientError', error, socket);
    }, ms);
    client.timer.unref();
  }
}
