// One HTTP request of a guest, carried to a proxy in absolute form or to its origin in origin form (RFC 9112 3.2), and the answer carried
// back: bodies with back-pressure, trailers, 100 Continue, upgrades. Which ways there are was decided before.

import {
  Agent,
  type ClientRequest,
  type ClientRequestArgs,
  type IncomingMessage,
  request,
  type ServerResponse,
} from 'node:http';
import type { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { basicCredentials, type Target } from './handshake.ts';
import { endToEnd, grouped, upgradeOf, valuesOf } from './http-headers.ts';
import { type Refusal, RefusalCause, refusal, refusalOfStatus } from './refusal.ts';
import { hostPort, type Route, upstreamName } from './upstream.ts';
import { type ConnectOptions, UpstreamConnect, unreachableProxy } from './upstream-connect.ts';

/** An answer's head may be so large. */
const HEAD_MAX_BYTES = 64 * 1024;

export interface ForwardOptions {
  readonly incoming: IncomingMessage;
  readonly outgoing: ServerResponse;
  /** Bytes behind the head of a request that asks for an upgrade. */
  readonly head?: Buffer | undefined;
  readonly routes: readonly Route[];
  readonly target: Target;
  /** `Host` as it goes on: the target, without a port that goes without saying. */
  readonly host: string;
  /** With its slash; `*` for OPTIONS. */
  readonly path: string;
  readonly direct: ConnectOptions['direct'];
  readonly guard: ConnectOptions['guard'];
  readonly outbound: ConnectOptions['outbound'];
  readonly agent: WayAgent;
  readonly via: string;
  /** Credentials that the guest has for the proxy, where isthmus has none. */
  readonly authorization: string | undefined;
  readonly onRoute: (route: Route) => void;
  readonly onRefused: (refusal: Refusal) => void;
}

type Oncreate = (error: Error | null, socket: Duplex) => void;

/** What a request tells its agent beside node's own options. */
interface WayOptions extends ClientRequestArgs {
  readonly way: string;
  connect(done: Oncreate): void;
}

/** Connections of one guest's connection: kept open between its requests, by way. */
export class WayAgent extends Agent {
  constructor() {
    super({ keepAlive: true });
  }

  /** Closes what is kept for other ways: a guest's connection holds one of ours. */
  keepOnly(way: string): void {
    for (const [name, sockets] of Object.entries(this.freeSockets)) {
      if (name !== way) for (const socket of sockets ?? []) socket.destroy();
    }
  }

  override getName(options?: ClientRequestArgs): string {
    return (options as WayOptions | undefined)?.way ?? '';
  }

  // Node calls it with the request's own options, and takes a socket that comes later.
  override createConnection(options: ClientRequestArgs, done?: Oncreate): undefined {
    (options as WayOptions).connect(done ?? (() => {}));
  }
}

/** Beside an error nobody looks at the stream. */
const NONE = undefined as unknown as Duplex;

class RefusedError extends Error {
  readonly refusal: Refusal;

  constructor(why: Refusal) {
    super(why.message);
    this.refusal = why;
  }
}

export class HttpForward {
  readonly #options: ForwardOptions;
  #up: ClientRequest | undefined;
  #answered = false;
  #over = false;

  constructor(options: ForwardOptions) {
    this.#options = options;
    // The guest has gone, or has its answer.
    options.outgoing.once('close', () => this.#end());
    this.#try(0);
  }

  #try(index: number): void {
    const { routes, incoming, agent, target, direct, guard, outbound } = this.#options;
    const route = routes[index]!;
    const byProxy = route.kind === 'http' || route.kind === 'https';
    const way = `${route.kind} ${byProxy ? upstreamName(route) : hostPort(target.host, target.port)}`;
    let sent = false;
    agent.keepOnly(way);
    // Node dials while it makes the request.
    let giveUp = (): void => {};
    const options: WayOptions = {
      agent,
      way,
      connect: (done: Oncreate) => {
        const attempt = new UpstreamConnect(
          { routes: [route], target, plain: true, direct, guard, outbound },
          {
            onConnected: ({ socket, rest }) => {
              if (rest.length > 0) socket.unshift(rest);
              done(null, socket);
            },
            onRefused: (why) => done(new RefusedError(why), NONE),
          },
        );
        giveUp = () => {
          attempt.abort();
          // Heard only where nothing was said yet.
          done(new Error('the request was given up'), NONE);
        };
      },
      method: incoming.method ?? 'GET',
      path: byProxy ? this.#absolute() : this.#options.path,
      headers: this.#headers(route),
      setHost: false,
      maxHeaderSize: HEAD_MAX_BYTES,
    };
    const up = request(options);
    this.#up = up;
    up.once('close', () => giveUp());
    up.once('socket', (socket: Socket) => {
      sent = true;
      this.#options.onRoute(route);
      socket.resume();
      this.#guarded(() => this.#sendBody(up));
    });
    up.on('continue', () => {
      if (!this.#answered && incoming.headers.expect !== undefined) this.#options.outgoing.writeContinue();
    });
    up.once('response', (answer) => this.#guarded(() => this.#onResponse(answer, route)));
    up.once('upgrade', (answer: IncomingMessage, socket: Socket, head: Buffer) =>
      this.#onUpgrade(answer, socket, head),
    );
    up.on('error', (error: NodeJS.ErrnoException) => {
      if (this.#over || this.#up !== up) return;
      const why = error instanceof RefusedError ? error.refusal : undefined;
      // Nothing of the request has left: the next way may be better. A connection that was kept and has just ended is no failure either.
      const goesOn = why?.cause === RefusalCause.Proxy || why?.cause === RefusalCause.Unreachable;
      if (!sent && goesOn && index + 1 < routes.length) this.#try(index + 1);
      else if (up.reusedSocket && !this.#answered && this.#repeatable()) this.#try(index);
      else this.#fail(why ?? this.#broken(route, error));
    });
  }

  /** Node throws for fields that it will not write, which guests and servers choose. */
  #guarded(run: () => void): void {
    try {
      run();
    } catch (error) {
      this.#fail(refusal(RefusalCause.Destination, 502, `it cannot be carried: ${(error as Error).message}`));
    }
  }

  /** `http://host/path`; RFC 9112 3.2.4 for `OPTIONS *`. */
  #absolute(): string {
    const { host, path } = this.#options;
    return `http://${host}${path === '*' ? '' : path}`;
  }

  #headers(route: Route): Record<string, string | string[]> {
    const { incoming, host, via, authorization } = this.#options;
    const flat = endToEnd(incoming.rawHeaders);
    const chunked = incoming.headers['transfer-encoding'] !== undefined;
    const fields = grouped(flat);
    for (const name of Object.keys(fields)) if (name.toLowerCase() === 'host') delete fields[name];
    const byProxy = route.kind === 'http' || route.kind === 'https';
    const credentials = byProxy ? (basicCredentials(route) ?? authorization) : undefined;
    const upgrade = upgradeOf(incoming);
    const teTrailers = /(^|,)\s*trailers/i.test(String(incoming.headers.te ?? ''));
    const passed = valuesOf(flat, 'via');
    for (const name of Object.keys(fields)) {
      // Trailers need a chunked body; node refuses to send their names without.
      if (/^via$/i.test(name) || (/^trailer$/i.test(name) && !chunked)) delete fields[name];
    }
    if (/^(TRACE|OPTIONS)$/.test(incoming.method ?? '')) countDown(fields);
    return {
      Host: host,
      ...fields,
      Via: [...passed, `${incoming.httpVersion} ${via}`].join(', '),
      ...(chunked ? { 'Transfer-Encoding': 'chunked' } : {}),
      ...(credentials === undefined ? {} : { 'Proxy-Authorization': credentials }),
      ...(upgrade === undefined
        ? { Connection: teTrailers ? 'keep-alive, TE' : 'keep-alive' }
        : { Connection: 'Upgrade', Upgrade: upgrade }),
      ...(teTrailers ? { TE: 'trailers' } : {}),
    };
  }

  #sendBody(up: ClientRequest): void {
    const { incoming } = this.#options;
    if (incoming.complete && incoming.readableLength === 0) {
      finish(incoming, up);
      return;
    }
    // Its head leaves at once: the guest may wait for an answer before it sends more.
    up.flushHeaders();
    incoming.pipe(up, { end: false });
    incoming.once('end', () => this.#guarded(() => finish(incoming, up)));
  }

  /** Without a body nothing is lost by sending it twice, and only these methods may be (RFC 9110 9.2.2). */
  #repeatable(): boolean {
    const { method, complete, headers } = this.#options.incoming;
    const empty = complete && headers['content-length'] === undefined && headers['transfer-encoding'] === undefined;
    return empty && /^(GET|HEAD|OPTIONS|TRACE)$/.test(method ?? '');
  }

  #onResponse(answer: IncomingMessage, route: Route): void {
    const { incoming, outgoing, via } = this.#options;
    const status = answer.statusCode ?? 502;
    if (this.#over) {
      answer.destroy();
      return;
    }
    if (status === 407 && (route.kind === 'http' || route.kind === 'https')) {
      answer.resume();
      const challenges = valuesOf(answer.rawHeaders, 'proxy-authenticate');
      const credentials = route.user !== undefined || this.#options.authorization !== undefined;
      const at = this.#options.target.host;
      const reason = answer.statusMessage ?? '';
      this.#fail(refusalOfStatus(upstreamName(route), status, reason, at, challenges, credentials));
      return;
    }
    outgoing.sendDate = false;
    const chunked = answer.headers['transfer-encoding'] !== undefined && incoming.method !== 'HEAD' && status !== 304;
    const flat = endToEnd(answer.rawHeaders).flatMap((part, i, all) =>
      i % 2 === 1 || (/^trailer$/i.test(part) && !(chunked && incoming.httpVersion === '1.1'))
        ? []
        : [part, all[i + 1]!],
    );
    outgoing.writeHead(status, answer.statusMessage, [...flat, 'Via', `${answer.httpVersion} ${via}`]);
    this.#answered = true;
    answer.on('error', () => {});
    answer.once('close', () => {
      // Cut short: what the guest has must not look whole.
      if (!answer.complete) outgoing.destroy();
    });
    answer.once('end', () => {
      if (!answer.complete) return;
      const trailers = pairs(answer.rawTrailers);
      if (trailers.length > 0 && chunked) this.#guarded(() => outgoing.addTrailers(trailers as never));
      if (!outgoing.destroyed) outgoing.end();
    });
    answer.pipe(outgoing, { end: false });
  }

  #onUpgrade(answer: IncomingMessage, socket: Socket, head: Buffer): void {
    const guest = this.#options.incoming.socket as Duplex;
    if (this.#over || upgradeOf(this.#options.incoming) === undefined) {
      socket.destroy();
      if (!this.#over)
        this.#fail(refusal(RefusalCause.Proxy, 502, 'the server changed to a protocol that nobody asked for'));
      return;
    }
    this.#answered = true;
    this.#over = true;
    const lines = pairs(answer.rawHeaders).map(([name, value]) => `${name}: ${value}\r\n`);
    guest.write(`HTTP/1.1 101 ${answer.statusMessage ?? 'Switching Protocols'}\r\n${lines.join('')}\r\n`, 'latin1');
    if (head.length > 0) guest.write(head);
    const { head: first } = this.#options;
    if (first !== undefined && first.length > 0) socket.write(first);
    joinStreams(guest, socket);
  }

  #broken(route: Route, error: NodeJS.ErrnoException): Refusal {
    const errno = error.code ?? error.message;
    if (route.kind === 'http' || route.kind === 'https') return unreachableProxy(route, errno);
    const { host, port } = this.#options.target;
    const what = /^HPE_/.test(errno) ? 'sent an answer that is not HTTP' : `broke off (${errno})`;
    return refusal(RefusalCause.Unreachable, 502, `${hostPort(host, port)} ${what}`);
  }

  #fail(why: Refusal): void {
    if (this.#over) return;
    const { outgoing, onRefused } = this.#options;
    this.#over = true;
    this.#up?.destroy();
    if (outgoing.headersSent) outgoing.destroy();
    else onRefused(why);
  }

  #end(): void {
    if (this.#over) return;
    this.#over = true;
    if (!this.#options.outgoing.writableFinished) this.#up?.destroy();
  }
}

/** RFC 9110 7.6.2: one proxy less. At 0 it was answered here. */
function countDown(fields: Record<string, string | string[]>): void {
  for (const [name, value] of Object.entries(fields)) {
    if (/^max-forwards$/i.test(name) && /^\d{1,9}$/.test(String(value))) fields[name] = String(Number(value) - 1);
  }
}

/** The request's end, with its trailers where it has a chunked body. */
function finish(incoming: IncomingMessage, up: ClientRequest): void {
  const trailers = pairs(incoming.rawTrailers);
  if (trailers.length > 0 && up.hasHeader('transfer-encoding')) up.addTrailers(trailers as never);
  up.end();
}

/** Both ways with back-pressure; an end is an end, a failure ends both. */
export function joinStreams(a: Duplex, b: Duplex): void {
  leadTo(a, b);
  leadTo(b, a);
}

function leadTo(from: Duplex, to: Duplex): void {
  from.on('error', () => to.destroy());
  // One that ended both ways has nothing to lose; the other may still be writing.
  from.once('close', () => {
    if (!from.readableEnded || !from.writableFinished) to.destroy();
  });
  from.pipe(to);
}

function pairs(flat: readonly string[]): [string, string][] {
  const out: [string, string][] = [];
  for (let i = 0; i + 1 < flat.length; i += 2) out.push([flat[i]!, flat[i + 1]!]);
  return out;
}
