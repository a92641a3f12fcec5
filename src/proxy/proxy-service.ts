// Proxies, put together: takes over guests' flows to the chosen ports, serves the explicit proxy on the gateway, and tells of what was
// refused. It follows settings that may change at any time; flows that stand are left as they are.

import { randomBytes } from 'node:crypto';
import type { Clock, Millis } from '../base/clock.ts';
import { Destination, type Destinations } from '../forwarder/destination.ts';
import { FlowDuplex } from '../forwarder/flow-duplex.ts';
import type { FlowInterceptor } from '../forwarder/guest-services.ts';
import { HostFlow, type HostFlowContext } from '../forwarder/host-flow.ts';
import type { Outbound } from '../forwarder/outbound.ts';
import type { GatewayTcpService } from '../forwarder/tcp-forwarder.ts';
import { dialTcp } from '../host/host-stream.ts';
import type { IpAddress } from '../ip/address.ts';
import { CloseReason, type FlowOwner, RefuseReason, type TcpFlow } from '../stack/ports.ts';
import type { FirstBytes } from './first-bytes.ts';
import { GuestStream, HttpProxy, isRefusal, refusalText, type TunnelWay } from './http-proxy.ts';
import { NameMemory } from './name-memory.ts';
import type { ProxyCounts, ProxyStats, RefusalCounts, RouteCounts } from './proxy-stats.ts';
import { Reach, type ReachOptions } from './reach.ts';
import type { Refusal } from './refusal.ts';
import { type RouteFinder, Router } from './router.ts';
import type { ProxySettings } from './settings.ts';
import { TakenFlow } from './taken-flow.ts';
import { Tunnel } from './tunnel.ts';
import { hostPort, type Route, type Upstream } from './upstream.ts';

/** What came of a flow that got nowhere; a line of the log and an event. */
export interface RefusedFlow {
  /** `ADDRESS:PORT` of the guest. */
  readonly guest: string;
  /** Where it wanted to go. */
  readonly target: string;
  readonly refusal: Refusal;
}

export interface ProxyServiceOptions extends Omit<ReachOptions, 'clock' | 'destinations'> {
  readonly destinations: Destinations;
  readonly clock: Clock;
  readonly counts: ProxyCounts;
  /** A group of flows of its own. */
  readonly flows: HostFlowContext;
  /** Why this proxy may not be used now: it is one of our own ports. */
  readonly guard: (upstream: Upstream) => Refusal | undefined;
  /** Addresses of the host to dial from. */
  readonly outbound: Outbound;
  readonly onRefused: (refused: RefusedFlow) => void;
}

/** Connections of all guests over HTTP, and of one VM. */
const STREAMS_MAX = 2048;
const STREAMS_PER_VM = 512;
/** Flows whose destination is not known yet, or whose way is being made. */
const PENDING_MAX = 4096;
/** A guest that was told why has this long to hear it. */
const FAREWELL_MS = 5000;
/** RFC 8446 6: a fatal alert, access_denied. */
const TLS_ACCESS_DENIED = Buffer.from([21, 3, 3, 0, 2, 2, 49]);
const ESTABLISHED = Buffer.from('HTTP/1.1 200 Connection established\r\n\r\n');

export class ProxyService implements FlowInterceptor, GatewayTcpService {
  readonly names: NameMemory = new NameMemory();
  /** The explicit proxy also serves while nothing is proxied. */
  explicit = false;
  readonly stats: ProxyStats;
  readonly routes: RouteCounts;
  readonly refusals: RefusalCounts;
  readonly #router = new Router();
  readonly #options: ProxyServiceOptions;
  readonly #reach: Reach;
  readonly #http: HttpProxy;
  readonly #pending = new Set<TakenFlow | Tunnel>();
  readonly #streams = new Set<GuestStream>();
  readonly #perVm = new Map<number, number>();
  #closed = false;

  constructor(options: ProxyServiceOptions) {
    this.#options = options;
    ({ stats: this.stats, routes: this.routes, refusals: this.refusals } = options.counts);
    this.#reach = new Reach(options);
    this.#http = new HttpProxy({
      reach: this.#reach,
      router: this.#router,
      // Another one for each network: only our own mark is a loop.
      pseudonym: `isthmus-${randomBytes(6).toString('hex')}`,
      guard: options.guard,
      outbound: options.outbound,
      onRequest: () => {
        this.stats.requests++;
      },
      onRoute: (route) => this.routes.add(route),
      onRefused: (why, target, stream) => this.#refused(why, target, hostPort(stream.remoteAddress, stream.remotePort)),
      onTunnel: (flow, way, toHost) => this.#tunnel(flow, way, 'http', toHost),
    });
  }

  get settings(): ProxySettings {
    return this.#router.settings;
  }

  /** In force for what begins from now on. @param pac asks the PAC file of these settings. */
  use(settings: ProxySettings, pac: RouteFinder | undefined): void {
    this.#router.settings = settings;
    this.#router.pac = pac;
    if (!this.#router.isProxying) this.names.clear();
  }

  /** Whether DNS answers are worth learning from. */
  get isProxying(): boolean {
    return this.#router.isProxying;
  }

  /** Connections over HTTP, and flows on their way. */
  get live(): number {
    return this.#streams.size + this.#pending.size;
  }

  onSyn(flow: TcpFlow, now: Millis): boolean {
    const router = this.#router;
    const { remote, remotePort } = flow;
    if (!router.takes(remotePort) || this.#closed) return false;
    if (this.#options.destinations.classify(remote) !== Destination.Outside) return false;
    // What goes past the proxy whatever its name is never accepted before it is dialled.
    if (router.isExcluded(undefined, remote, remotePort)) return false;
    if (this.#pending.size >= PENDING_MAX) {
      this.stats.limited++;
      flow.refuse(RefuseReason.Refused, now);
      return true;
    }
    this.stats.flows++;
    const taken = new TakenFlow(
      flow,
      this.#options.clock,
      {
        onKnown: (known, first, at) => {
          this.#onKnown(known, first, at).catch(() => this.#farewell(known, undefined));
        },
        onGone: (one) => this.#pending.delete(one),
      },
      now,
    );
    this.#pending.add(taken);
    return true;
  }

  /** The explicit proxy's port. */
  onTcpFlow(flow: TcpFlow, now: Millis): FlowOwner | undefined {
    if ((!this.explicit && !this.#router.isProxying) || this.#closed) {
      flow.refuse(RefuseReason.Refused, now);
      return undefined;
    }
    const stream = this.#serve(flow, undefined, now);
    if (stream === undefined) return undefined;
    this.stats.clients++;
    flow.accept(now);
    this.#http.take(stream);
    return stream;
  }

  /** Resets what is under way. */
  close(): void {
    this.#closed = true;
    for (const one of [...this.#pending]) one.destroy();
    for (const stream of [...this.#streams]) stream.destroy();
    this.#http.server.close();
  }

  /** @returns undefined where there are too many: the flow is refused then. */
  #serve(
    flow: TcpFlow,
    origin: { address: IpAddress; port: number } | undefined,
    now: Millis,
  ): GuestStream | undefined {
    const ofVm = this.#perVm.get(flow.vm.id) ?? 0;
    if (this.#streams.size >= STREAMS_MAX || ofVm >= STREAMS_PER_VM) {
      this.stats.limited++;
      if (origin === undefined) flow.refuse(RefuseReason.Refused, now);
      else {
        flow.abort(CloseReason.HostReset, now);
        flow.release();
      }
      return undefined;
    }
    const stream = new GuestStream(flow, this.#options.clock, origin);
    this.#streams.add(stream);
    this.#perVm.set(stream.vmId, ofVm + 1);
    stream.once('close', () => {
      this.#streams.delete(stream);
      const left = (this.#perVm.get(stream.vmId) ?? 1) - 1;
      if (left === 0) this.#perVm.delete(stream.vmId);
      else this.#perVm.set(stream.vmId, left);
    });
    return stream;
  }

  async #onKnown(flow: TcpFlow, first: FirstBytes, now: Millis): Promise<void> {
    const { remote: address, remotePort: port } = flow;
    const said = first.kind === 'tls' ? first.name : first.kind === 'http' ? first.host : undefined;
    const name = said ?? this.names.nameOf(flow.vm.id, address);
    const found = name === undefined ? undefined : this.#reach.place(name);
    // A name that nobody may reach, or that only isthmus knows, does not hide where the flow goes.
    const known = found !== undefined && !isRefusal(found) && !found.inside ? found : undefined;
    const place = known ?? { name: undefined, address, host: address.toString(), inside: false };
    const isHttp = first.kind === 'http';
    const scheme = isHttp ? 'http' : 'https';
    const path = first.kind === 'http' && first.path.startsWith('/') ? first.path : '/';
    const holder = new Held(flow);
    const routes = await this.#router.routes({ scheme, place, port, address, path });
    const wrong = await this.#reach.vet(routes, place, flow.vm.id);
    if (!holder.release()) return;
    if (wrong !== undefined && !this.#closed) {
      this.#refused(wrong, hostPort(place.host, port), hostPort(flow.guest.toString(), flow.guestPort));
      this.#farewell(flow, lastWords(first.kind, wrong));
    } else if (this.#closed) {
      flow.abort(CloseReason.Shutdown, this.#options.clock.now());
      flow.release();
    } else if (routes.every((route) => route.kind === 'direct')) this.#goDirect(flow, address, port);
    else if (isHttp && routes.some((route) => route.kind === 'http' || route.kind === 'https')) {
      const stream = this.#serve(flow, { address, port }, now);
      if (stream !== undefined) this.#http.take(stream);
    } else {
      const way: TunnelWay = {
        connect: false,
        routes,
        target: { host: place.host, port },
        headers: [this.#http.via],
        direct: async () => [address.toString()],
        guard: this.#options.guard,
        outbound: this.#options.outbound,
      };
      this.#tunnel(flow, way, first.kind, undefined);
    }
  }

  /** As if it had never been taken over; the guest has its handshake already, so what fails is a reset. */
  #goDirect(flow: TcpFlow, address: IpAddress, port: number): void {
    const { flows, outbound } = this.#options;
    const hostFlow = new HostFlow(flow, flows, true);
    flow.owner = hostFlow;
    flows.stats.dialled++;
    this.routes.add({ kind: 'direct' });
    hostFlow.attach(dialTcp(address.toString(), port, hostFlow, outbound.addressFor(address)?.toString()), false);
    hostFlow.onReadable(flows.clock.now());
  }

  #tunnel(flow: TcpFlow, way: TunnelWay, speaks: FirstBytes['kind'], toHost: Buffer | undefined): void {
    const guest = hostPort(flow.guest.toString(), flow.guestPort);
    const tunnel = new Tunnel(
      flow,
      this.#options.flows,
      way,
      {
        onConnected: (route: Route) => {
          this.#pending.delete(tunnel);
          this.routes.add(route);
          return way.connect ? ESTABLISHED : undefined;
        },
        onRefused: (why) => {
          this.#pending.delete(tunnel);
          this.#refused(why, hostPort(way.target.host, way.target.port), guest);
          this.#farewell(flow, lastWords(speaks, why));
        },
        onGone: () => this.#pending.delete(tunnel),
      },
      toHost,
    );
    this.#pending.add(tunnel);
  }

  /** The last words to a guest, then the end; without words a reset. */
  #farewell(flow: TcpFlow, words: Buffer | undefined): void {
    if (words === undefined) {
      flow.abort(CloseReason.HostReset, this.#options.clock.now());
      flow.release();
      return;
    }
    const stream = new FlowDuplex(flow, this.#options.clock);
    const timer = setTimeout(() => stream.destroy(), FAREWELL_MS);
    stream.on('error', () => {});
    stream.once('close', () => clearTimeout(timer));
    stream.resume();
    stream.end(words);
  }

  #refused(why: Refusal, target: string, guest: string): void {
    this.refusals.add(why.cause);
    this.#options.onRefused({ guest, target, refusal: why });
  }
}

/** What a guest is told in the language that it speaks; undefined: nothing that it would understand. */
function lastWords(speaks: FirstBytes['kind'], why: Refusal): Buffer | undefined {
  return speaks === 'http' ? refusalText(why) : speaks === 'tls' ? TLS_ACCESS_DENIED : undefined;
}

/** A flow that waits for a decision: its bytes stay where they are. */
class Held implements FlowOwner {
  readonly #flow: TcpFlow;
  #gone = false;

  constructor(flow: TcpFlow) {
    this.#flow = flow;
    flow.owner = this;
  }

  /** @returns false if the guest has gone meanwhile. */
  release(): boolean {
    return !this.#gone;
  }

  onEstablished(): void {}

  onReadable(): void {}

  onWritable(): void {}

  onClosed(): void {
    this.#gone = true;
    this.#flow.release();
  }
}
