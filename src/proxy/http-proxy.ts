// HTTP from guests: the explicit proxy on the gateway, and flows to port 80 that were taken over. It reads requests (node:http does), decides
// where each may go and by which way, and answers what goes nowhere. It listens nowhere: connections are handed to it.

import { createServer, type IncomingMessage, type Server, ServerResponse } from 'node:http';
import type { Duplex } from 'node:stream';
import type { Clock } from '../base/clock.ts';
import { FlowDuplex } from '../forwarder/flow-duplex.ts';
import type { Outbound } from '../forwarder/outbound.ts';
import type { IpAddress } from '../ip/address.ts';
import type { TcpFlow } from '../stack/ports.ts';
import { HttpForward, WayAgent } from './http-forward.ts';
import { hasPassed, valuesOf } from './http-headers.ts';
import type { Place, Reach } from './reach.ts';
import { type Refusal, RefusalCause, refusal } from './refusal.ts';
import type { Router } from './router.ts';
import { hostPort, type Route, type Upstream } from './upstream.ts';
import type { ConnectOptions } from './upstream-connect.ts';

/** Where a flow that was taken over was going. */
export interface Origin {
  readonly address: IpAddress;
  readonly port: number;
}

/** A guest's connection. */
export class GuestStream extends FlowDuplex {
  /** Undefined: the guest speaks to the explicit proxy, and knows. */
  readonly origin: Origin | undefined;
  readonly agent: WayAgent = new WayAgent();
  /** Requests that have no answer yet. */
  open = 0;
  /** Resolves when the requests so far have their answers: those of one connection are carried one after the other. */
  turn: Promise<void> = Promise.resolve();
  /** It carries another protocol than HTTP from now on, with its own idea of ends. */
  upgraded = false;
  #timer: NodeJS.Timeout | undefined;

  constructor(flow: TcpFlow, clock: Clock, origin: Origin | undefined) {
    super(flow, clock);
    this.origin = origin;
    this.on('error', () => {});
    this.once('close', () => {
      clearTimeout(this.#timer);
      this.agent.destroy();
    });
    // A guest that has ended its side still gets its answer (RFC 9112 9.6), but is not waited for without one.
    this.once('end', () => this.#waitHalfOpen());
    this.#waitForHead();
  }

  override _write(chunk: Buffer, encoding: BufferEncoding, done: (error?: Error | null) => void): void {
    if (this.readableEnded) this.#waitHalfOpen();
    super._write(chunk, encoding, done);
  }

  /**
   * As sockets of node:net have it: node:http calls it with its time for a kept connection after an answer, and with 0 when the next
   * request begins. Its own watch over slow heads looks at servers that listen only.
   */
  setTimeout(ms: number): this {
    if (ms === 0) this.#waitForHead();
    else this.#limit(ms, undefined);
    return this;
  }

  /** A request is there. */
  headIsThere(): void {
    clearTimeout(this.#timer);
  }

  #waitForHead(): void {
    this.#limit(HEAD_MS, refusalText(refusal(RefusalCause.Destination, 408, 'the request did not come in time')));
  }

  #waitHalfOpen(): void {
    if (!this.upgraded) this.#limit(HALF_OPEN_MS, undefined);
  }

  #limit(ms: number, words: Buffer | undefined): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => endSoon(this, words), ms);
  }

  /** As node:http ends the sockets that it knows: a guest that does not end its side is not waited for. */
  destroySoon(): void {
    endSoon(this);
  }
}

export interface HttpProxyOptions {
  readonly reach: Reach;
  readonly router: Router;
  /** Our name in Via. */
  readonly pseudonym: string;
  readonly guard: (upstream: Upstream) => Refusal | undefined;
  readonly outbound: Outbound;
  readonly onRequest: () => void;
  readonly onRoute: (route: Route) => void;
  readonly onRefused: (why: Refusal, where: string, stream: GuestStream) => void;
  /** A tunnel that a guest asked for: the flow is the callee's, and so is `toHost`, which came behind the request. */
  readonly onTunnel: (flow: TcpFlow, way: TunnelWay, toHost: Buffer) => void;
}

export interface TunnelWay extends ConnectOptions {
  /** Whether the guest spoke HTTP to get it: it is told the outcome. */
  readonly connect: boolean;
}

const HEAD_MAX_BYTES = 64 * 1024;
/** A request's head has so long, from its first byte or the connection's start; */
const HEAD_MS = 60_000;
/** and a connection waits so long for its next one. */
const KEEP_ALIVE_MS = 65_000;
/** One that has ended its side is given up after this long without a byte for it. */
const HALF_OPEN_MS = 60_000;
const LAST_WORDS_MS = 5000;
/** Requests that a guest may send ahead of their answers; apt sends ten. */
const PIPELINE_MAX = 64;

export class HttpProxy {
  readonly server: Server;
  /** Marks what went by here. */
  readonly via: readonly [string, string];
  readonly #options: HttpProxyOptions;

  constructor(options: HttpProxyOptions) {
    this.#options = options;
    this.via = ['Via', `1.1 ${options.pseudonym}`];
    this.server = createServer({
      maxHeaderSize: HEAD_MAX_BYTES,
      // An upload takes as long as it takes.
      requestTimeout: 0,
      keepAliveTimeout: KEEP_ALIVE_MS,
    });
    // Not in its types.
    Object.assign(this.server, { httpAllowHalfOpen: true });
    this.server.on('request', (incoming, outgoing) => this.#onRequest(incoming, outgoing));
    this.server.on('checkContinue', (incoming, outgoing) => this.#onRequest(incoming, outgoing));
    this.server.on('upgrade', (incoming, socket, head) => {
      // Ahead of answers that are under way: the connection is one or the other.
      if (streamOf(socket).open > 0) {
        socket.destroy();
        return;
      }
      const outgoing = new ServerResponse(incoming);
      outgoing.shouldKeepAlive = false;
      // A Duplex does for it; its type asks for a socket of node:net.
      outgoing.assignSocket(socket as never);
      outgoing.once('finish', () => endSoon(socket));
      this.#onRequest(incoming, outgoing, head);
    });
    this.server.on('clientError', (error: NodeJS.ErrnoException, socket) => {
      const tooLarge = error.code === 'HPE_HEADER_OVERFLOW';
      if (!socket.writable || error.code === 'ECONNRESET') socket.destroy();
      else
        endSoon(
          socket,
          refusalText(refusal(RefusalCause.Destination, tooLarge ? 431 : 400, 'this is no HTTP request')),
        );
    });
    this.server.on('connect', (incoming, socket, head) => this.#onConnect(incoming, streamOf(socket), head));
  }

  take(stream: GuestStream): void {
    this.server.emit('connection', stream);
  }

  #onRequest(incoming: IncomingMessage, outgoing: ServerResponse, head?: Buffer): void {
    const stream = streamOf(incoming.socket);
    stream.headIsThere();
    stream.upgraded = head !== undefined;
    // What comes when its time is over is not begun.
    if (++stream.open > PIPELINE_MAX || !stream.writable) {
      stream.destroy();
      return;
    }
    const before = stream.turn;
    stream.turn = new Promise((resolve) => {
      outgoing.once('close', () => {
        stream.open--;
        resolve();
      });
    });
    this.#options.onRequest();
    before
      .then(() => this.#serve(incoming, outgoing, stream, head))
      .catch((error: unknown) => {
        const why = isRefusal(error) ? error : refusal(RefusalCause.Proxy, 502, (error as Error).message);
        this.#refuse(why, outgoing, stream, incoming.url ?? '');
      })
      .catch(() => stream.destroy());
  }

  /** @throws Refusal */
  async #serve(
    incoming: IncomingMessage,
    outgoing: ServerResponse,
    stream: GuestStream,
    head: Buffer | undefined,
  ): Promise<void> {
    const { reach, router, pseudonym, guard, outbound, onRoute } = this.#options;
    const { origin, vmId } = stream;
    if (hasPassed(incoming, pseudonym)) throw loop('the request has come by here before');
    if (valuesOf(incoming.rawHeaders, 'host').length > 1)
      throw refusal(RefusalCause.Destination, 400, 'the request names more than one host');
    if (incoming.headers['max-forwards'] === '0' && /^(TRACE|OPTIONS)$/.test(incoming.method ?? '')) {
      outgoing.writeHead(200, { Allow: 'GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, CONNECT', 'Content-Length': 0 });
      outgoing.end();
      return;
    }
    const wanted = urlOf(incoming, origin);
    if (isRefusal(wanted)) throw wanted;
    const place = this.#place(wanted.host, origin);
    if (isRefusal(place)) throw place;
    const where = hostPort(place.host, wanted.port);
    const { settings } = router;
    if (settings.allow !== undefined && !settings.allow.includes(place.name, place.address, wanted.port)) {
      const text = settings.allowMessage?.replaceAll('%s', place.host);
      throw refusal(RefusalCause.Forbidden, 403, text ?? `there is no way to ${where}: it is not on the list`);
    }
    const routes = await router.routes({
      scheme: 'http',
      place,
      port: wanted.port,
      address: origin?.address,
      path: wanted.path,
    });
    const wrong = await reach.vet(routes, place, vmId);
    if (wrong !== undefined) throw wrong;
    if (outgoing.destroyed || stream.destroyed) return;
    new HttpForward({
      incoming,
      outgoing,
      head,
      routes,
      // A flow that was taken over has its port, whatever the request says.
      target: { host: place.host, port: origin?.port ?? wanted.port },
      host: wanted.authority,
      path: wanted.path,
      // What was taken over goes where it was going.
      direct: async () => (origin === undefined ? reach.addresses(place, vmId) : [origin.address.toString()]),
      guard,
      outbound,
      agent: stream.agent,
      via: pseudonym,
      authorization: origin === undefined ? incoming.headers['proxy-authorization'] : undefined,
      onRoute,
      onRefused: (why) => this.#refuse(why, outgoing, stream, where),
    });
  }

  /** A name in a request that was taken over is a hint; where it says nonsense the address holds. */
  #place(host: string, origin: Origin | undefined): Place | Refusal {
    const place = this.#options.reach.place(host);
    if (origin === undefined || (!isRefusal(place) && !place.inside)) return place;
    return { name: undefined, address: origin.address, host: origin.address.toString(), inside: false };
  }

  #onConnect(incoming: IncomingMessage, stream: GuestStream, head: Buffer): void {
    stream.headIsThere();
    if (stream.open > 0 || !stream.writable) {
      stream.destroy();
      return;
    }
    this.#options.onRequest();
    const url = incoming.url ?? '';
    this.#tunnelWay(incoming, stream)
      .then((way) => {
        if (stream.destroyed) return;
        const { flow, rest } = stream.detach();
        this.#options.onTunnel(flow, way, Buffer.concat([head, rest]));
      })
      .catch((error: unknown) => {
        const why = isRefusal(error) ? error : refusal(RefusalCause.Proxy, 502, (error as Error).message);
        this.#options.onRefused(why, url, stream);
        endSoon(stream, refusalText(why));
      });
  }

  /** @throws Refusal */
  async #tunnelWay(incoming: IncomingMessage, stream: GuestStream): Promise<TunnelWay> {
    const { reach, router, pseudonym, guard, outbound } = this.#options;
    if (stream.origin !== undefined) throw refusal(RefusalCause.Destination, 400, 'this is no proxy');
    if (hasPassed(incoming, pseudonym)) throw loop('the request has come by here before');
    const [, host, portText] = /^(\[[^\]]*\]|[^:/@]+):(\d{1,5})$/.exec(incoming.url ?? '') ?? [];
    const port = Number(portText);
    if (host === undefined || !(port >= 1 && port <= 65_535))
      throw refusal(RefusalCause.Destination, 400, 'CONNECT takes HOST:PORT');
    const place = reach.place(host);
    if (isRefusal(place)) throw place;
    const routes = await router.routes({ scheme: 'https', place, port, address: undefined, path: '/' });
    const wrong = await reach.vet(routes, place, stream.vmId);
    if (wrong !== undefined) throw wrong;
    const authorization = incoming.headers['proxy-authorization'];
    return {
      connect: true,
      routes,
      target: { host: place.host, port },
      headers: [
        this.via,
        ...(authorization === undefined || hasCredentials(routes)
          ? []
          : [['Proxy-Authorization', authorization] as const]),
      ],
      direct: () => reach.addresses(place, stream.vmId),
      guard,
      outbound,
    };
  }

  #refuse(why: Refusal, outgoing: ServerResponse, stream: GuestStream, where: string): void {
    this.#options.onRefused(why, where, stream);
    if (outgoing.headersSent || outgoing.destroyed) {
      stream.destroy();
      return;
    }
    const body = bodyOf(why);
    // What is left of the request's body is not waited for.
    if (!outgoing.req.complete) outgoing.shouldKeepAlive = false;
    outgoing.req.resume();
    outgoing.writeHead(why.status, {
      'Content-Type': 'text/plain; charset=utf-8',
      'Content-Length': Buffer.byteLength(body),
      'Cache-Control': 'no-store',
      ...(why.challenges === undefined || why.challenges.length === 0
        ? {}
        : { 'Proxy-Authenticate': [...why.challenges] }),
    });
    outgoing.end(outgoing.req.method === 'HEAD' ? undefined : body);
  }
}

/** Ends a connection; `words` go before. Who goes on sending is not heard for long. */
function endSoon(stream: Duplex, words?: Buffer): void {
  if (stream.destroyed) return;
  const timer = setTimeout(() => stream.destroy(), LAST_WORDS_MS);
  stream.once('close', () => clearTimeout(timer));
  stream.on('error', () => {});
  stream.resume();
  stream.end(words);
}

/** An answer in raw bytes, for a connection that is no HTTP server's any more. */
export function refusalText(why: Refusal): Buffer {
  const body = bodyOf(why);
  const challenges = (why.challenges ?? []).map((value) => `Proxy-Authenticate: ${value}\r\n`).join('');
  return Buffer.from(
    `HTTP/1.1 ${why.status} ${REASONS[why.status] ?? 'Error'}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: ${Buffer.byteLength(body)}\r\n${challenges}Connection: close\r\n\r\n${body}`,
  );
}

const REASONS: Readonly<Record<number, string>> = {
  400: 'Bad Request',
  403: 'Forbidden',
  407: 'Proxy Authentication Required',
  408: 'Request Timeout',
  431: 'Request Header Fields Too Large',
  502: 'Bad Gateway',
  504: 'Gateway Timeout',
  508: 'Loop Detected',
};

function bodyOf(why: Refusal): string {
  return `isthmus: ${why.message}\n`;
}

export function loop(why: string): Refusal {
  return refusal(RefusalCause.Loop, 508, `the way leads back to isthmus: ${why}`);
}

export function isRefusal(value: unknown): value is Refusal {
  return typeof value === 'object' && value !== null && 'cause' in value && 'status' in value && 'message' in value;
}

function hasCredentials(routes: readonly Route[]): boolean {
  return routes.some((route) => route.kind !== 'direct' && route.user !== undefined);
}

/** The stream that `take` was given: node:http hands it on as it is. */
function streamOf(socket: Duplex): GuestStream {
  return socket as GuestStream;
}

interface WantedUrl {
  readonly host: string;
  readonly port: number;
  /** `Host` as it goes on. */
  readonly authority: string;
  readonly path: string;
}

/** Absolute form, or a Host field where the flow was taken over. */
function urlOf(incoming: IncomingMessage, origin: Origin | undefined): WantedUrl | Refusal {
  const { url = '', headers } = incoming;
  const [, scheme, authorityText, rest = ''] = /^([a-z][a-z0-9+.-]*):\/\/([^/?#]*)([^#]*)/i.exec(url) ?? [];
  if (scheme !== undefined && scheme.toLowerCase() !== 'http')
    return refusal(RefusalCause.Destination, 400, `a proxy takes http: URLs, and CONNECT for everything else`);
  if (scheme === undefined && origin === undefined)
    return refusal(
      RefusalCause.Destination,
      400,
      'this is a proxy: it takes requests for whole URLs (http://HOST/PATH) and CONNECT',
    );
  const fallback = origin?.address.toString() ?? '';
  const host = authorityText ?? (headers.host === undefined || headers.host === '' ? fallback : headers.host);
  // User and password in a URL are the origin's business, and the client's to put into a field.
  const [, name, portText] = /^(?:[^@]*@)?(\[[^\]]*\]|[^:]*)(?::(\d{1,5}))?$/.exec(host) ?? [];
  const port = portText === undefined ? (scheme === undefined ? (origin?.port ?? 80) : 80) : Number(portText);
  if (name === undefined || name === '' || port < 1 || port > 65_535)
    return refusal(RefusalCause.Destination, 400, 'the request names no host');
  const path = url === '*' ? '*' : scheme === undefined ? url : rest.startsWith('/') ? rest : `/${rest}`;
  const bare = scheme !== undefined && rest === '' && incoming.method === 'OPTIONS';
  return { host: name, port, authority: port === 80 ? name : `${name}:${port}`, path: bare ? '*' : path };
}
