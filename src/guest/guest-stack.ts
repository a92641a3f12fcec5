// The stack of the embedded guest: one station's ARP, IPv4, ICMP, UDP and TCP, made of the daemon's own parts and met by it over
// a link like any VM's. Sans I/O: frames and `now` in, frames out through an `Egress`, deadlines as numbers; so it runs behind a
// real socket (embedded-guest) and on a virtual clock, joined frame by frame with the daemon's Stack.
//
// It is not what the daemon is for (that is stack/), and imports nothing of it but border types: the two may disagree, and tests
// find out. RFC 826, 1122, 9293.

import type { Millis } from '../base/clock.ts';
import { Drop } from '../base/drop.ts';
import type { Random } from '../base/random.ts';
import type { Slab } from '../base/slab.ts';
import {
  ARP_DO_LEARN,
  ARP_DO_REPLY,
  ARP_LENGTH,
  ARP_REPLY,
  ARP_REQUEST,
  ArpView,
  emitArp,
  judgeArp,
} from '../ethernet/arp.ts';
import { ETHERNET_HEADER, ETHERTYPE_ARP, ETHERTYPE_IPV4, emitEthernet, FrameView } from '../ethernet/frame.ts';
import { BROADCAST_MAC } from '../ethernet/mac.ts';
import { type Neighbour, type NeighbourSink, Neighbours } from '../ethernet/neighbours.ts';
import { Cidr4, isMulticastV4 } from '../ip/address.ts';
import { IPV4_HEADER, Ipv4View, PROTO_ICMP, PROTO_TCP, PROTO_UDP } from '../ip/ipv4.ts';
import { Ipv4Reassembler, REASSEMBLY_COMPLETE, REASSEMBLY_HELD, type ReassemblySink } from '../ip/reassembly.ts';
import type { Egress } from '../stack/ports.ts';
import { CloseReason } from '../tcp/flow.ts';
import type { TcpLimits } from '../tcp/limits.ts';
import { GuestEgress } from './guest-egress.ts';
import { GuestIcmp } from './guest-icmp.ts';
import { GuestStats } from './guest-stats.ts';
import { GuestTcp, type GuestTcpUplink } from './guest-tcp.ts';
import { GuestUdp, type GuestUdpUplink } from './guest-udp.ts';
import { NextHop } from './next-hop.ts';

export interface GuestStackConfig {
  /** 6 bytes. */
  readonly mac: Uint8Array;
  /** The interface's MTU until it is changed; at most what the link carries. */
  readonly mtu: number;
  readonly tcp: TcpLimits;
}

/** What the stack asks of whoever runs it. */
export interface GuestStackHooks {
  /** A turn is wanted outside of one: call `endTurn` soon. */
  onTurnWanted(): void;
  /** A turn is over: `nextDeadline` may have changed. */
  onTurnEnd(): void;
  /** A contradiction of our own; one flow or frame was lost to it. */
  onBug(error: unknown): void;
}

/** An interface's IPv4 configuration; addresses are int32. */
export interface GuestAddress {
  readonly address: number;
  readonly prefix: number;
  /** 0: no default route. */
  readonly router: number;
}

const NO_MAC = new Uint8Array(6);
/** The only port that the neighbour table knows: the guest's one interface. */
const THE_PORT = 1;
/** Stations of the own network that are known or asked for at once. */
const MAX_HOPS = 1024;

export class GuestStack implements NeighbourSink, ReassemblySink, GuestTcpUplink, GuestUdpUplink {
  readonly stats: GuestStats = new GuestStats();
  readonly egress: GuestEgress;
  readonly tcp: GuestTcp;
  readonly udp: GuestUdp;
  readonly icmp: GuestIcmp;
  readonly slab: Slab;
  /** int32, 0 without one. */
  address = 0;
  router = 0;
  network: Cidr4 | undefined = undefined;
  readonly #hooks: GuestStackHooks;
  readonly #neighbours: Neighbours;
  readonly #reassembler: Ipv4Reassembler;
  readonly #hops = new Map<number, NextHop>();
  readonly #frame = new FrameView();
  readonly #arp = new ArpView();
  readonly #ip = new Ipv4View();
  readonly #isOurs: (ip: number) => boolean;
  /** Of the call under way. */
  #now: Millis = 0;
  #inBatch = false;

  constructor(config: GuestStackConfig, link: Egress, slab: Slab, random: Random, hooks: GuestStackHooks) {
    this.slab = slab;
    this.#hooks = hooks;
    this.#isOurs = (ip) => ip === this.address;
    const onDirty = (): void => this.onAwake();
    this.egress = new GuestEgress(slab.mem, link, config.mac, config.mtu, random, this.stats, onDirty);
    this.#neighbours = new Neighbours(this, { maxPerPort: 1024, moveHoldMs: 0 });
    this.#reassembler = new Ipv4Reassembler(slab, random, this);
    this.tcp = new GuestTcp(slab, config.tcp, this.stats, this.egress, this, random);
    this.udp = new GuestUdp(this.stats, this.egress, this, random);
    this.icmp = new GuestIcmp(this.stats, this.egress, this.tcp, this.udp, this, random.i32());
  }

  get mac(): Uint8Array {
    return this.egress.mac;
  }

  // --- Configuration.

  /** Sets the interface's address. Connections of another address end. */
  configure(to: GuestAddress): void {
    if (to.address !== this.address) this.tcp.dropAll(CloseReason.Killed);
    this.address = to.address;
    this.router = to.router;
    this.network = new Cidr4(to.address, to.prefix);
    this.icmp.network = this.network;
  }

  /** The address is gone (a lease that ended). */
  deconfigure(): void {
    this.tcp.dropAll(CloseReason.Killed);
    this.address = 0;
    this.router = 0;
    this.network = undefined;
    this.icmp.network = undefined;
  }

  // --- Turns and deadlines.

  /** After the last frame of one read, and whenever `onTurnWanted` was called: owners hear, what is due leaves. */
  endTurn(now: Millis): void {
    this.#now = now;
    this.#inBatch = true;
    const done = this.tcp.runTurns(now);
    this.egress.flush();
    this.#inBatch = false;
    if (!done) this.#hooks.onTurnWanted();
    this.#hooks.onTurnEnd();
  }

  /** The link drains again after `reserve` refused. */
  writable(now: Millis): void {
    this.tcp.unblock();
    this.endTurn(now);
  }

  nextDeadline(): Millis {
    return Math.min(this.tcp.deadlines.next, this.#neighbours.nextDeadline(), this.#reassembler.nextDeadline());
  }

  /** Does what is due, and ends the turn. */
  poll(now: Millis): void {
    this.#now = now;
    this.#inBatch = true;
    this.tcp.deadlines.run(now);
    if (this.#neighbours.nextDeadline() <= now) this.#neighbours.poll(now);
    if (this.#reassembler.nextDeadline() <= now) this.#reassembler.poll(now);
    this.endTurn(now);
  }

  /** The link is gone: connections end, their owners hear of it before this returns. */
  linkGone(now: Millis): void {
    this.#now = now;
    this.#inBatch = true;
    this.tcp.dropAll(CloseReason.VmGone);
    // Owners may open anew when they hear of it; what they open then ends with the next time-out.
    for (let round = 0; round < 64 && !this.tcp.runTurns(now); round++);
    this.#reassembler.dropVm(THE_PORT);
    this.#inBatch = false;
  }

  onAwake(): void {
    if (!this.#inBatch) this.#hooks.onTurnWanted();
  }

  onBug(error: unknown): void {
    this.#hooks.onBug(error);
  }

  // --- Frames.

  /** One whole frame, in the packet memory or elsewhere. */
  input(buf: Uint8Array, off: number, len: number, now: Millis): void {
    this.#now = now;
    this.stats.framesReceived++;
    this.stats.bytesReceived += len;
    this.#inBatch = true;
    try {
      const drop = this.#walk(buf, off, len, now);
      if (drop !== Drop.None) this.stats.drops.add(drop);
    } catch (error) {
      this.stats.bugs++;
      this.#hooks.onBug(error);
    }
  }

  /** Sends a frame as it is, whatever it says: for tests. @returns false if the link did not take it. */
  sendFrame(frame: Uint8Array): boolean {
    const at = this.egress.reserve(frame.length);
    if (at < 0) return false;
    this.egress.mem.set(frame, at);
    this.egress.commit(at, frame.length);
    return true;
  }

  #walk(buf: Uint8Array, off: number, len: number, now: Millis): Drop {
    const frame = this.#frame;
    const drop = frame.wrap(buf, off, off + len);
    if (drop !== Drop.None) return drop;
    if (!frame.toGroup && !frame.isTo(this.mac, 0)) {
      this.stats.notForUs++;
      return Drop.EthUnknownDestination;
    }
    if (frame.etherType === ETHERTYPE_ARP) return this.#onArp(now);
    return frame.etherType === ETHERTYPE_IPV4 ? this.#ipv4(now) : Drop.EthUnknownType;
  }

  #onArp(now: Millis): Drop {
    const frame = this.#frame;
    const arp = this.#arp;
    const drop = arp.wrap(frame.buf, frame.payloadOff, frame.end);
    if (drop !== Drop.None) return drop;
    if (this.address === 0) return Drop.None;
    const act = judgeArp(arp, frame.srcOff, this.#isOurs, 0);
    // RFC 826: news of a station that is not asking us only matters if it is in the table.
    const known = this.#hops.has(arp.senderIp);
    if (act & ARP_DO_LEARN && (known || arp.targetIp === this.address)) {
      this.#learn(arp.senderIp, arp.buf, arp.senderMacOff, now);
    }
    if (!(act & ARP_DO_REPLY)) return Drop.None;
    this.stats.arpReplies++;
    this.#sendArp(ARP_REPLY, frame.buf, frame.srcOff, arp.buf, arp.senderMacOff, arp.senderIp);
    return Drop.None;
  }

  #sendArp(op: number, to: Uint8Array, toOff: number, target: Uint8Array, targetOff: number, targetIp: number): void {
    const at = this.egress.reserve(ETHERNET_HEADER + ARP_LENGTH);
    if (at < 0) return;
    const { mem, mac } = this.egress;
    emitEthernet(mem, at, to, toOff, mac, 0, ETHERTYPE_ARP);
    emitArp(mem, at + ETHERNET_HEADER, op, mac, 0, this.address, target, targetOff, targetIp);
    this.egress.commit(at, ETHERNET_HEADER + ARP_LENGTH);
  }

  #ipv4(now: Millis): Drop {
    const frame = this.#frame;
    const ip = this.#ip;
    const drop = ip.wrap(frame.buf, frame.payloadOff, frame.end);
    if (drop !== Drop.None) return drop;
    if (ip.totalLength > this.stats.largestPacketReceived) this.stats.largestPacketReceived = ip.totalLength;
    if (!this.#accepts(ip.dst)) return Drop.Ip4WrongGuest;
    if (!ip.isFragment) return this.#deliver(ip, now);
    const result = this.#reassembler.add(ip, THE_PORT, now);
    if (result === REASSEMBLY_HELD) return Drop.None;
    if (result !== REASSEMBLY_COMPLETE) return result;
    try {
      const at = this.#reassembler.off;
      const whole = ip.wrap(this.slab.mem, at, at + this.#reassembler.len);
      return whole === Drop.None ? this.#deliver(ip, now) : whole;
    } finally {
      this.#reassembler.release();
    }
  }

  #accepts(dst: number): boolean {
    // Without an address the answers of DHCP come to the one that it offers (RFC 2131 4.1).
    return this.address === 0 || dst === this.address || this.isBroadcast(dst);
  }

  #deliver(ip: Ipv4View, now: Millis): Drop {
    const frame = this.#frame;
    const toGroup = this.isBroadcast(ip.dst);
    if (ip.protocol === PROTO_UDP) return this.udp.onPacket(ip, frame.buf, frame.srcOff, toGroup, this.icmp, now);
    if (this.address === 0 || toGroup) return Drop.Ip4WrongGuest;
    if (ip.protocol === PROTO_TCP) return this.tcp.onPacket(ip, frame.buf, frame.srcOff, now);
    if (ip.protocol === PROTO_ICMP) return this.icmp.onPacket(ip, frame.buf, frame.srcOff, now);
    return Drop.Ip4UnknownProtocol;
  }

  // --- Routes and neighbours.

  isBroadcast(dst: number): boolean {
    return dst === -1 || (this.network !== undefined && dst === this.network.broadcast);
  }

  route(dst: number): NextHop | undefined {
    if (this.network === undefined || isMulticastV4(dst)) return undefined;
    const ip = this.network.contains(dst) ? dst : this.router;
    if (ip === 0) return undefined;
    const hop = this.#hop(ip);
    if (hop.known) this.#neighbours.lookup(ip, this.#now);
    return hop;
  }

  #hop(ip: number): NextHop {
    const found = this.#hops.get(ip);
    if (found !== undefined) return found;
    // Over the cap the one met first goes; connections hold on to their own.
    for (const old of this.#hops.values()) {
      if (this.#hops.size < MAX_HOPS) break;
      if (old.ip !== this.router && old.waiting.length === 0) this.#hops.delete(old.ip);
    }
    const hop = new NextHop(ip);
    this.#hops.set(ip, hop);
    return hop;
  }

  hold(hop: NextHop, packet: Uint8Array, len: number, now: Millis): boolean {
    if (!this.#neighbours.hold(hop.ip, packet, 0, len, now)) return false;
    hop.resolving = true;
    this.#neighbours.poll(now);
    return true;
  }

  resolve(hop: NextHop): void {
    // An empty packet stands for the connections that wait; `sendHeld` gets it back.
    if (hop.resolving || this.hold(hop, NO_MAC, 0, this.#now)) return;
    this.tcp.hopFailed(hop);
    hop.settle();
  }

  /** Calls back once it is known whether `dst` can be reached on this network; at once where it is known already. */
  whenResolved(dst: number, now: Millis, callback: (known: boolean) => void): void {
    this.#now = now;
    const hop = this.route(dst);
    if (hop === undefined || hop.known) {
      callback(hop !== undefined);
      return;
    }
    hop.listeners.push(callback);
    this.resolve(hop);
  }

  #learn(ip: number, mac: Uint8Array, macOff: number, now: Millis): void {
    const hop = this.#hop(ip);
    hop.learn(mac, macOff);
    this.#neighbours.learn(ip, mac, macOff, THE_PORT, now);
    this.tcp.hopKnown(hop, now);
  }

  sendArpRequest(n: Neighbour, _now: Millis): void {
    this.stats.arpRequests++;
    const to = n.usable ? n.mac : BROADCAST_MAC;
    this.#sendArp(ARP_REQUEST, to, 0, NO_MAC, 0, n.ip);
  }

  sendHeld(n: Neighbour, packet: Uint8Array, _now: Millis): void {
    // Connections are `hopKnown`'s; here are datagrams.
    if (packet.length === 0) return;
    const dst = (packet[16]! << 24) | (packet[17]! << 16) | (packet[18]! << 8) | packet[19]!;
    const len = packet.length - IPV4_HEADER;
    this.egress.sendIpv4(n.mac, 0, packet[9]!, this.address, dst, packet, IPV4_HEADER, len, packet[8]!);
  }

  onUnresolved(ip: number, packets: number, _now: Millis): void {
    for (let i = 0; i < packets; i++) this.stats.drops.add(Drop.ArpUnresolved);
    const hop = this.#hops.get(ip);
    if (hop === undefined) return;
    hop.known = false;
    hop.resolving = false;
    this.tcp.hopFailed(hop);
    hop.settle();
  }

  onReassemblyTimeout(): void {
    this.stats.drops.add(Drop.FragTimeout);
  }
}
