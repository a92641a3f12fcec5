// gvproxy's HTTP API (gvisor-tap-vsock) on the host: forwards, DNS zones, leases, the switch's table, counters, and tunnels to a port of a
// guest. Paths, fields, statuses and the form of errors are gvproxy's; what is behind them is the table of forwards and the network.

import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { Duplex } from 'node:stream';
import { asApiError } from './api-error.ts';
import { BodyBudget } from './body-budget.ts';
import { CompatForwards } from './compat-forwards.ts';
import {
  GO_BAD_REQUEST,
  GoError,
  NOT_FOUND,
  readObject,
  refuseClient,
  sendEmpty,
  sendError,
  sendJson,
} from './go-http.ts';
import { addZone, allZones } from './gvproxy-dns.ts';
import { type GvproxyCaller, GvproxyForwarder, OWNER } from './gvproxy-forwarder.ts';
import { gvproxyStats } from './gvproxy-stats.ts';
import { limitRequestTime, NO_CHECKING_MS } from './request-deadline.ts';
import type { ApiSource } from './resources.ts';
import type { DialGuest } from './ssh-tunnel.ts';

/** gvproxy's read and write time-out. */
const TIMEOUT_MS = 10_000;

type Handler = (incoming: IncomingMessage, response: ServerResponse) => void | Promise<void>;

/** The requests of `/services/forwarder`; a guest at the gateway's port 80 has these and no others. */
export function forwarderRoutes(
  forwarder: GvproxyForwarder,
  budget: BodyBudget,
  callerOf: (incoming: IncomingMessage) => GvproxyCaller,
): Map<string, Handler> {
  const change =
    (type: string, run: (body: Record<string, unknown>, caller: GvproxyCaller) => Promise<void>): Handler =>
    async (incoming, response) => {
      if (incoming.method !== 'POST') throw new GoError(400, 'post only');
      await run(await readObject(incoming, budget, type), callerOf(incoming));
      sendEmpty(response);
    };
  return new Map<string, Handler>([
    ['/services/forwarder/all', (incoming, response) => sendJson(response, forwarder.all(callerOf(incoming)))],
    ['/services/forwarder/expose', change('ExposeRequest', (body, caller) => forwarder.expose(body, caller))],
    ['/services/forwarder/unexpose', change('UnexposeRequest', (body, caller) => forwarder.unexpose(body, caller))],
  ]);
}

/** An HTTP server over routes; every answer ends its connection, as a tunnel takes one over. */
export function goServer(routes: ReadonlyMap<string, Handler>, onFailure: (error: unknown) => void): Server {
  const server = createServer(
    { connectionsCheckingInterval: NO_CHECKING_MS, maxHeaderSize: 8192 },
    (incoming, response) => {
      response.setHeader('Connection', 'close');
      const path = (incoming.url ?? '').replace(/\?.*/s, '');
      const handler = routes.get(path);
      const answered = async (): Promise<void> => {
        if (handler === undefined) throw NOT_FOUND;
        await handler(incoming, response);
      };
      answered().catch((error: unknown) => {
        if (response.headersSent) {
          response.destroy();
          return;
        }
        sendError(response, asGoError(error, onFailure));
      });
    },
  );
  // It is handed its connections, and node:http looks for slow clients on servers that listen only.
  limitRequestTime(server, TIMEOUT_MS, 0);
  server.on('clientError', (error, socket) => refuseClient(error, socket, GO_BAD_REQUEST));
  return server;
}

function asGoError(error: unknown, onFailure: (error: unknown) => void): GoError {
  if (error instanceof GoError) return error;
  const refusal = asApiError(error);
  if (refusal !== undefined) return new GoError(refusal.status === 400 ? 400 : 500, refusal.message);
  onFailure(error);
  return new GoError(500, 'internal error');
}

/** The API on the host. */
export class GvproxyApi {
  readonly server: Server;
  readonly #source: ApiSource;
  readonly #forwarder: GvproxyForwarder;
  readonly #budget = new BodyBudget();
  readonly #tunnels = new Set<Duplex>();

  constructor(source: ApiSource, onFailure: (error: unknown) => void) {
    this.#source = source;
    const dial: DialGuest = (address, port) => source.dialGuest(address, port);
    this.#forwarder = new GvproxyForwarder(new CompatForwards(source.forwards, OWNER), dial);
    const forwarder = this.#forwarder;
    const routes = forwarderRoutes(forwarder, this.#budget, () => ({ guest: undefined }));
    const leases: Handler = (_incoming, response) => sendJson(response, this.#leases());
    routes.set('/services/dns/all', (_incoming, response) => sendJson(response, allZones(source)));
    routes.set('/services/dns/add', async (incoming, response) => {
      if (incoming.method !== 'POST') throw new GoError(400, 'post only');
      await addZone(source, await readObject(incoming, this.#budget, 'Zone'));
      sendEmpty(response);
    });
    routes.set('/services/dhcp/leases', leases);
    routes.set('/leases', leases);
    routes.set('/cam', (_incoming, response) => sendJson(response, this.#cam()));
    routes.set('/stats', (_incoming, response) => sendJson(response, gvproxyStats(source)));
    this.server = goServer(routes, onFailure);
  }

  /**
   * Whether a request's head asks for a tunnel, which has no answer in HTTP. Then the socket is the tunnel's.
   * @param rest bytes that came behind the head.
   */
  takes(method: string, url: string, socket: Duplex, rest: Buffer): boolean {
    if (method === '' || !/^\/tunnel(\?|$)/.test(url)) return false;
    const query = new URLSearchParams(url.slice('/tunnel'.length));
    const ip = query.get('ip') ?? '';
    const port = query.get('port') ?? '';
    const problem = tunnelProblem(ip, port);
    if (problem !== undefined) {
      const body = `${problem}\n`;
      socket.end(
        `HTTP/1.1 500 Internal Server Error\r\nContent-Type: text/plain; charset=utf-8\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\nContent-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`,
      );
      return true;
    }
    // gvproxy says OK before it dials; a guest that refuses is a connection that ends.
    socket.write('OK');
    this.#tunnel(socket, ip, Number(port), rest);
    return true;
  }

  /** Ends tunnels. */
  stop(): void {
    this.#forwarder.stop();
    for (const tunnel of this.#tunnels) tunnel.destroy();
  }

  #tunnel(socket: Duplex, ip: string, port: number, rest: Buffer): void {
    const guest = this.#source.dialGuest(ip, port);
    if (guest === undefined) {
      socket.destroy();
      return;
    }
    const dialling = setTimeout(() => guest.destroy(), TIMEOUT_MS);
    guest.once('connect', () => clearTimeout(dialling));
    this.#tunnels.add(guest);
    const end = (): void => {
      clearTimeout(dialling);
      this.#tunnels.delete(guest);
      socket.destroy();
      guest.destroy();
    };
    guest.on('error', end);
    guest.on('close', end);
    socket.on('error', end);
    socket.on('close', end);
    if (rest.length > 0) guest.write(rest);
    socket.pipe(guest).pipe(socket);
  }

  /** Address to MAC: the gateway, leases, and what is reserved. */
  #leases(): Record<string, string> {
    const { gateway } = this.#source;
    const all: [string, string][] = [
      [gateway.address, gateway.mac],
      ...this.#source.reservations().map(({ address, mac }): [string, string] => [address, mac]),
      ...this.#source.leases().map(({ address, mac }): [string, string] => [address, mac]),
    ];
    return Object.fromEntries(all.sort(([a], [b]) => (a < b ? -1 : 1)));
  }

  #cam(): Record<string, number> {
    const all = this.#source.vms().flatMap(({ id, macs }) => macs.map((mac): [string, number] => [mac, id]));
    return Object.fromEntries(all.sort(([a], [b]) => (a < b ? -1 : 1)));
  }
}

function tunnelProblem(ip: string, port: string): string | undefined {
  if (ip === '') return 'ip is mandatory';
  if (!/^[+-]?\d+$/.test(port)) return `strconv.Atoi: parsing ${JSON.stringify(port)}: invalid syntax`;
  if (!/^\d+\.\d+\.\d+\.\d+$/.test(ip)) return `invalid IP address: ${ip}`;
  return Number(port) >= 1 && Number(port) <= 65_535 ? undefined : `invalid port ${port}`;
}
