// Sends the resolver's queries to the host's DNS servers: UDP here, TCP in `dns-upstream-tcp`, getaddrinfo in `dns-host-lookup`.
// It decides nothing: which server, when and whether an answer is believed is `dns/resolver`'s. RFC 5452 (ports), RFC 7766.
//
// UDP sockets are connected, so that a refused or unreachable server is told by the kernel at once, and pooled: each has a
// random port of the kernel's, carries a bounded number of queries and is then replaced, so ports keep changing while a
// thousand questions in flight need a few dozen descriptors. Nothing about routes or source addresses outlives a socket.

import type { Clock, Millis } from '../base/clock.ts';
import { NEVER } from '../base/clock.ts';
import { type Random, randomBelow } from '../base/random.ts';
import type { Attempt, Lookup } from '../dns/lookup.ts';
import type { Resolver } from '../dns/resolver.ts';
import type { ResolverTransport } from '../dns/resolver-options.ts';
import type { Server } from '../dns/server.ts';
import { PENDING, PortUse, type UdpHandle, type UdpHandleOwner } from '../host/udp-handle.ts';
import { HostLookup } from './dns-host-lookup.ts';
import { TcpUpstream } from './dns-upstream-tcp.ts';
import type { UdpSocketContext } from './udp-socket.ts';

/** Sockets that a server gets before its sockets are shared by several open queries. */
const SPREAD_SOCKETS = 8;
/** Open queries on a socket that make another worth its descriptor. */
const CROWD = 8;
/** Queries that a port carries in its life. */
const USES_MAX = 16;
/** Of the sockets that other servers leave, what one server may hold: a silent one must not take the last. */
const SHARE = 2 / 3;
/** Of the limit, what servers with few sockets may have beyond it, when the others hold all. */
const SPARE = 1 / 3;
/** A port's life, and how long a socket without open queries is kept. */
const AGE_MAX_MS = 10_000;
const IDLE_MS = 2000;
/** An answer this much younger than a question that has none says that the question's socket leads nowhere, not that the server is slow. */
const LOST_MS = 500;

/** Memory for queries on their way to the kernel: one array for each length, as queries are sent one by one. */
class QueryBytes {
  readonly #byLength: (Uint8Array | undefined)[] = [];

  /** The whole query; valid until the next call. */
  of(a: Attempt): Uint8Array {
    const { length } = a;
    while (this.#byLength.length <= length) this.#byLength.push(undefined);
    let bytes = this.#byLength[length];
    if (bytes === undefined) {
      bytes = new Uint8Array(length);
      this.#byLength[length] = bytes;
    }
    a.writeTo(bytes, 0);
    return bytes;
  }

  /** They belong to somebody else now. */
  give(bytes: Uint8Array): void {
    this.#byLength[bytes.length] = undefined;
  }
}

/** What is used of what all UDP sockets share. */
export type DnsSockets = Pick<UdpSocketContext, 'handles' | 'texts'>;

/** What a channel tells its upstream. */
interface ChannelHost {
  onUdpMessage(c: UdpChannel, buf: Uint8Array, off: number, len: number): void;
  onUdpBroken(c: UdpChannel): void;
}

/** One connected UDP socket. */
class UdpChannel implements UdpHandleOwner {
  readonly server: Server;
  readonly handle: UdpHandle;
  /** Open queries, in the order in which they were sent. */
  readonly pending: Attempt[] = [];
  readonly openedAt: Millis;
  idleSince: Millis;
  uses = 0;
  closed = false;
  readonly #host: ChannelHost;
  readonly #sockets: DnsSockets;

  constructor(host: ChannelHost, sockets: DnsSockets, server: Server, now: Millis) {
    this.#host = host;
    this.#sockets = sockets;
    this.server = server;
    this.handle = sockets.handles.create(this, server.at.address.family);
    this.openedAt = now;
    this.idleSince = now;
  }

  /** The open query with that id. */
  asked(id: number): Attempt | undefined {
    for (const a of this.pending) if (a.id === id) return a;
    return undefined;
  }

  /** Nothing happens if it is not there. */
  drop(a: Attempt): void {
    const { pending } = this;
    const at = pending.indexOf(a);
    if (at < 0) return;
    for (let i = at + 1; i < pending.length; i++) pending[i - 1] = pending[i]!;
    pending.pop();
  }

  worn(now: Millis): boolean {
    return this.uses >= USES_MAX || now - this.openedAt >= AGE_MAX_MS;
  }

  onDatagram(buf: Uint8Array, off: number, len: number, address: string, port: number): void {
    // Between bind and connect anybody may have written: only the server's answers count (RFC 5452 9.1).
    const { at } = this.server;
    const told = address === '' || (port === at.port && this.#sockets.texts.addressOf(address)?.equals(at.address));
    if (told) this.#host.onUdpMessage(this, buf, off, len);
  }

  onReceiveError(): void {
    this.#host.onUdpBroken(this);
  }

  onSent(errno: string): void {
    if (errno !== '' && !this.closed) this.#host.onUdpBroken(this);
  }
}

export interface DnsUpstreamOptions {
  readonly clock: Clock;
  readonly random: Random;
  readonly sockets: DnsSockets;
  /** UDP sockets at most, all servers together; a third more for servers that have few because others hold all. */
  readonly maxUdpSockets: number;
  /** TCP connections at most, all servers together; but each server may have one. */
  readonly maxTcpSockets: number;
  /** Called after messages or failures were handed to the resolver. */
  readonly onActivity: () => void;
}

export class DnsUpstream implements ResolverTransport, ChannelHost {
  readonly #clock: Clock;
  readonly #random: Random;
  readonly #sockets: DnsSockets;
  readonly #maxUdp: number;
  readonly #onActivity: () => void;
  readonly #tcp: TcpUpstream;
  readonly #host: HostLookup;
  readonly #channels = new Map<Server, UdpChannel[]>();
  readonly #frames = new QueryBytes();
  #resolver: Resolver | undefined;
  #udpSockets = 0;
  #closed = false;
  #nextSweep: Millis = NEVER;
  /** The most UDP sockets ever open at once. */
  peakUdpSockets = 0;

  constructor(options: DnsUpstreamOptions) {
    this.#clock = options.clock;
    this.#random = options.random;
    this.#sockets = options.sockets;
    this.#maxUdp = options.maxUdpSockets;
    this.#onActivity = options.onActivity;
    const host = {
      fail: (a: Attempt): void => this.#failLater(a),
      message: (server: Server, channel: unknown, buf: Uint8Array, off: number, len: number): void =>
        this.#message(server, true, channel, buf, off, len),
    };
    this.#tcp = new TcpUpstream(options.maxTcpSockets, options.clock, host);
    this.#host = new HostLookup((l, addresses, exists) => {
      this.#resolver?.onHostAddresses(l, addresses, exists, this.#clock.now());
      this.#onActivity();
    });
  }

  /** Before the first query: the resolver is made with this transport. */
  attach(resolver: Resolver): void {
    this.#resolver = resolver;
  }

  get udpSockets(): number {
    return this.#udpSockets;
  }

  get tcpSockets(): number {
    return this.#tcp.size;
  }

  send(a: Attempt, now: Millis): void {
    if (this.#closed) this.#failLater(a);
    else if (a.tcp) this.#tcp.send(a, now);
    else this.#sendUdp(a, now);
  }

  cancel(a: Attempt): void {
    if (a.tcp) this.#tcp.cancel(a);
    else if (a.channel instanceof UdpChannel) {
      if (a.server.lastAnswerAt - a.sentAt > LOST_MS) this.#retire(a.server, a.sentAt);
      this.#release(a.channel, a);
    }
  }

  lookupHost(lookup: Lookup, name: string, _now: Millis): boolean {
    return !this.#closed && this.#host.start(lookup, name);
  }

  nextDeadline(): Millis {
    return Math.min(this.#nextSweep, this.#tcp.nextDeadline());
  }

  /** Closes what has been idle for long enough. */
  poll(now: Millis): void {
    this.#tcp.poll(now);
    if (now < this.#nextSweep) return;
    let next = NEVER;
    for (const list of [...this.#channels.values()]) {
      for (const c of [...list]) {
        if (c.pending.length > 0) next = Math.min(next, now + IDLE_MS);
        else if (now - c.idleSince >= IDLE_MS || c.worn(now)) this.#close(c);
        else next = Math.min(next, c.idleSince + IDLE_MS);
      }
    }
    this.#nextSweep = next;
  }

  /** The host's network may be another one: sockets, which are bound to its addresses, are not used for further queries. */
  renew(): void {
    for (const list of [...this.#channels.values()]) {
      for (const c of [...list]) {
        if (c.pending.length === 0) this.#close(c);
        else c.uses = USES_MAX;
      }
    }
    this.#tcp.renew();
  }

  /** Closes every socket; open queries are not answered any more. */
  close(): void {
    this.#closed = true;
    for (const list of [...this.#channels.values()]) for (const c of [...list]) this.#close(c);
    this.#tcp.close();
    this.#host.close();
    this.#nextSweep = NEVER;
  }

  #sendUdp(a: Attempt, now: Millis): void {
    const c = this.#pick(a, now);
    if (c === undefined) {
      this.#failLater(a);
      return;
    }
    if (this.#nextSweep === NEVER) this.#nextSweep = now + IDLE_MS;
    this.#sendOn(c, a);
  }

  #sendOn(c: UdpChannel, a: Attempt): void {
    a.channel = c;
    c.pending.push(a);
    c.uses++;
    const bytes = this.#frames.of(a);
    const status = c.handle.send(bytes);
    // What the kernel has not taken at once stays as it is.
    if (status === PENDING) this.#frames.give(bytes);
    else if (status < PENDING) this.#breakLater(c);
  }

  /** A socket for one query: a new one while they are few or crowded and there is room, else a random one of the open. */
  #pick(a: Attempt, now: Millis): UdpChannel | undefined {
    const list = this.#channels.get(a.server);
    let usable = 0;
    if (list !== undefined) for (const c of list) if (!c.worn(now)) usable++;
    const picked = usable > 0 ? this.#usableAt(list!, randomBelow(this.#random, usable), now) : undefined;
    // A repeated question gets a fresh port and a fresh route: the old socket may be bound to an address that is gone.
    const repeated = a.lookup.step >= a.lookup.order.length;
    const wanted = picked === undefined || repeated || usable < SPREAD_SOCKETS || picked.pending.length >= CROWD;
    const opened = wanted && this.#makeRoom(list?.length ?? 0) ? this.#open(a.server, now) : undefined;
    // With no more sockets to be had, worn ones carry on, all of them alike.
    return opened ?? picked ?? list?.[randomBelow(this.#random, list.length)];
  }

  /** The n-th of those that are not worn. */
  #usableAt(list: readonly UdpChannel[], n: number, now: Millis): UdpChannel | undefined {
    for (const c of list) if (!c.worn(now) && n-- === 0) return c;
    return undefined;
  }

  /** @param own sockets that the server has already. */
  #makeRoom(own: number): boolean {
    const others = this.#udpSockets - own;
    if (own >= SPREAD_SOCKETS && own >= (this.#maxUdp - others) * SHARE) return false;
    if (this.#udpSockets < this.#maxUdp) return true;
    for (const list of this.#channels.values()) {
      const idle = list.find((c) => c.pending.length === 0);
      if (idle !== undefined) {
        this.#close(idle);
        return true;
      }
    }
    return own < SPREAD_SOCKETS && this.#udpSockets < this.#maxUdp * (1 + SPARE);
  }

  #open(server: Server, now: Millis): UdpChannel | undefined {
    const c = new UdpChannel(this, this.#sockets, server, now);
    const { address, port, zone } = server.at;
    const text = zone === '' ? address.toString() : `${address.toString()}%${zone}`;
    // Out of descriptors or ports, no such zone, no route: told at once.
    const failed = c.handle.bind(address.isV4 ? '0.0.0.0' : '::', 0, PortUse.Alone) || c.handle.connect(text, port);
    if (failed !== '') {
      c.closed = true;
      c.handle.close();
      return undefined;
    }
    this.#udpSockets++;
    this.peakUdpSockets = Math.max(this.peakUdpSockets, this.#udpSockets);
    const list = this.#channels.get(server);
    if (list) list.push(c);
    else this.#channels.set(server, [c]);
    return c;
  }

  onUdpMessage(c: UdpChannel, buf: Uint8Array, off: number, len: number): void {
    this.#message(c.server, false, c, buf, off, len);
  }

  #message(server: Server, tcp: boolean, channel: unknown, buf: Uint8Array, off: number, len: number): void {
    if (this.#closed) return;
    const resolver = this.#resolver;
    const now = this.#clock.now();
    if (channel instanceof UdpChannel) {
      // The resolver lets go of the answered attempt without a word, so its place is freed here.
      const id = len >= 2 ? (buf[off]! << 8) | buf[off + 1]! : -1;
      const asked = channel.asked(id);
      resolver?.onMessage(server, tcp, channel, buf, off, len, now);
      if (asked !== undefined && !asked.live) this.#release(channel, asked);
    } else {
      resolver?.onMessage(server, tcp, channel, buf, off, len, now);
    }
    this.#onActivity();
  }

  /**
   * The kernel says that this server cannot be reached from this socket. A socket older than a query may be bound to an address that is
   * gone: it goes once more from a new one, whose word counts.
   */
  onUdpBroken(c: UdpChannel): void {
    if (c.closed) return;
    const failed = c.pending.splice(0);
    this.#close(c);
    if (failed.length === 0) return;
    const now = this.#clock.now();
    const fresh = this.#closed || !failed.some((a) => c.openedAt < a.sentAt) ? undefined : this.#open(c.server, now);
    for (const a of failed) {
      if (fresh === undefined || c.openedAt >= a.sentAt) this.#resolver?.onFailure(a, now);
      else if (a.live) this.#sendOn(fresh, a);
    }
    this.#onActivity();
  }

  /** Sockets of a server that were open at that time carry nothing more. */
  #retire(server: Server, openedUntil: Millis): void {
    for (const c of [...(this.#channels.get(server) ?? [])]) {
      if (c.openedAt > openedUntil) continue;
      if (c.pending.length === 0) this.#close(c);
      else c.uses = USES_MAX;
    }
  }

  /** A send failed inside of the resolver's call: it hears of that when it has returned. */
  #breakLater(c: UdpChannel): void {
    setImmediate(() => this.onUdpBroken(c));
  }

  #failLater(a: Attempt): void {
    setImmediate(() => {
      if (this.#closed) return;
      this.#resolver?.onFailure(a, this.#clock.now());
      this.#onActivity();
    });
  }

  #release(c: UdpChannel, a: Attempt): void {
    c.drop(a);
    if (c.pending.length > 0 || c.closed) return;
    const now = this.#clock.now();
    c.idleSince = now;
    if (c.worn(now)) this.#close(c);
  }

  #close(c: UdpChannel): void {
    if (c.closed) return;
    c.closed = true;
    this.#udpSockets--;
    const list = this.#channels.get(c.server) ?? [];
    const rest = list.filter((o) => o !== c);
    if (rest.length > 0) this.#channels.set(c.server, rest);
    else this.#channels.delete(c.server);
    c.handle.close();
  }
}
