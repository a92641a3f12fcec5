// The TCP of the embedded guest: connections, listeners, and the environment that connections live in. The connection itself is
// the daemon's own (tcp/), met here from its other side.
//
// The roles are swapped. A Connection calls its far side `guest` and its own side `remote`, because in the daemon we stand in
// for the remote end. Here the own side is the VM, so `remote`/`remotePort` is this guest's address and port, and
// `guest`/`guestPort` is the peer's; what counters call "to guest" is what this guest sends. Only this file has to know.

import { setU16 } from '../base/bytes.ts';
import { finish, fold } from '../base/checksum.ts';
import type { Millis } from '../base/clock.ts';
import { DeadlineQueue } from '../base/deadline-queue.ts';
import { Drop } from '../base/drop.ts';
import { type Random, randomBelow } from '../base/random.ts';
import { SipHash } from '../base/sip-hash.ts';
import type { Slab } from '../base/slab.ts';
import { IpAddress } from '../ip/address.ts';
import { UNREACHABLE_FRAG_NEEDED } from '../ip/icmp.ts';
import { type Ipv4View, PROTO_TCP, pseudoHeaderSumV4 } from '../ip/ipv4.ts';
import { Connection } from '../tcp/connection.ts';
import type { SegmentSink, TcpEnv } from '../tcp/env.ts';
import { CloseReason, type FlowOwner, type TcpFlow } from '../tcp/flow.ts';
import { IcmpError, icmpError } from '../tcp/icmp-error.ts';
import { input } from '../tcp/input.ts';
import type { TcpLimits } from '../tcp/limits.ts';
import { emitTcpHeader, FLAG_ACK, FLAG_FIN, FLAG_RST, FLAG_SYN, SegmentView, TCP_HEADER } from '../tcp/segment.ts';
import type { Seq } from '../tcp/seq.ts';
import { State } from '../tcp/state.ts';
import type { TcpStats } from '../tcp/stats.ts';
import { Verdict } from '../tcp/verdict.ts';
import { WindowBudget } from '../tcp/window-budget.ts';
import type { GuestEgress } from './guest-egress.ts';
import type { GuestStats } from './guest-stats.ts';
import type { NextHop } from './next-hop.ts';

const HEADERS = 40;
/** Local ports of active opens: Linux's ip_local_port_range. */
const EPHEMERAL_FIRST = 32_768;
const EPHEMERAL_COUNT = 28_232;

/** The owner of a flow in the guest: it also hears why its connection attempt failed. */
export interface GuestFlowOwner extends FlowOwner {
  /** ICMP destination unreachable with `code` answered the SYN; `onClosed` follows. */
  onUnreachable(code: number): void;
}

/** Takes a new connection to a listening port: sets `owner` and accepts, or refuses. */
export type OnSyn = (flow: TcpFlow, now: Millis) => void;

/** What TCP asks of the guest's stack. */
export interface GuestTcpUplink {
  /** int32, 0 without one. */
  readonly address: number;
  /** The way to an address; undefined where there is none. Resolution of its MAC is under way if it is not known. */
  route(dst: number): NextHop | undefined;
  /** Asks for the MAC of a hop again; `hopKnown` or `hopFailed` follows. */
  resolve(hop: NextHop): void;
  /** A connection's `turn` is due. */
  onAwake(): void;
  onBug(error: unknown): void;
}

export class GuestTcp implements TcpEnv, SegmentSink {
  readonly slab: Slab;
  readonly limits: TcpLimits;
  readonly stats: TcpStats;
  readonly sink: SegmentSink = this;
  readonly windows: WindowBudget;
  readonly deadlines: DeadlineQueue = new DeadlineQueue();
  /** Opens in progress. */
  opening = 0;
  /** Connections, those in TIME-WAIT included. */
  size = 0;
  readonly #guestStats: GuestStats;
  readonly #egress: GuestEgress;
  readonly #uplink: GuestTcpUplink;
  readonly #random: Random;
  readonly #hash: SipHash;
  readonly #seg = new SegmentView();
  /** By peer address, then by (peer port, own port): whole numbers only, so that a lookup makes nothing. */
  readonly #byPeer = new Map<number, Map<number, Connection>>();
  readonly #listeners = new Map<number, OnSyn>();
  /** TIME-WAIT, oldest first. */
  readonly #waiting = new Set<Connection>();
  #awake: Connection[] = [];
  #spare: Connection[] = [];
  #blocked: Connection[] = [];

  constructor(
    slab: Slab,
    limits: TcpLimits,
    stats: GuestStats,
    egress: GuestEgress,
    uplink: GuestTcpUplink,
    random: Random,
  ) {
    this.slab = slab;
    this.limits = limits;
    this.windows = new WindowBudget(slab.size / 2, () => {});
    this.stats = stats.tcp;
    this.#guestStats = stats;
    this.#egress = egress;
    this.#uplink = uplink;
    this.#random = random;
    this.#hash = new SipHash(random);
  }

  /** Connections that are not in TIME-WAIT. */
  get flows(): number {
    return this.size - this.#waiting.size;
  }

  // --- Opens.

  /**
   * Active open. Set `owner` on the result at once: `onEstablished` or `onClosed` follows with a later turn.
   * @returns an errno name where no SYN can be sent: ENETUNREACH, EADDRNOTAVAIL, ENOBUFS.
   */
  connect(peer: IpAddress, port: number, now: Millis): Connection | string {
    const { address } = this.#uplink;
    if (address === 0 || !peer.isV4) return 'ENETUNREACH';
    if (this.opening >= this.limits.pendingMax || this.flows >= this.limits.flowsMax) return 'ENOBUFS';
    const hop = this.#uplink.route(peer.v4);
    if (hop === undefined) return 'ENETUNREACH';
    const own = this.#freePort(peer.v4, port);
    if (own < 0) return 'EADDRNOTAVAIL';
    const c = this.#make(peer, port, own, hop, true, now);
    this.stats.activeOpens++;
    c.openActive(now);
    return c;
  }

  /** @returns false if somebody listens there. */
  listen(port: number, onSyn: OnSyn): boolean {
    if (this.#listeners.has(port)) return false;
    this.#listeners.set(port, onSyn);
    return true;
  }

  unlisten(port: number): void {
    this.#listeners.delete(port);
  }

  #make(peer: IpAddress, peerPort: number, own: number, hop: NextHop, active: boolean, now: Millis): Connection {
    const { address } = this.#uplink;
    const ts = this.#hash.hash4(peer.v4, address, (peerPort << 16) | own, 1);
    const me = IpAddress.v4(address);
    const c = new Connection(this, peer, peerPort, me, own, NO_VM, this.#egress.mtu - HEADERS, active, ts, now);
    c.path = hop;
    let ports = this.#byPeer.get(peer.v4);
    if (ports === undefined) {
      ports = new Map();
      this.#byPeer.set(peer.v4, ports);
    }
    ports.set((peerPort << 16) | own, c);
    this.size++;
    this.opening++;
    return c;
  }

  #freePort(peer: number, peerPort: number): number {
    const start = randomBelow(this.#random, EPHEMERAL_COUNT);
    for (let i = 0; i < EPHEMERAL_COUNT; i++) {
      const port = EPHEMERAL_FIRST + ((start + i) % EPHEMERAL_COUNT);
      if (this.#find(peer, peerPort, port) === undefined) return port;
    }
    return -1;
  }

  #find(peer: number, peerPort: number, own: number): Connection | undefined {
    return this.#byPeer.get(peer)?.get((peerPort << 16) | own);
  }

  // --- From the link.

  /** A TCP packet to our address, whole and checked as IPv4; the frame's source MAC lies at `macOff` of `macBuf`. */
  onPacket(ip: Ipv4View, macBuf: Uint8Array, macOff: number, now: Millis): Drop {
    const seg = this.#seg;
    const off = ip.payloadOff;
    const len = ip.end - off;
    const drop = seg.wrap(ip.buf, off, ip.end);
    if (drop !== Drop.None) return drop;
    const sum = pseudoHeaderSumV4(ip.src, ip.dst, PROTO_TCP, len) + this.#egress.sumOf(ip.buf, off, len);
    if (fold(sum) !== 0xffff) return Drop.TcpBadChecksum;
    const c = this.#find(ip.src, seg.srcPort, seg.dstPort);
    if (c === undefined) return this.#unknown(ip, macBuf, macOff, now);
    try {
      const verdict = input(c, seg, now);
      if (verdict === Verdict.NewSyn) return this.#unknown(ip, macBuf, macOff, now);
      if (verdict === Verdict.Reset) this.#resetFor(ip, macBuf, macOff);
    } catch (error) {
      this.#bug(c, error, now);
    }
    return Drop.None;
  }

  /** RFC 9293 3.10.7.1 and 3.10.7.2. */
  #unknown(ip: Ipv4View, macBuf: Uint8Array, macOff: number, now: Millis): Drop {
    const seg = this.#seg;
    const { flags } = seg;
    if (flags & FLAG_RST) return Drop.TcpNoFlow;
    if (flags & FLAG_ACK) {
      this.#resetFor(ip, macBuf, macOff);
      return Drop.TcpNoFlow;
    }
    if (!(flags & FLAG_SYN) || flags & FLAG_FIN) return Drop.TcpBadFlags;
    if (seg.srcPort === 0 || seg.dstPort === 0) return Drop.TcpPortZero;
    const onSyn = this.#listeners.get(seg.dstPort);
    if (onSyn === undefined) {
      this.#resetFor(ip, macBuf, macOff);
      return Drop.TcpNoFlow;
    }
    if (this.opening >= this.limits.pendingMax) return Drop.TcpSynLimit;
    if (this.flows >= this.limits.flowsMax) return Drop.TcpFlowLimit;
    const hop = this.#uplink.route(ip.src);
    if (hop === undefined) return Drop.Ip4NoRoute;
    const c = this.#make(IpAddress.v4(ip.src), seg.srcPort, seg.dstPort, hop, false, now);
    this.stats.passiveOpens++;
    c.openPassive(seg, now);
    this.wake(c);
    onSyn(c, now);
    return Drop.None;
  }

  /** RFC 9293 3.5.2: the RST for `#seg`. Never in answer to a RST. */
  #resetFor(ip: Ipv4View, macBuf: Uint8Array, macOff: number): void {
    const seg = this.#seg;
    if (seg.flags & FLAG_RST) return;
    const off = this.#egress.reserveIpv4(TCP_HEADER);
    if (off < 0) return;
    const ack = (seg.flags & FLAG_ACK) !== 0;
    const { mem } = this.slab;
    const seq = ack ? seg.segAck : 0;
    const answer = ack ? 0 : seg.segSeq + seg.segLen;
    const flags = ack ? FLAG_RST : FLAG_RST | FLAG_ACK;
    emitTcpHeader(mem, off, seg.dstPort, seg.srcPort, seq, answer, TCP_HEADER, flags, 0);
    this.stats.resetsToGuest++;
    this.#finish(macBuf, macOff, off, TCP_HEADER, ip.dst, ip.src);
  }

  /**
   * ICMP destination unreachable about a segment of ours. Unlike the daemon, which has a host to speak for, a host that opens
   * believes every code while its SYN is out, as Linux does (RFC 9293 3.9.2.2 leaves it open).
   */
  onUnreachable(
    code: number,
    peer: number,
    peerPort: number,
    ownPort: number,
    seq: Seq,
    mtu: number,
    now: Millis,
  ): void {
    const c = this.#find(peer, peerPort, ownPort);
    if (c === undefined) return;
    if (code === UNREACHABLE_FRAG_NEEDED) {
      icmpError(c, IcmpError.TooBig, seq, mtu, now);
      return;
    }
    if (c.state !== State.SynSent || seq !== c.iss) {
      icmpError(c, IcmpError.Soft, seq, 0, now);
      return;
    }
    (c.owner as GuestFlowOwner | undefined)?.onUnreachable(code);
    c.close(CloseReason.Unreachable, true);
  }

  // --- Next hops.

  /** The MAC of a hop is known (again): who waited goes on. */
  hopKnown(hop: NextHop, now: Millis): void {
    const waiting = hop.waiting;
    hop.waiting = [];
    for (const c of waiting) {
      c.blocked = false;
      if (c.state === State.SynSent) c.retrySyn(now);
      else if (c.state !== State.Closed) this.wake(c);
    }
  }

  /** Nobody answers for a hop's address: opens fail, connections that stand go on trying. */
  hopFailed(hop: NextHop): void {
    const waiting = hop.waiting;
    hop.waiting = [];
    for (const c of waiting) {
      c.blocked = false;
      if (c.state === State.SynSent) c.close(CloseReason.Unreachable, true);
    }
  }

  // --- SegmentSink.

  reserve(c: Connection, len: number): number {
    const hop = c.path as NextHop;
    if (!hop.known) {
      if (!c.blocked) {
        c.blocked = true;
        hop.waiting.push(c);
        this.#uplink.resolve(hop);
      }
      return -1;
    }
    const off = this.#egress.reserveIpv4(len);
    if (off < 0 && !c.blocked) {
      c.blocked = true;
      this.#blocked.push(c);
    }
    return off;
  }

  commit(c: Connection, off: number, len: number): void {
    this.#finish((c.path as NextHop).mac, 0, off, len, c.remote.w3, c.guest.w3);
  }

  #finish(mac: Uint8Array, macOff: number, off: number, len: number, src: number, dst: number): void {
    const egress = this.#egress;
    const sum = pseudoHeaderSumV4(src, dst, PROTO_TCP, len) + egress.summer.sum(off, len);
    setU16(egress.mem, off + 16, finish(sum));
    egress.commitIpv4(mac, macOff, off, len, PROTO_TCP, src, dst);
  }

  /** A host's listener answers a SYN with SYN-ACK or RST; refusing in any other way is silence, as a firewall has it. */
  unreachable(): void {}

  // --- TcpEnv.

  wake(c: Connection): void {
    if (c.awake) return;
    c.awake = true;
    this.#awake.push(c);
    if (this.#awake.length === 1) this.#uplink.onAwake();
  }

  arm(c: Connection): void {
    this.deadlines.update(c);
  }

  gone(c: Connection): void {
    const ports = this.#byPeer.get(c.guest.w3);
    if (ports?.delete((c.guestPort << 16) | c.remotePort)) this.size--;
    if (ports?.size === 0) this.#byPeer.delete(c.guest.w3);
    this.deadlines.remove(c);
    this.#waiting.delete(c);
  }

  opened(_c: Connection): void {
    this.opening--;
  }

  timeWait(c: Connection): void {
    this.#waiting.add(c);
    if (this.#waiting.size <= this.limits.timeWaitMax) return;
    for (const oldest of this.#waiting) {
      this.stats.timeWaitEvicted++;
      oldest.close(CloseReason.Done, true);
      break;
    }
  }

  /** RFC 6528. */
  isn(c: Connection, now: Millis): Seq {
    const ports = (c.guestPort << 16) | c.remotePort;
    return (Math.floor(now * 250) + this.#hash.hash4(c.guest.w3, c.remote.w3, ports, 0)) | 0;
  }

  // --- The stack's calls.

  /** Runs the turns that are due, a bounded number of rounds. @returns false if some are left for the next turn. */
  runTurns(now: Millis): boolean {
    for (let round = 0; round < 4 && this.#awake.length > 0; round++) {
      const list = this.#awake;
      this.#awake = this.#spare;
      this.#spare = list;
      for (let i = 0; i < list.length; i++) {
        const c = list[i]!;
        c.awake = false;
        try {
          c.turn(now);
        } catch (error) {
          this.#bug(c, error, now);
        }
      }
      list.length = 0;
    }
    return this.#awake.length === 0;
  }

  /** The link drains again. */
  unblock(): void {
    const blocked = this.#blocked;
    this.#blocked = [];
    for (const c of blocked) {
      c.blocked = false;
      if (c.state !== State.Closed) this.wake(c);
    }
  }

  /** Ends every connection without a word to its peer: the link is gone, or the address. Owners hear of it in the next turn. */
  dropAll(reason: CloseReason): void {
    for (const c of this.connections()) c.close(reason, true);
    this.#blocked = [];
  }

  /** Every connection, TIME-WAIT included; a copy. */
  connections(): Connection[] {
    return [...this.#byPeer.values()].flatMap((ports) => [...ports.values()]);
  }

  #bug(c: Connection, error: unknown, now: Millis): void {
    this.#guestStats.bugs++;
    const { owner } = c;
    c.abort(CloseReason.Bug, now);
    owner?.onClosed(CloseReason.Bug, now);
    this.#uplink.onBug(error);
  }
}

/** Connections of a guest belong to no VM: they are one. */
const NO_VM = { id: 0 };
