// The ICMP of the embedded guest (RFC 792, RFC 1122 3.2.2): answers pings, sends pings, says "port unreachable", and carries
// errors about what it sent to TCP, UDP or the ping they speak of.

import { copyBytes } from '../base/bytes.ts';
import { sumBytes } from '../base/checksum.ts';
import type { Millis } from '../base/clock.ts';
import { Drop } from '../base/drop.ts';
import type { Cidr4 } from '../ip/address.ts';
import {
  echoReplyInPlace,
  emitEcho,
  emitIcmpError,
  ICMP_ECHO_REPLY,
  ICMP_ECHO_REQUEST,
  ICMP_HEADER,
  ICMP_UNREACHABLE,
  IcmpRateLimiter,
  IcmpView,
  mayError,
  QuoteView,
  UNREACHABLE_FRAG_NEEDED,
  UNREACHABLE_PORT,
} from '../ip/icmp.ts';
import { emitIpv4Header, IPV4_HEADER, IPV4_MAX, type Ipv4View, PROTO_ICMP, PROTO_TCP, PROTO_UDP } from '../ip/ipv4.ts';
import type { GuestEgress } from './guest-egress.ts';
import type { GuestStats } from './guest-stats.ts';
import type { GuestTcp } from './guest-tcp.ts';
import type { GuestUdp } from './guest-udp.ts';
import type { NextHop } from './next-hop.ts';

/** Largest echo payload of an IPv4 packet. */
export const PING_MAX_BYTES: number = IPV4_MAX - IPV4_HEADER - ICMP_HEADER;

/** Who waits for the answer to one echo request. */
export interface PingWaiter {
  /** The echo's payload, valid until the call returns. */
  onReply(src: number, ttl: number, buf: Uint8Array, off: number, len: number, now: Millis): void;
  /** An ICMP error about the request. */
  onError(type: number, code: number, src: number): void;
}

/** What ICMP asks of the guest's stack. */
export interface GuestIcmpUplink {
  /** Keeps the first `len` bytes of `packet` until the hop's MAC is known. @returns false if there is no room (counted). */
  hold(hop: NextHop, packet: Uint8Array, len: number, now: Millis): boolean;
}

export class GuestIcmp {
  /** For RFC 1122's rules of when to be silent; undefined while the guest has no address. */
  network: Cidr4 | undefined = undefined;
  readonly #stats: GuestStats;
  readonly #egress: GuestEgress;
  readonly #tcp: GuestTcp;
  readonly #udp: GuestUdp;
  readonly #uplink: GuestIcmpUplink;
  readonly #icmp = new IcmpView();
  readonly #quote = new QuoteView();
  readonly #limiter = new IcmpRateLimiter();
  /** By identifier and sequence number. */
  readonly #pings = new Map<number, PingWaiter>();
  readonly #scratch = new Uint8Array(IPV4_MAX);
  #nextPing: number;

  constructor(
    stats: GuestStats,
    egress: GuestEgress,
    tcp: GuestTcp,
    udp: GuestUdp,
    uplink: GuestIcmpUplink,
    firstPing: number,
  ) {
    this.#stats = stats;
    this.#uplink = uplink;
    this.#egress = egress;
    this.#tcp = tcp;
    this.#udp = udp;
    this.#nextPing = firstPing;
  }

  /** Pings that wait for an answer. */
  get pinging(): number {
    return this.#pings.size;
  }

  onPacket(ip: Ipv4View, macBuf: Uint8Array, macOff: number, now: Millis): Drop {
    const icmp = this.#icmp;
    const summer = ip.buf === this.#egress.mem ? this.#egress.summer : undefined;
    const drop = icmp.wrap(ip.buf, ip.payloadOff, ip.end, summer);
    if (drop !== Drop.None) return drop;
    if (icmp.isError) return this.#onError(ip, now);
    if (icmp.type === ICMP_ECHO_REQUEST) {
      echoReplyInPlace(ip.buf, ip.payloadOff);
      this.#egress.sendIpv4(macBuf, macOff, PROTO_ICMP, ip.dst, ip.src, ip.buf, ip.payloadOff, ip.payloadLength);
      this.#stats.echoReplies++;
      return Drop.None;
    }
    if (icmp.type !== ICMP_ECHO_REPLY) return Drop.IcmpUnhandled;
    const key = (icmp.id << 16) | icmp.seq;
    const waiter = this.#pings.get(key);
    if (waiter === undefined) return Drop.IcmpUnhandled;
    this.#pings.delete(key);
    waiter.onReply(ip.src, ip.ttl, icmp.buf, icmp.payloadOff, icmp.payloadLength, now);
    return Drop.None;
  }

  #onError(ip: Ipv4View, now: Millis): Drop {
    this.#stats.icmpErrorsReceived++;
    const icmp = this.#icmp;
    const quote = this.#quote;
    const drop = quote.wrap(icmp.buf, icmp.payloadOff, icmp.end);
    if (drop !== Drop.None) return drop;
    if (quote.src !== ip.dst) return Drop.IcmpUnhandled;
    const { type, code } = icmp;
    if (quote.protocol === PROTO_ICMP) {
      // The quoted echo header has its identifier and number where ports would be seq's: bytes 4 to 7.
      const key = quote.seq;
      const waiter = this.#pings.get(key);
      if (waiter === undefined) return Drop.IcmpUnhandled;
      this.#pings.delete(key);
      waiter.onError(type, code, ip.src);
      return Drop.None;
    }
    if (type !== ICMP_UNREACHABLE) return Drop.IcmpUnhandled;
    const mtu = code === UNREACHABLE_FRAG_NEEDED ? icmp.mtu : 0;
    if (quote.protocol === PROTO_TCP) {
      this.#tcp.onUnreachable(code, quote.dst, quote.dstPort, quote.srcPort, quote.seq, mtu, now);
    } else if (quote.protocol === PROTO_UDP) {
      this.#udp.onUnreachable(code, quote.dst, quote.dstPort, quote.srcPort, mtu, now);
    } else return Drop.IcmpUnhandled;
    return Drop.None;
  }

  /**
   * Sends one echo request, once the hop's MAC is known.
   * @returns its key for `forget`, or undefined if it was dropped: the link or the queue for ARP is full, or the payload is
   *   larger than PING_MAX_BYTES.
   */
  ping(
    hop: NextHop,
    src: number,
    dst: number,
    payload: Uint8Array,
    waiter: PingWaiter,
    ttl: number,
    now: Millis,
  ): number | undefined {
    const len = payload.length;
    if (len > PING_MAX_BYTES) return undefined;
    const q = this.#scratch;
    const key = this.#nextPing;
    const total = IPV4_HEADER + ICMP_HEADER + len;
    this.#nextPing = (key + 1) | 0;
    copyBytes(payload, 0, q, IPV4_HEADER + ICMP_HEADER, len);
    const sum = sumBytes(q, IPV4_HEADER + ICMP_HEADER, len);
    emitEcho(q, IPV4_HEADER, ICMP_ECHO_REQUEST, key >>> 16, key & 0xffff, sum);
    this.#pings.set(key, waiter);
    if (hop.known) {
      if (this.#egress.sendIpv4(hop.mac, 0, PROTO_ICMP, src, dst, q, IPV4_HEADER, ICMP_HEADER + len, ttl)) return key;
    } else {
      emitIpv4Header(q, 0, total, 0, 0, ttl, PROTO_ICMP, src, dst);
      if (this.#uplink.hold(hop, q, total, now)) return key;
    }
    this.#pings.delete(key);
    return undefined;
  }

  /** Nobody waits for this ping any more. */
  forget(key: number): void {
    this.#pings.delete(key);
  }

  portUnreachable(ip: Ipv4View, macBuf: Uint8Array, macOff: number, now: Millis): void {
    if (this.network === undefined || !mayError(ip, this.network) || !this.#limiter.take(now)) return;
    const q = this.#scratch;
    const len = emitIcmpError(q, 0, ICMP_UNREACHABLE, UNREACHABLE_PORT, 0, ip.buf, ip.off, ip.end - ip.off);
    this.#egress.sendIpv4(macBuf, macOff, PROTO_ICMP, ip.dst, ip.src, q, 0, len);
    this.#stats.icmpErrorsSent++;
  }
}
