// Relays datagrams of guests to anywhere by host sockets, and what comes back. It owns the table of flows, their idle times and their
// cap; the sockets are udp-flow's. One flow per guest address and port (endpoint-independent mapping). RFC 4787.

import { type Clock, type Millis, NEVER } from '../base/clock.ts';
import type { IpAddress } from '../ip/address.ts';
import type { DatagramAcceptor, DatagramMeta, DatagramSender, LinkPort } from '../stack/ports.ts';
import { Destination, type Destinations, refusalOf } from './destination.ts';
import {
  isStaleRoute,
  NO_ICMP,
  plateauBelow,
  UNREACHABLE,
  unreachableCodeOf,
  unreachableCodeOfReason,
} from './errno.ts';
import { NO_RULES, type Outbound } from './outbound.ts';
import type { SendArena } from './send-arena.ts';
import { UdpFlow, type UdpFlowOwner } from './udp-flow.ts';
import type { UdpSocketContext } from './udp-socket.ts';

/** Takes datagrams that answer clients of published ports. */
export interface DatagramClaimer {
  claim(meta: DatagramMeta, buf: Uint8Array, off: number, len: number, now: Millis): boolean;
}

export interface UdpForwarderOptions {
  readonly destinations: Destinations;
  readonly sender: DatagramSender;
  readonly clock: Clock;
  /** Called when `nextDeadline` may have come nearer. */
  readonly onDeadlineChanged: () => void;
  readonly claimer?: DatagramClaimer | undefined;
  /** Addresses of the host to send from: a guest's port has a flow for each. */
  readonly outbound?: Outbound;
  /** A guest opens a flow. */
  readonly onFlow?: (now: Millis) => void;
  /** A datagram was not sent for want of a route. */
  readonly onNoRoute?: () => void;
  /** The publisher's too, so that both have one bound on bytes in flight. */
  readonly sockets: UdpSocketContext;
  /** Default 60,000 ms (RFC 4787 4.3 advises two minutes and more; `idleMs` may say so). */
  readonly idleMs?: number;
  /** Flows that have sent to port 53 only. Default 10,000 ms. */
  readonly dnsIdleMs?: number;
  /** Default 1,024; each takes two descriptors. */
  readonly maxFlows?: number;
}

/** Plain counters for metrics. */
export class UdpForwarderStats {
  flowsOpened = 0;
  flowsIdle = 0;
  /** Pushed out because the table was full. */
  flowsEvicted = 0;
  /** Not opened: the host had no socket or port left. */
  flowsFailed = 0;
  datagramsToHost = 0;
  bytesToHost = 0;
  datagramsToGuest = 0;
  bytesToGuest = 0;
  /** To a destination that is never relayed: groups, broadcast, loopback, link-local, unused addresses. */
  notRelayed = 0;
  /** Dropped with too much in flight towards the host. */
  toHostDropped = 0;
  /** Refused by the stack: the guest is unknown, or its link does not drain. */
  toGuestDropped = 0;
  /** From addresses that no guest could answer to. */
  fromMartians = 0;
  hostErrors = 0;
  unreachablesSent = 0;
}

/** Flows by last use; all of a list have the same idle time, so its oldest is the next to go. */
class IdleList {
  oldest: UdpFlow | undefined = undefined;
  newest: UdpFlow | undefined = undefined;

  push(f: UdpFlow): void {
    f.older = this.newest;
    f.newer = undefined;
    if (this.newest === undefined) this.oldest = f;
    else this.newest.newer = f;
    this.newest = f;
  }

  remove(f: UdpFlow): void {
    if (f.older === undefined) this.oldest = f.newer;
    else f.older.newer = f.newer;
    if (f.newer === undefined) this.newest = f.older;
    else f.newer.older = f.older;
    f.older = undefined;
    f.newer = undefined;
  }
}

const BUCKETS = 2048;

export class UdpForwarder implements DatagramAcceptor, UdpFlowOwner {
  readonly stats: UdpForwarderStats = new UdpForwarderStats();
  size = 0;
  readonly #sockets: UdpSocketContext;
  readonly #destinations: Destinations;
  readonly #sender: DatagramSender;
  readonly #clock: Clock;
  readonly #onDeadlineChanged: () => void;
  readonly #claimer: DatagramClaimer | undefined;
  readonly #outbound: Outbound;
  readonly #onFlow: ((now: Millis) => void) | undefined;
  readonly #onNoRoute: (() => void) | undefined;
  readonly #idleMs: number;
  readonly #dnsIdleMs: number;
  readonly #maxFlows: number;
  readonly #buckets: (UdpFlow | undefined)[] = new Array<UdpFlow | undefined>(BUCKETS).fill(undefined);
  readonly #long = new IdleList();
  readonly #short = new IdleList();
  readonly #perVm = new Map<number, number>();
  #closed = false;

  constructor(options: UdpForwarderOptions) {
    this.#sockets = options.sockets;
    this.#destinations = options.destinations;
    this.#sender = options.sender;
    this.#clock = options.clock;
    this.#onDeadlineChanged = options.onDeadlineChanged;
    this.#claimer = options.claimer;
    this.#outbound = options.outbound ?? NO_RULES;
    this.#onFlow = options.onFlow;
    this.#onNoRoute = options.onNoRoute;
    this.#idleMs = options.idleMs ?? 60_000;
    this.#dnsIdleMs = options.dnsIdleMs ?? 10_000;
    this.#maxFlows = options.maxFlows ?? 1024;
  }

  onDatagram(meta: DatagramMeta, buf: Uint8Array, off: number, len: number, now: Millis): boolean {
    if (this.#closed) return true;
    const dst = meta.dst;
    const kind = this.#destinations.classify(dst);
    // An answer to a client of a published port, whom the guest sees as itself, as the host alias or as the gateway.
    if (this.#claimer?.claim(meta, buf, off, len, now)) return true;
    // A gateway port without service: the stack says "port unreachable".
    if (kind === Destination.Gateway) return false;
    const refusal = refusalOf(kind);
    if (refusal !== undefined) {
      this.stats.notRelayed++;
      // RFC 1122 3.2.2: never an ICMP error about a group or broadcast.
      if (kind === Destination.Multicast || kind === Destination.Broadcast) return true;
      this.#unreachable(unreachableCodeOfReason(refusal), 0, meta.src, meta.srcPort, dst, meta.dstPort, len, now);
      return true;
    }
    const hash = hashOf(meta.vm.id, meta.src, meta.srcPort);
    // The host's loopback has its own source address.
    const local = kind === Destination.Outside ? this.#outbound.addressFor(dst) : undefined;
    const flow = this.#find(hash, meta.vm, meta.src, meta.srcPort, local) ?? this.#create(hash, meta, local, now);
    if (flow === undefined) return true;
    if (flow.short && meta.dstPort !== 53) {
      this.#short.remove(flow);
      flow.short = false;
      this.#enlist(flow, now);
    } else this.#touch(flow, now);
    if (flow.send(this.#destinations.dialAddress(dst, kind), meta.dstPort, buf, off, len, now)) {
      this.stats.datagramsToHost++;
      this.stats.bytesToHost += len;
    } else this.stats.toHostDropped++;
    return true;
  }

  onVmGone(vm: LinkPort): void {
    for (const list of [this.#long, this.#short]) {
      for (let f = list.oldest; f !== undefined; ) {
        const newer: UdpFlow | undefined = f.newer;
        if (f.vm.id === vm.id) this.#remove(f);
        f = newer;
      }
    }
  }

  nextDeadline(): Millis {
    const long = this.#long.oldest === undefined ? NEVER : this.#long.oldest.lastUsed + this.#idleMs;
    const short = this.#short.oldest === undefined ? NEVER : this.#short.oldest.lastUsed + this.#dnsIdleMs;
    return Math.min(long, short);
  }

  /** Ends the flows that were idle too long. */
  poll(now: Millis): void {
    this.#expire(this.#long, now - this.#idleMs);
    this.#expire(this.#short, now - this.#dnsIdleMs);
  }

  /** The flows, for status. */
  *flows(): IterableIterator<UdpFlow> {
    for (const list of [this.#long, this.#short]) {
      for (let f = list.oldest; f !== undefined; f = f.newer) yield f;
    }
  }

  /** Ends one flow: its sockets are closed, and the guest's next datagram makes a new one. */
  end(flow: UdpFlow): void {
    this.#remove(flow);
  }

  /** Ends every flow; further datagrams are ignored. */
  close(): void {
    this.#closed = true;
    for (const list of [this.#long, this.#short]) while (list.oldest !== undefined) this.#remove(list.oldest);
  }

  /** Datagrams not sent yet, of flows and published ports. */
  get arena(): SendArena {
    return this.#sockets.arena;
  }

  now(): Millis {
    return this.#clock.now();
  }

  onFromHost(
    flow: UdpFlow,
    from: IpAddress,
    fromPort: number,
    buf: Uint8Array,
    off: number,
    len: number,
    now: Millis,
  ): void {
    const seen = this.#destinations.seenFromGuest(from);
    // Port 0: the guest's datagrams asked for no answer (RFC 768); nobody can answer to port 0 either.
    if (seen === undefined || fromPort === 0 || flow.guestPort === 0) {
      this.stats.fromMartians++;
      return;
    }
    this.#touch(flow, now);
    if (this.#sender.sendDatagram(seen, fromPort, flow.guest, flow.guestPort, buf, off, len, now)) {
      this.stats.datagramsToGuest++;
      this.stats.bytesToGuest += len;
    } else this.stats.toGuestDropped++;
  }

  onHostError(flow: UdpFlow, errno: string, to: IpAddress, toPort: number, len: number): void {
    this.stats.hostErrors++;
    if (isStaleRoute(errno)) this.#onNoRoute?.();
    const code = unreachableCodeOf(errno);
    const seen = this.#destinations.seenFromGuest(to);
    if (code === NO_ICMP || seen === undefined || flow.guestPort === 0) return;
    const mtu = code === UNREACHABLE.FragNeeded ? plateauBelow(len + (to.isV4 ? 28 : 48)) : 0;
    this.#unreachable(code, mtu, flow.guest, flow.guestPort, seen, toPort, len, this.#clock.now());
  }

  #unreachable(
    code: number,
    mtu: number,
    guest: IpAddress,
    guestPort: number,
    remote: IpAddress,
    remotePort: number,
    len: number,
    now: Millis,
  ): void {
    this.stats.unreachablesSent++;
    this.#sender.sendUnreachable(code, mtu, guest, guestPort, remote, remotePort, len, now);
  }

  #find(hash: number, vm: LinkPort, guest: IpAddress, port: number, local: IpAddress | undefined): UdpFlow | undefined {
    let f = this.#buckets[hash];
    while (
      f !== undefined &&
      (f.guestPort !== port || f.vm.id !== vm.id || f.local !== local || !f.guest.equals(guest))
    )
      f = f.chain;
    return f;
  }

  #create(hash: number, meta: DatagramMeta, local: IpAddress | undefined, now: Millis): UdpFlow | undefined {
    if (this.size >= this.#maxFlows) {
      const victim = this.#crowding();
      if (victim !== undefined) {
        this.stats.flowsEvicted++;
        this.#remove(victim);
      }
    }
    const flow = new UdpFlow(this, this.#sockets, meta.vm, meta.src, meta.srcPort, local);
    if (!flow.open()) {
      this.stats.flowsFailed++;
      flow.close();
      const code = unreachableCodeOf(flow.errno);
      if (code !== NO_ICMP) {
        this.#unreachable(code, 0, meta.src, meta.srcPort, meta.dst, meta.dstPort, 0, now);
      }
      return undefined;
    }
    flow.hash = hash;
    flow.chain = this.#buckets[hash];
    this.#buckets[hash] = flow;
    flow.short = meta.dstPort === 53;
    this.#enlist(flow, now);
    this.size++;
    this.#perVm.set(flow.vm.id, (this.#perVm.get(flow.vm.id) ?? 0) + 1);
    this.stats.flowsOpened++;
    this.#onFlow?.(now);
    return flow;
  }

  #listOf(flow: UdpFlow): IdleList {
    return flow.short ? this.#short : this.#long;
  }

  #enlist(flow: UdpFlow, now: Millis): void {
    const list = this.#listOf(flow);
    const first = list.oldest === undefined;
    flow.lastUsed = now;
    list.push(flow);
    if (first) this.#onDeadlineChanged();
  }

  #touch(flow: UdpFlow, now: Millis): void {
    flow.lastUsed = now;
    const list = this.#listOf(flow);
    if (list.newest === flow) return;
    list.remove(flow);
    list.push(flow);
  }

  #remove(flow: UdpFlow): void {
    if (flow.closed) return;
    flow.close();
    this.#listOf(flow).remove(flow);
    if (this.#buckets[flow.hash] === flow) this.#buckets[flow.hash] = flow.chain;
    else {
      let p = this.#buckets[flow.hash];
      while (p !== undefined && p.chain !== flow) p = p.chain;
      if (p !== undefined) p.chain = flow.chain;
    }
    flow.chain = undefined;
    this.size--;
    const left = (this.#perVm.get(flow.vm.id) ?? 0) - 1;
    if (left > 0) this.#perVm.set(flow.vm.id, left);
    else this.#perVm.delete(flow.vm.id);
  }

  #expire(list: IdleList, usedBefore: Millis): void {
    for (let f = list.oldest; f !== undefined && f.lastUsed <= usedBefore; f = list.oldest) {
      this.stats.flowsIdle++;
      this.#remove(f);
    }
  }

  /** The longest unused flow of the VM with the most flows: one VM's flood does not push out another's. DNS flows go first. */
  #crowding(): UdpFlow | undefined {
    let most = 0;
    for (const n of this.#perVm.values()) if (n > most) most = n;
    for (const list of [this.#short, this.#long]) {
      for (let f = list.oldest; f !== undefined; f = f.newer) if (this.#perVm.get(f.vm.id) === most) return f;
    }
    return undefined;
  }
}

function hashOf(vmId: number, guest: IpAddress, port: number): number {
  let h = Math.imul(guest.w3 ^ (vmId << 16) ^ port, 0x9e3779b1);
  h = Math.imul(h ^ (h >>> 15) ^ guest.w2 ^ guest.w1 ^ guest.w0, 0x85ebca6b);
  return (h ^ (h >>> 13)) & (BUCKETS - 1);
}
