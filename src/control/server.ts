// The sockets of the control API: a unix socket of mode 0600, and loopback TCP ports where they are asked for. It owns listening,
// limits and the end; what is answered is in routes, which is loaded only once the VM's socket is up (or somebody asks).

import { createServer, type RequestListener, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { ExitCode } from '../host/exit-code.ts';
import { errnoOf, OperatorError } from '../host/operator-error.ts';
import { listenOnSocketFile, type SocketFile } from '../host/socket-file.ts';
import { CONNECTIONS_MAX, ConnectionKeeper } from './connection-limit.ts';
import { MAX_HEADER_BYTES, openFrontDoor } from './front-door.ts';
import { limitRequestTime, NO_CHECKING_MS } from './request-deadline.ts';
import type { ApiSource, ControlSource } from './resources.ts';
import type { ControlSide } from './routes.ts';
import type { Token } from './token.ts';

/** The part of the log that this needs. */
export interface ControlLog {
  warn(fields: object, message: string): void;
}

/** Connections to the port of --metrics. */
const METRICS_CONNECTIONS_MAX = 64;
const REQUEST_TIMEOUT_MS = 10_000;
const KEEP_ALIVE_MS = 5000;

/** One of the places that it listens on. */
interface Side {
  readonly name: ControlSide;
  readonly keeper: ConnectionKeeper;
  listener: Promise<RequestListener> | undefined;
}

/** Serves the control API. */
export class ControlServer {
  readonly #source: ControlSource;
  readonly #log: ControlLog;
  readonly #servers: Server[] = [];
  #socketFile: SocketFile | undefined;
  #api: Promise<ApiSource | undefined> | undefined;
  readonly #sides = new Map<ControlSide, Side>();

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
   * Listens on a TCP port of the loopback: with a token for all, without for metrics and health only.
   * @returns the port that is really bound.
   * @throws OperatorError ERR_CONTROL_ADDRESS or ERR_METRICS_ADDRESS (69).
   */
  async listenOnLoopback(host: string, port: number, token?: Token): Promise<number> {
    const server = this.#create(token === undefined ? 'metrics' : 'tcp', token);
    await new Promise<void>((resolve, reject) => {
      server.once('error', (error) => reject(portError(token !== undefined, host, port, error)));
      server.listen({ host, port, exclusive: true }, resolve);
    });
    return (server.address() as AddressInfo).port;
  }

  /** Loads what requests need, so that the first one does not wait, nor meets files that an upgrade has replaced. */
  async preload(): Promise<void> {
    await Promise.all([...this.#sides.values()].map((side) => this.#listener(side)));
  }

  /** Connections now, idle ones closed for others, and those closed at once because all others were at work. */
  counts(): { connections: number; evicted: number; refused: number } {
    const total = { connections: 0, evicted: 0, refused: 0 };
    for (const { keeper } of this.#sides.values()) {
      total.connections += keeper.size;
      total.evicted += keeper.evicted;
      total.refused += keeper.refused;
    }
    return total;
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

  #create(name: ControlSide, token?: Token): Server {
    const server: Server = createServer({
      maxHeaderSize: MAX_HEADER_BYTES,
      keepAliveTimeout: KEEP_ALIVE_MS,
      connectionsCheckingInterval: NO_CHECKING_MS,
      requireHostHeader: false,
    });
    limitRequestTime(server, REQUEST_TIMEOUT_MS, KEEP_ALIVE_MS, (socket) => keeper.keeps(socket));
    const keeper = new ConnectionKeeper(server, name === 'metrics' ? METRICS_CONNECTIONS_MAX : CONNECTIONS_MAX);
    const side: Side = { name, keeper, listener: undefined };
    this.#sides.set(name, side);
    server.on('request', (request, response) => keeper.onRequest(request, response));
    openFrontDoor(server, token, (request, response) => {
      this.#listener(side).then(
        (listener) => listener(request, response),
        (err: unknown) => {
          this.#log.warn({ event: 'control.load.failed', err }, 'the control API could not be loaded');
          response.destroy();
        },
      );
    });
    // Errors before it listens reject where they are awaited; later ones (EMFILE on accept) must not end the daemon.
    server.once('listening', () => {
      server.on('error', (err) =>
        this.#log.warn({ event: 'control.socket.failed', side: name, err }, 'the control socket failed'),
      );
    });
    this.#servers.push(server);
    return server;
  }

  #listener(side: Side): Promise<RequestListener> {
    this.#api ??= this.#source.api?.() ?? Promise.resolve(undefined);
    side.listener ??= Promise.all([import('./routes.ts'), this.#api]).then(([routes, api]) =>
      routes.createListener(this.#source, {
        side: side.name,
        api,
        keeper: side.keeper,
        onFailure: (err, path) => {
          this.#log.warn({ event: 'control.request.failed', path, err }, 'a control request failed');
        },
      }),
    );
    return side.listener;
  }
}

function portError(control: boolean, host: string, port: number, error: Error): OperatorError {
  const at = host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`;
  const why: Record<string, string> = {
    EADDRINUSE: 'is in use by another process; expected a free port',
    EACCES: 'may not be bound by this user; expected a port from 1024',
    EADDRNOTAVAIL: 'is not an address of this host; expected 127.0.0.1 or [::1]',
  };
  return new OperatorError(
    `${control ? 'control-tcp' : 'metrics'}: ${at} ${why[errnoOf(error) ?? ''] ?? `cannot be bound (${error.message})`}`,
    {
      code: control ? 'ERR_CONTROL_ADDRESS' : 'ERR_METRICS_ADDRESS',
      exitCode: ExitCode.Unavailable,
      cause: error,
    },
  );
}
