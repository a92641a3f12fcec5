// Makes a connection to a destination by the first of several routes that works: dials the proxy, holds the handshake, and hands over a
// socket that is the destination's from then on. It owns the attempt; what the socket is for is the caller's.

import { lookup } from 'node:dns';
import net from 'node:net';
import tls from 'node:tls';
import type { Outbound } from '../forwarder/outbound.ts';
import { isLoopbackV4, parseAddress } from '../ip/address.ts';
import { type Handshake, handshakeFor, type Target } from './handshake.ts';
import { type Refusal, RefusalCause, refusal } from './refusal.ts';
import { hostPort, type Route, type Upstream, upstreamName } from './upstream.ts';

/** A proxy that is there answers within this time; */
const CONNECT_MS = 10_000;
/** and has this long to reach the destination. */
const HANDSHAKE_MS = 75_000;

export interface ConnectOptions {
  /** At least one; the next is tried when a proxy cannot be reached, not when it refuses. */
  readonly routes: readonly Route[];
  readonly target: Target;
  /** An HTTP proxy is only dialled: requests in absolute form follow. */
  readonly plain?: boolean;
  /** Further lines for CONNECT. */
  readonly headers?: readonly (readonly [string, string])[];
  /** Literal addresses of the target that may be dialled without a proxy, or why there are none. */
  readonly direct: () => Promise<readonly string[] | Refusal>;
  /** Why this proxy may not be used now. */
  readonly guard: (upstream: Upstream) => Refusal | undefined;
  /** Addresses of the host to dial from. */
  readonly outbound: Outbound;
}

export interface Connected {
  readonly socket: net.Socket;
  /** Bytes of the destination's that have been read already. */
  readonly rest: Buffer;
  readonly route: Route;
}

/** Exactly one of the two is called, once, unless `abort` comes first. `onConnected` takes the socket before it returns. */
export interface ConnectEvents {
  onConnected(connected: Connected): void;
  onRefused(refusal: Refusal): void;
}

/** One attempt. */
export class UpstreamConnect {
  readonly #options: ConnectOptions;
  readonly #events: ConnectEvents;
  #socket: net.Socket | undefined;
  #timer: NodeJS.Timeout | undefined;
  #over = false;

  constructor(options: ConnectOptions, events: ConnectEvents) {
    this.#options = options;
    this.#events = events;
    this.#try(0);
  }

  /** Nothing is called any more; what was dialled is closed. */
  abort(): void {
    this.#over = true;
    this.#drop();
  }

  #try(index: number, last?: Refusal): void {
    const route = this.#options.routes[index];
    if (route === undefined) {
      this.#refuse(last ?? refusal(RefusalCause.Unreachable, 502, 'there is no way to go'));
      return;
    }
    const next = (why: Refusal): void => {
      this.#drop();
      if (!this.#over) this.#try(index + 1, why);
    };
    if (route.kind === 'direct') {
      this.#direct(next);
      return;
    }
    const wrong = this.#options.guard(route);
    if (wrong !== undefined) {
      // Never from inside the constructor.
      process.nextTick(next, wrong);
      return;
    }
    this.#dialProxy(
      route,
      (errno) => next(unreachableProxy(route, errno)),
      (socket) => {
        if (this.#options.plain === true && route.kind !== 'socks5')
          this.#done({ socket, rest: Buffer.alloc(0), route });
        else this.#shake(socket, route, next);
      },
    );
  }

  #direct(next: (why: Refusal) => void): void {
    const { target } = this.#options;
    const at = hostPort(target.host, target.port);
    const failed = (errno: string): void => {
      const status = errno === 'ETIMEDOUT' ? 504 : 502;
      next(refusal(RefusalCause.Unreachable, status, `${at} cannot be reached: ${errnoText(errno)}`));
    };
    this.#options.direct().then(
      (found) => {
        if (this.#over) return;
        if ('cause' in found) next(found);
        else
          this.#dialEach(
            found,
            (host) => dialPlain(host, target.port, this.#sourceFor(host)),
            failed,
            (socket) => this.#done({ socket, rest: Buffer.alloc(0), route: { kind: 'direct' } }),
          );
      },
      (error: unknown) =>
        next(refusal(RefusalCause.Unreachable, 502, `${at} cannot be reached: ${(error as Error).message}`)),
    );
  }

  /** A rule about source addresses looks at the address that is dialled: a name is looked up first where there are rules. */
  #dialProxy(upstream: Upstream, failed: (errno: string) => void, connected: (socket: net.Socket) => void): void {
    const { host } = upstream;
    const dial = (address: string): net.Socket => dialUpstream(upstream, address, this.#sourceFor(address));
    if (this.#options.outbound.isEmpty || net.isIP(host) !== 0) {
      this.#dial(dial(host), failed, connected);
      return;
    }
    lookup(host, { all: true }, (error, found) => {
      if (this.#over) return;
      if (error !== null) failed(error.code ?? error.message);
      else
        this.#dialEach(
          found.map(({ address }) => address),
          dial,
          failed,
          connected,
        );
    });
  }

  /** One address after the other. @param failed what the last one came to. */
  #dialEach(
    addresses: readonly string[],
    dial: (address: string) => net.Socket,
    failed: (errno: string) => void,
    connected: (socket: net.Socket) => void,
    errno = 'ENOTFOUND',
  ): void {
    if (this.#over) return;
    const [first, ...others] = addresses;
    if (first === undefined) {
      failed(errno);
      return;
    }
    const next = (why: string): void => {
      this.#drop();
      this.#dialEach(others, dial, failed, connected, why);
    };
    this.#dial(dial(first), next, connected);
  }

  /** The host's loopback has its own. */
  #sourceFor(text: string): string | undefined {
    const address = parseAddress(text);
    if (address === undefined || (address.isV4 && isLoopbackV4(address.v4))) return undefined;
    return this.#options.outbound.addressFor(address)?.toString();
  }

  #dial(socket: net.Socket, failed: (errno: string) => void, connected: (socket: net.Socket) => void): void {
    this.#socket = socket;
    this.#timer = setTimeout(() => failed('ETIMEDOUT'), CONNECT_MS);
    socket.on('error', (error: NodeJS.ErrnoException) => {
      if (this.#socket === socket && !this.#over) failed(error.code ?? error.message);
    });
    socket.once(socket instanceof tls.TLSSocket ? 'secureConnect' : 'connect', () => {
      clearTimeout(this.#timer);
      if (this.#socket === socket && !this.#over) connected(socket);
    });
  }

  #shake(socket: net.Socket, upstream: Upstream, next: (why: Refusal) => void): void {
    const { target, headers = [] } = this.#options;
    const handshake: Handshake = handshakeFor(upstream, target, headers);
    const at = hostPort(target.host, target.port);
    const proxy = upstreamName(upstream);
    this.#timer = setTimeout(
      () => this.#refuse(refusal(RefusalCause.Destination, 504, `the proxy ${proxy} did not answer for ${at}`)),
      HANDSHAKE_MS,
    );
    const onEnd = (): void =>
      next(refusal(RefusalCause.Proxy, 502, `the proxy ${proxy} closed the connection instead of answering`));
    socket.once('end', onEnd);
    socket.once('close', onEnd);
    socket.removeAllListeners('error');
    socket.on('error', (error: NodeJS.ErrnoException) => {
      if (this.#socket === socket && !this.#over) next(unreachableProxy(upstream, error.code ?? error.message));
    });
    const onData = (bytes: Buffer): void => {
      if (this.#over || this.#socket !== socket) return;
      const step = handshake.onBytes(bytes);
      if (step.kind === 'more') {
        if (step.send !== undefined) socket.write(step.send);
        return;
      }
      socket.off('data', onData);
      socket.off('end', onEnd);
      socket.off('close', onEnd);
      if (step.kind === 'done') this.#done({ socket, rest: step.rest, route: upstream });
      else this.#refuse(step.refusal);
    };
    socket.on('data', onData);
    socket.write(handshake.hello);
  }

  #done(connected: Connected): void {
    const { socket } = connected;
    this.#over = true;
    this.#socket = undefined;
    clearTimeout(this.#timer);
    socket.pause();
    socket.removeAllListeners('error');
    // Until the next owner listens, and after it has gone.
    socket.on('error', () => {});
    this.#events.onConnected(connected);
  }

  #refuse(why: Refusal): void {
    if (this.#over) return;
    this.#over = true;
    this.#drop();
    this.#events.onRefused(why);
  }

  #drop(): void {
    clearTimeout(this.#timer);
    const socket = this.#socket;
    this.#socket = undefined;
    if (socket === undefined) return;
    socket.removeAllListeners();
    socket.on('error', () => {});
    socket.destroy();
  }
}

function dialPlain(host: string, port: number, source: string | undefined): net.Socket {
  return net.connect({ host, port, allowHalfOpen: true, noDelay: true, ...localAddress(source) });
}

/** A socket on its way to the proxy. @param at where that is: its name, or an address that it has. */
function dialUpstream({ kind, host, port }: Upstream, at: string, source: string | undefined): net.Socket {
  if (kind !== 'https') return dialPlain(at, port, source);
  const servername = net.isIP(host) === 0 ? { servername: host } : {};
  // Its types lack `allowHalfOpen`.
  const options = { host: at, port, allowHalfOpen: true, ALPNProtocols: ['http/1.1'], ...servername };
  return tls.connect({ ...options, ...localAddress(source) });
}

function localAddress(source: string | undefined): { readonly localAddress?: string } {
  return source === undefined ? {} : { localAddress: source };
}

export function unreachableProxy(upstream: Upstream, errno: string): Refusal {
  const status = errno === 'ETIMEDOUT' ? 504 : 502;
  return refusal(
    RefusalCause.Proxy,
    status,
    `the proxy ${upstreamName(upstream)} cannot be reached: ${errnoText(errno)}`,
  );
}

const ERRNO_TEXTS: Readonly<Record<string, string>> = {
  ECONNREFUSED: 'connection refused',
  ECONNRESET: 'connection reset',
  EPIPE: 'connection reset',
  ETIMEDOUT: 'it does not answer',
  ENOTFOUND: 'its name is unknown',
  EAI_AGAIN: 'its name cannot be resolved now',
  EHOSTUNREACH: 'no route to the host',
  ENETUNREACH: 'network unreachable',
  EADDRNOTAVAIL: 'network unreachable',
};

function errnoText(errno: string): string {
  const text = Object.hasOwn(ERRNO_TEXTS, errno) ? ERRNO_TEXTS[errno] : undefined;
  return text ?? errno.replace(/[^\x20-\x7e]/g, '?').slice(0, 200);
}
