// The sockets of `--api`: each speaks another program's control protocol, mode 0600. It owns listening, the head of a connection where that
// decides what the rest is, limits and the end.

import { createServer as createHttpServer, type Server as HttpServer } from 'node:http';
import { createServer, type Server, type Socket } from 'node:net';
import { listenOnSocketFile, type SocketFile } from '../host/socket-file.ts';
import { ConnectionKeeper } from './connection-limit.ts';
import { refuseClient } from './go-http.ts';
import { GvproxyApi } from './gvproxy-api.ts';
import { limitRequestTime, NO_CHECKING_MS } from './request-deadline.ts';
import type { ApiSource } from './resources.ts';
import type { ControlLog } from './server.ts';
import { Slirp4netnsApi } from './slirp4netns-api.ts';
import { VpnkitApi } from './vpnkit-api.ts';

/** Clients of one socket at once. */
const CONNECTIONS_MAX = 256;
const TIMEOUT_MS = 10_000;
const HEAD_MAX_BYTES = 8 * 1024;
const VPNKIT_BAD_REQUEST =
  'HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n{"message":"this is not an HTTP/1.1 request"}\n';

export class CompatServers {
  readonly #source: ApiSource;
  readonly #log: ControlLog;
  readonly #servers: Server[] = [];
  readonly #files: SocketFile[] = [];
  readonly #sockets = new Set<Socket>();
  readonly #stops: (() => void)[] = [];

  constructor(source: ApiSource, log: ControlLog) {
    this.#source = source;
    this.#log = log;
  }

  /** @throws OperatorError, see listenOnSocketFile. */
  async listen(protocol: 'gvproxy' | 'slirp4netns' | 'vpnkit', path: string): Promise<void> {
    const server = createServer({ allowHalfOpen: true });
    // Those that ask nothing must not lock out who does.
    const keeper = new ConnectionKeeper(server, CONNECTIONS_MAX);
    const serve = this.#protocol(protocol, keeper);
    server.on('connection', (socket: Socket) => {
      if (socket.destroyed) return;
      this.#sockets.add(socket);
      socket.on('close', () => this.#sockets.delete(socket));
      socket.on('error', () => socket.destroy());
      serve(socket);
    });
    this.#servers.push(server);
    this.#files.push(await listenOnSocketFile(server, path, 'api'));
    server.on('error', (err) => this.#log.warn({ event: 'api.socket.failed', protocol, err }, 'an API socket failed'));
  }

  /** Ends everything at once. */
  stop(): void {
    for (const file of this.#files) file.release();
    for (const server of this.#servers) server.close();
    for (const socket of this.#sockets) socket.destroy();
    for (const stop of this.#stops) stop();
  }

  #protocol(protocol: 'gvproxy' | 'slirp4netns' | 'vpnkit', keeper: ConnectionKeeper): (socket: Socket) => void {
    const onFailure = (err: unknown): void =>
      this.#log.warn({ event: 'api.request.failed', protocol, err }, 'an API request failed');
    switch (protocol) {
      case 'gvproxy': {
        const api = new GvproxyApi(this.#source, onFailure);
        api.server.on('request', (request, response) => keeper.onRequest(request, response));
        this.#stops.push(
          () => this.#end(api.server),
          () => api.stop(),
        );
        return (socket) => splitHead(socket, api, keeper);
      }
      case 'slirp4netns': {
        const api = new Slirp4netnsApi(this.#source, onFailure);
        return (socket) => {
          socket.once('end', () => keeper.work(socket));
          api.serve(socket);
        };
      }
      case 'vpnkit': {
        const api = new VpnkitApi(this.#source, onFailure);
        const server = createHttpServer(
          {
            connectionsCheckingInterval: NO_CHECKING_MS,
            keepAliveTimeout: TIMEOUT_MS,
            maxHeaderSize: HEAD_MAX_BYTES,
          },
          api.listener,
        );
        server.on('request', (request, response) => keeper.onRequest(request, response));
        // node:http looks for slow clients on servers that listen; this one is handed its connections.
        limitRequestTime(server, TIMEOUT_MS, TIMEOUT_MS);
        server.on('clientError', (error, socket) => refuseClient(error, socket, VPNKIT_BAD_REQUEST));
        this.#stops.push(() => this.#end(server));
        return (socket) => {
          // One that does not read its answer.
          socket.setTimeout(TIMEOUT_MS, () => socket.destroy());
          server.emit('connection', socket);
        };
      }
    }
  }

  #end(server: HttpServer): void {
    server.closeAllConnections();
  }
}

/** Reads the head of the request: a tunnel is no HTTP from there on, and anything else is handed to the HTTP server as it came. */
function splitHead(socket: Socket, api: GvproxyApi, keeper: ConnectionKeeper): void {
  let held: Buffer = Buffer.alloc(0);
  // One that does not read its answer; and for the head all in all, as a byte now and then would never be idle.
  socket.setTimeout(TIMEOUT_MS, () => socket.destroy());
  const limit = setTimeout(() => socket.destroy(), TIMEOUT_MS);
  limit.unref();
  socket.once('close', () => clearTimeout(limit));
  const onData = (chunk: Buffer): void => {
    held = held.length === 0 ? chunk : Buffer.concat([held, chunk]);
    const end = held.indexOf('\r\n\r\n');
    if (end < 0 && held.length <= HEAD_MAX_BYTES) return;
    clearTimeout(limit);
    socket.off('data', onData);
    socket.pause();
    const [, method = '', url = ''] =
      /^([A-Z]+) (\S+) HTTP\/1\.[01]\r\n/.exec(held.toString('latin1', 0, HEAD_MAX_BYTES)) ?? [];
    if (end >= 0 && api.takes(method, url, socket, held.subarray(end + 4))) {
      keeper.work(socket);
      socket.setTimeout(0);
      socket.resume();
      return;
    }
    socket.unshift(held);
    api.server.emit('connection', socket);
    socket.resume();
  };
  socket.on('data', onData);
  // A client that ends before its head does is gone.
  socket.once('end', () => {
    if (socket.listenerCount('data') === 1 && socket.listeners('data')[0] === onData) socket.destroy();
  });
}
