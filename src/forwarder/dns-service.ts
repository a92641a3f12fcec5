// The gateway's DNS service, UDP and TCP: hands guests' queries to `dns/responder`, its answers back, and keeps it told of the
// host's hosts file and of who is asked for which names (dns-sources). It owns the sessions and the deadlines; it decides no answer.

import type { Clock, Millis } from '../base/clock.ts';
import { DeadlineQueue } from '../base/deadline-queue.ts';
import type { Random } from '../base/random.ts';
import { NO_HOSTS, parseHosts } from '../dns/hosts.ts';
import type { LocalNames } from '../dns/local-names.ts';
import { MESSAGE_MAX_BYTES, UDP_SAFE_BYTES } from '../dns/message.ts';
import { parseServer, type ServerAddress } from '../dns/resolv-conf.ts';
import { type Asker, Responder } from '../dns/responder.ts';
import type { DnsStats } from '../dns/stats.ts';
import type { UpstreamRule } from '../dns/upstreams.ts';
import { ExitCode } from '../host/exit-code.ts';
import { OperatorError } from '../host/operator-error.ts';
import type { IpAddress } from '../ip/address.ts';
import {
  type DatagramMeta,
  type DatagramSender,
  type DatagramService,
  type FlowOwner,
  type LinkPort,
  RefuseReason,
  type TcpFlow,
} from '../stack/ports.ts';
import { CHECK_MS, WatchedFile } from './dns-files.ts';
import { DnsSession } from './dns-session.ts';
import { type DnsLog, DnsSources, type ScopedResolvers } from './dns-sources.ts';
import { type DnsSockets, DnsUpstream } from './dns-upstream.ts';

export interface DnsServiceOptions {
  readonly sender: DatagramSender;
  readonly clock: Clock;
  readonly random: Random;
  readonly sockets: DnsSockets;
  readonly names: LocalNames;
  /** Servers to ask in place of those in resolv.conf, each as `parseServer` takes them. */
  readonly upstreams?: readonly string[];
  /** Servers for domains, before whatever files say of them. */
  readonly rules?: readonly UpstreamRule[];
  /** VPNKit's resolver files. */
  readonly resolverFiles?: readonly string[];
  /** What the platform says of domains beside resolv.conf. */
  readonly scoped?: ScopedResolvers | undefined;
  /** Where resolvers on this host keep the servers that they ask. */
  readonly behind?: readonly string[];
  /** As of DnsSources. */
  readonly nsswitchPath?: string | undefined;
  /** The search list of the host may be another one. */
  readonly onSearch?: () => void;
  /** Before each query. */
  readonly onQuery?: (now: Millis) => void;
  /** Default `/etc/resolv.conf`. */
  readonly resolvConfPath?: string;
  /** Default `/etc/hosts`. */
  readonly hostsPath?: string;
  /** Bytes of cached answers, 0 for no cache. Default 8 MiB. */
  readonly cacheBytes?: number;
  /** Questions asked upstream at once. Default 4096. */
  readonly maxInFlight?: number;
  /** Of them, for one VM. Default 2048. */
  readonly maxInFlightPerVm?: number;
  /** UDP sockets towards upstream servers. Default 96. */
  readonly maxUdpSockets?: number;
  /** TCP connections towards upstream servers. Default 32. */
  readonly maxTcpSockets?: number;
  /** DNS connections of guests. Default 1024, and a quarter of it for one VM. */
  readonly maxSessions?: number;
  /** Unsent answers of all guest connections together. Default 16 MiB. */
  readonly maxUnsentBytes?: number;
  /** The largest UDP payload that a VM's link carries in one packet. Default 1232. */
  readonly linkLimitBytes?: (vm: LinkPort) => number;
  /** `nextDeadline` has become earlier: the daemon's timer must move. */
  readonly onDeadlineChanged: () => void;
  readonly log?: DnsLog;
}

/** A guest behind UDP. The service's own one is aimed at each datagram; `hold` makes one that lasts. */
class UdpAsker implements Asker {
  client = 0;
  readonly tcp = false;
  linkLimitBytes = UDP_SAFE_BYTES;
  guest: IpAddress | undefined = undefined;
  guestPort = 0;
  /** Where the query was sent: the answer comes from there. */
  service: IpAddress | undefined = undefined;
  servicePort = 0;
  readonly #sender: DatagramSender;
  readonly #stats: DnsStats;

  constructor(sender: DatagramSender, stats: DnsStats) {
    this.#sender = sender;
    this.#stats = stats;
  }

  hold(): Asker {
    const held = new UdpAsker(this.#sender, this.#stats);
    held.client = this.client;
    held.linkLimitBytes = this.linkLimitBytes;
    held.guest = this.guest;
    held.guestPort = this.guestPort;
    held.service = this.service;
    held.servicePort = this.servicePort;
    return held;
  }

  deliver(buf: Uint8Array, off: number, len: number, now: Millis): void {
    const { service, guest } = this;
    if (service === undefined || guest === undefined) return;
    const sent = this.#sender.sendDatagram(service, this.servicePort, guest, this.guestPort, buf, off, len, now);
    if (!sent) this.#stats.unsent++;
  }
}

export class DnsService implements DatagramService {
  /** Cache, policy and upstream state, for status and metrics. */
  readonly responder: Responder;
  readonly upstream: DnsUpstream;
  /** Bytes of answers that guests' TCP windows do not take yet. */
  unsentBytes = 0;
  readonly unsentLimitBytes: number;
  readonly #clock: Clock;
  readonly #asker: UdpAsker;
  readonly #linkLimitBytes: ((vm: LinkPort) => number) | undefined;
  readonly #sources: DnsSources;
  readonly #hosts: WatchedFile;
  readonly #onDeadlineChanged: () => void;
  readonly #onQuery: ((now: Millis) => void) | undefined;
  readonly #log: DnsLog | undefined;
  readonly #sessions = new Set<DnsSession>();
  readonly #sessionsPerVm = new Map<number, number>();
  readonly #maxSessions: number;
  readonly #awake = new Set<DnsSession>();
  readonly #deadlines = new DeadlineQueue();
  readonly #frame = new Uint8Array(MESSAGE_MAX_BYTES + 2);
  #nextLookAt: Millis = 0;
  #announced: Millis = Number.POSITIVE_INFINITY;
  #running = false;
  #settling = false;

  /** @throws OperatorError ERR_DNS_SERVER for an upstream that is no address. */
  constructor(options: DnsServiceOptions) {
    const servers = (options.upstreams ?? []).map(upstreamAddress);
    this.#clock = options.clock;
    this.#linkLimitBytes = options.linkLimitBytes;
    this.#onDeadlineChanged = options.onDeadlineChanged;
    this.#onQuery = options.onQuery;
    this.#log = options.log;
    this.#maxSessions = options.maxSessions ?? 1024;
    this.unsentLimitBytes = options.maxUnsentBytes ?? 16 * 1024 * 1024;
    this.upstream = new DnsUpstream({
      clock: options.clock,
      random: options.random,
      sockets: options.sockets,
      maxUdpSockets: options.maxUdpSockets ?? 96,
      maxTcpSockets: options.maxTcpSockets ?? 32,
      onActivity: () => this.#settle(),
    });
    this.responder = new Responder({
      names: options.names,
      transport: this.upstream,
      random: options.random,
      cacheBytes: options.cacheBytes ?? 8 * 1024 * 1024,
      maxInFlight: options.maxInFlight ?? 4096,
      maxPerClient: options.maxInFlightPerVm ?? 2048,
    });
    this.upstream.attach(this.responder.resolver);
    this.#asker = new UdpAsker(options.sender, this.responder.stats);
    const recheck = (): void => {
      if (!this.#running) return;
      this.#checkFiles(this.#clock.now());
      this.#settle();
    };
    this.#sources = new DnsSources({
      servers,
      rules: options.rules ?? [],
      files: options.resolverFiles ?? [],
      resolvConfPath: options.resolvConfPath ?? '/etc/resolv.conf',
      scoped: options.scoped,
      behind: options.behind ?? [],
      nsswitchPath: options.nsswitchPath,
      onOthers: () => {
        this.#forget();
        this.responder.resolver.restart(this.#clock.now());
        this.#log?.('info', 'dns.servers.renewed', {});
      },
      onRules: (rules, useTcp) => {
        this.#useRules(rules, useTcp, this.#clock.now());
        options.onSearch?.();
      },
      onEvent: recheck,
      log: options.log,
    });
    this.#hosts = new WatchedFile(options.hostsPath ?? '/etc/hosts', (text) => this.#onHosts(text), recheck);
  }

  get stats(): DnsStats {
    return this.responder.stats;
  }

  /** The host's search list, as resolver files and resolv.conf have it. */
  get search(): readonly string[] {
    return this.#sources.search;
  }

  /** DNS connections of guests that are open. */
  get sessions(): number {
    return this.#sessions.size;
  }

  /** Reads the host's files and begins to watch them. */
  start(): void {
    const now = this.#clock.now();
    this.#running = true;
    this.#hosts.start(now);
    this.#sources.start(now);
    this.#settle();
  }

  /** Open questions are answered SERVFAIL, connections reset, sockets and watches closed. Idempotent. */
  close(): void {
    if (!this.#running) return;
    const now = this.#clock.now();
    this.#running = false;
    this.#hosts.close();
    this.#sources.close();
    this.responder.resolver.close(now);
    for (const s of [...this.#sessions]) s.close(now);
    this.upstream.close();
  }

  /** What was learnt of the network is forgotten and the files are read anew: after a wake-up, or on the operator's word. */
  refresh(): void {
    this.#forget();
    if (!this.#running) return;
    const now = this.#clock.now();
    this.#checkFiles(now, true);
    this.responder.resolver.restart(now);
    this.#settle();
  }

  onDatagram(meta: DatagramMeta, buf: Uint8Array, off: number, len: number, now: Millis): void {
    if (!this.#running) return;
    const asker = this.#asker;
    asker.client = meta.vm.id;
    asker.linkLimitBytes = this.#linkLimitBytes === undefined ? UDP_SAFE_BYTES : this.#linkLimitBytes(meta.vm);
    asker.guest = meta.src;
    asker.guestPort = meta.srcPort;
    asker.service = meta.dst;
    asker.servicePort = meta.dstPort;
    this.query(buf, off, len, asker, now);
    this.#settle();
  }

  /** A question of our own, for a guest's sake. */
  ask(query: Uint8Array, asker: Asker, now: Millis): void {
    this.query(query, 0, query.length, asker, now);
    this.#settle();
  }

  /** A guest's connection to port 53: accepted, or refused where there are too many. @returns its owner, already set. */
  onTcpFlow(flow: TcpFlow, now: Millis): FlowOwner | undefined {
    const ofVm = this.#sessionsPerVm.get(flow.vm.id) ?? 0;
    if (!this.#running || this.#sessions.size >= this.#maxSessions || ofVm >= Math.ceil(this.#maxSessions / 4)) {
      this.stats.refusedLimit++;
      flow.refuse(RefuseReason.Refused, now);
      return undefined;
    }
    const session = new DnsSession(flow, this, this.#frame, now);
    this.#sessions.add(session);
    this.#sessionsPerVm.set(flow.vm.id, ofVm + 1);
    flow.owner = session;
    flow.accept(now);
    this.update(session);
    return session;
  }

  /** For sessions: one message of a guest. */
  query(buf: Uint8Array, off: number, len: number, asker: Asker, now: Millis): void {
    this.#onQuery?.(now);
    // One comparison for a query whose files were looked at a moment ago; events do not wait for it.
    if (now >= this.#nextLookAt) this.#checkFiles(now);
    this.responder.onQuery(buf, off, len, asker, now);
  }

  /** For sessions: a deadline may have moved. */
  update(s: DnsSession): void {
    this.#deadlines.update(s);
    this.#settle();
  }

  /** For sessions: has been answered and may have questions waiting; it goes on when the resolver is through. */
  wake(s: DnsSession): void {
    this.#awake.add(s);
  }

  /** For sessions: it is over. */
  closed(s: DnsSession): void {
    this.#awake.delete(s);
    if (!this.#sessions.delete(s)) return;
    this.#deadlines.remove(s);
    const left = (this.#sessionsPerVm.get(s.client) ?? 1) - 1;
    if (left === 0) this.#sessionsPerVm.delete(s.client);
    else this.#sessionsPerVm.set(s.client, left);
  }

  /** When `poll` is to be called next; may be early, never late. */
  nextDeadline(): Millis {
    this.#announced = Math.min(
      this.#deadlines.next,
      this.responder.resolver.nextDeadline(),
      this.upstream.nextDeadline(),
    );
    return this.#announced;
  }

  poll(now: Millis): void {
    if (!this.#running) return;
    this.#deadlines.run(now);
    this.responder.resolver.poll(now);
    this.upstream.poll(now);
    this.#announced = Number.POSITIVE_INFINITY;
    this.#settle();
  }

  /** The end of every turn: sessions with news go on, and the daemon hears of an earlier deadline. */
  #settle(): void {
    // A session that goes on comes by here itself; a set visits what is added meanwhile too.
    if (!this.#settling && this.#awake.size > 0) {
      this.#settling = true;
      for (const s of this.#awake) {
        this.#awake.delete(s);
        s.proceed(this.#clock.now());
      }
      this.#settling = false;
    }
    this.#touch();
  }

  /** Tells the daemon when the earliest deadline lies before the one it knows of. */
  #touch(): void {
    const known = this.#announced;
    if (this.#running && this.nextDeadline() < known) this.#onDeadlineChanged();
    else this.#announced = Math.min(known, this.#announced);
  }

  /** Answers, the health of servers, the sockets to them. */
  #forget(): void {
    this.responder.cache.flush();
    this.responder.resolver.upstreams.forgive();
    this.upstream.renew();
  }

  #checkFiles(now: Millis, force = false): void {
    this.#nextLookAt = now + CHECK_MS;
    this.#sources.check(now, force);
    this.#hosts.check(now, force);
  }

  #useRules(rules: readonly UpstreamRule[], useTcp: boolean, now: Millis): void {
    if (!this.responder.setRules(rules, useTcp, now)) return;
    this.upstream.renew();
    const { fallback, routes } = this.responder.resolver.upstreams;
    const domains = Object.fromEntries(routes.map((r) => [r.domain, r.servers.all.map((s) => s.text)]));
    this.#log?.('info', 'dns.servers.changed', {
      servers: fallback.servers.all.map((s) => s.text),
      ...(routes.length === 0 ? {} : { domains }),
    });
  }

  #onHosts(text: string | undefined): void {
    const hosts = text === undefined ? NO_HOSTS : parseHosts(text);
    this.responder.setHosts(hosts);
    this.#log?.('debug', 'dns.hosts.read', { names: hosts.addresses.size, skipped: hosts.skipped });
  }
}

function upstreamAddress(text: string): ServerAddress {
  const server = parseServer(text);
  if (server !== undefined) return server;
  throw new OperatorError(
    `dns: "${text}" is not a DNS server; write an address with or without port, e.g. 192.0.2.1, 192.0.2.1:5353, [2001:db8::1]:53`,
    { code: 'ERR_DNS_SERVER', exitCode: ExitCode.Config },
  );
}
