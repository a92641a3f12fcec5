// The sockets of the control API: a unix socket of mode 0600, and a loopback TCP port where one is asked for. It owns listening,
// limits and the end; what is answered is in routes, which is loaded only once the VM's socket is up (or somebody asks).

import { createServer, type RequestListener, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { Duplex } from 'node:stream';
import { ExitCode } from '../host/exit-code.ts';
import { errnoOf, OperatorError } from '../host/operator-error.ts';
import { listenOnSocketFile, type SocketFile } from '../host/socket-file.ts';
import { limitRequestTime, NO_CHECKING_MS } from './request-deadline.ts';
import type { ControlSide, ControlSource } from './routes.ts';

/** The part of the log that this needs. */
export interface ControlLog {
  warn(fields: object, message: string): void;
}

const MAX_HEADER_BYTES = 8 * 1024;
const MAX_CONNECTIONS = 64;
const REQUEST_TIMEOUT_MS = 10_000;
const KEEP_ALIVE_MS = 5000;

/** Serves the control API. */
export class ControlServer {
  readonly #source: ControlSource;
  readonly #log: ControlLog;
  readonly #servers: Server[] = [];
  #socketFile: SocketFile | undefined;
  readonly #listeners = new Map<ControlSide, Promise<RequestListener>>();

  constructor(source: ControlSource, log: ControlLog) {
    this.#source = source;
    this.#log = log;
  }

  /** Listens on a unix socket. @throws OperatorError, see listenOnSocketFile. */
  async listenOnSocket(path: string): Promise<void> {
    const server = this.#create('socket');
    this.#socketFile = await listenOnSocketFile(server, path, 'control');
  }

  /**
   * Listens on a TCP port of the loopback.
   * @returns the port that is really bound.
   * @throws OperatorError ERR_METRICS_ADDRESS (69).
   */
  async listenOnLoopback(host: string, port: number): Promise<number> {
    const server = this.#create('loopback');
    await new Promise<void>((resolve, reject) => {
      server.once('error', (error) => reject(portError(host, port, error)));
      server.listen({ host, port, exclusive: true }, resolve);
    });
    return (server.address() as AddressInfo).port;
  }

  /** Loads what requests need, so that the first one does not wait, nor meets files that an upgrade has replaced. */
  async preload(): Promise<void> {
    await Promise.all((['socket', 'loopback'] as const).map((side) => this.#listener(side)));
  }

  /** Ends everything at once. Idempotent; also right when nothing listens. */
  stop(): void {
    this.#socketFile?.release();
    this.#socketFile = undefined;
    for (const server of this.#servers.splice(0)) {
      server.close();
      server.closeAllConnections();
    }
  }

  #create(side: ControlSide): Server {
    const server = createServer(
      {
        maxHeaderSize: MAX_HEADER_BYTES,
        keepAliveTimeout: KEEP_ALIVE_MS,
        connectionsCheckingInterval: NO_CHECKING_MS,
      },
      (request, response) => {
        this.#listener(side).then(
          (listener) => listener(request, response),
          (err: unknown) => {
            this.#log.warn({ event: 'control.load.failed', err }, 'the control API could not be loaded');
            response.destroy();
          },
        );
      },
    );
    server.maxConnections = MAX_CONNECTIONS;
    limitRequestTime(server, REQUEST_TIMEOUT_MS, KEEP_ALIVE_MS);
    server.on('clientError', answerClientError);
    // Errors before it listens reject where they are awaited; later ones (EMFILE on accept) must not end the daemon.
    server.once('listening', () => {
      server.on('error', (err) =>
        this.#log.warn({ event: 'control.socket.failed', side, err }, 'the control socket failed'),
      );
    });
    this.#servers.push(server);
    return server;
  }

  #listener(side: ControlSide): Promise<RequestListener> {
    let listener = this.#listeners.get(side);
    if (listener === undefined) {
      listener = import('./routes.ts').then((routes) =>
        routes.createListener(this.#source, side, (err, path) => {
          this.#log.warn({ event: 'control.request.failed', path, err }, 'a control request failed');
        }),
      );
      this.#listeners.set(side, listener);
    }
    return listener;
  }
}

/** What is no HTTP, too large or too slow is told so in the same shape as every other error. */
function answerClientError(error: Error, socket: Duplex): void {
  if (!socket.writable || errnoOf(error) === 'ECONNRESET') {
    socket.destroy();
    return;
  }
  const [status, code, message] = clientErrorAnswer(errnoOf(error));
  const body = JSON.stringify({ error: { code, message } });
  socket.end(
    `HTTP/1.1 ${status}\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`,
  );
}

function clientErrorAnswer(code: string | undefined): readonly [string, string, string] {
  switch (code) {
    case 'HPE_HEADER_OVERFLOW':
      return [
        '431 Request Header Fields Too Large',
        'ERR_HEADERS_TOO_LARGE',
        `headers have at most ${MAX_HEADER_BYTES} bytes`,
      ];
    case 'ERR_HTTP_REQUEST_TIMEOUT':
      return ['408 Request Timeout', 'ERR_TIMEOUT', 'the request came too slowly'];
    default:
      return ['400 Bad Request', 'ERR_BAD_REQUEST', 'this is not an HTTP/1.1 request'];
  }
}

function portError(host: string, port: number, error: Error): OperatorError {
  const at = host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`;
  const why: Record<string, string> = {
    EADDRINUSE: 'is in use by another process; expected a free port',
    EACCES: 'may not be bound by this user; expected a port from 1024',
    EADDRNOTAVAIL: 'is not an address of this host; expected 127.0.0.1 or [::1]',
  };
  return new OperatorError(`metrics: ${at} ${why[errnoOf(error) ?? ''] ?? `cannot be bound (${error.message})`}`, {
    code: 'ERR_METRICS_ADDRESS',
    exitCode: ExitCode.Unavailable,
    cause: error,
  });
}
