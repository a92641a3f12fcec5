// The UDP of the embedded guest: datagrams out, and in to whoever is bound to their port (RFC 768, RFC 1122 4.1). Errors that
// come back for a datagram go to the port that sent it. A port nobody is bound to is answered "port unreachable".

import { copyBytes } from '../base/bytes.ts';
import { sumBytes } from '../base/checksum.ts';
import type { Millis } from '../base/clock.ts';
import { Drop } from '../base/drop.ts';
import { type Random, randomBelow } from '../base/random.ts';
import { BROADCAST_MAC } from '../ethernet/mac.ts';
import { DEFAULT_TTL, emitIpv4Header, IPV4_HEADER, type Ipv4View, PROTO_UDP, pseudoHeaderSumV4 } from '../ip/ipv4.ts';
import { emitUdpHeader, UDP_HEADER, UDP_MAX_PAYLOAD, UdpView } from '../ip/udp.ts';
import type { GuestEgress } from './guest-egress.ts';
import type { GuestStats } from './guest-stats.ts';
import type { NextHop } from './next-hop.ts';

const EPHEMERAL_FIRST = 32_768;
const EPHEMERAL_COUNT = 28_232;

/** Who is bound to a port. */
export interface DatagramReceiver {
  /** A datagram of `src` (int32); bytes valid until the call returns. */
  onDatagram(src: number, srcPort: number, buf: Uint8Array, off: number, len: number, now: Millis): void;
  /** ICMP destination unreachable with `code` about a datagram to `dst`; `mtu` of the next hop with code 4, else 0. */
  onUnreachable(code: number, dst: number, dstPort: number, mtu: number, now: Millis): void;
}

/** What UDP asks of the guest's stack. */
export interface GuestUdpUplink {
  /** int32, 0 without one. */
  readonly address: number;
  /** Whether a destination is a broadcast address of the guest's network. */
  isBroadcast(dst: number): boolean;
  route(dst: number): NextHop | undefined;
  /** Keeps the first `len` bytes of `packet` until the hop's MAC is known. @returns false if there is no room (counted). */
  hold(hop: NextHop, packet: Uint8Array, len: number, now: Millis): boolean;
}

export class GuestUdp {
  readonly #stats: GuestStats;
  readonly #egress: GuestEgress;
  readonly #uplink: GuestUdpUplink;
  readonly #random: Random;
  readonly #ports = new Map<number, DatagramReceiver>();
  readonly #udp = new UdpView();
  /** One whole datagram on its way out, before it is cut into packets. */
  readonly #scratch = new Uint8Array(IPV4_HEADER + UDP_HEADER + UDP_MAX_PAYLOAD);

  constructor(stats: GuestStats, egress: GuestEgress, uplink: GuestUdpUplink, random: Random) {
    this.#stats = stats;
    this.#egress = egress;
    this.#uplink = uplink;
    this.#random = random;
  }

  /** @param port 0: any free one, unpredictable (RFC 6056, RFC 5452). @returns the port, or -1 if it is taken. */
  bind(port: number, receiver: DatagramReceiver): number {
    let own = port;
    if (port === 0) {
      const start = randomBelow(this.#random, EPHEMERAL_COUNT);
      let i = 0;
      do own = EPHEMERAL_FIRST + ((start + i++) % EPHEMERAL_COUNT);
      while (this.#ports.has(own) && i < EPHEMERAL_COUNT);
    }
    if (this.#ports.has(own)) return -1;
    this.#ports.set(own, receiver);
    return own;
  }

  unbind(port: number): void {
    this.#ports.delete(port);
  }

  /** Ports in use. */
  get bound(): number {
    return this.#ports.size;
  }

  onPacket(
    ip: Ipv4View,
    macBuf: Uint8Array,
    macOff: number,
    toGroup: boolean,
    icmp: PortUnreachable,
    now: Millis,
  ): Drop {
    const udp = this.#udp;
    const drop = udp.wrap(ip.buf, ip.payloadOff, ip.end);
    if (drop !== Drop.None) return drop;
    const summer = ip.buf === this.#egress.mem ? this.#egress.summer : undefined;
    const bad = udp.verify(pseudoHeaderSumV4(ip.src, ip.dst, PROTO_UDP, udp.length), summer, false);
    if (bad !== Drop.None) return bad;
    const receiver = this.#ports.get(udp.dstPort);
    if (receiver === undefined) {
      if (!toGroup && this.#uplink.address !== 0) icmp.portUnreachable(ip, macBuf, macOff, now);
      return Drop.UdpNoService;
    }
    this.#stats.datagramsReceived++;
    receiver.onDatagram(ip.src, udp.srcPort, udp.buf, udp.payloadOff, udp.payloadLength, now);
    return Drop.None;
  }

  onUnreachable(code: number, dst: number, dstPort: number, ownPort: number, mtu: number, now: Millis): void {
    this.#ports.get(ownPort)?.onUnreachable(code, dst, dstPort, mtu, now);
  }

  /**
   * Sends one datagram, fragmented where it is larger than the MTU.
   * @returns '' or an errno name: EMSGSIZE, ENETUNREACH, ENOBUFS (dropped, counted: the link does not drain).
   */
  send(srcPort: number, dst: number, dstPort: number, buf: Uint8Array, off: number, len: number, now: Millis): string {
    if (len > UDP_MAX_PAYLOAD) return 'EMSGSIZE';
    const src = this.#uplink.address;
    const broadcast = this.#uplink.isBroadcast(dst);
    const hop = broadcast ? undefined : this.#uplink.route(dst);
    if (!broadcast && (hop === undefined || src === 0)) return 'ENETUNREACH';
    const total = UDP_HEADER + len;
    const q = this.#scratch;
    const pseudo = pseudoHeaderSumV4(src, dst, PROTO_UDP, total);
    copyBytes(buf, off, q, IPV4_HEADER + UDP_HEADER, len);
    emitUdpHeader(q, IPV4_HEADER, srcPort, dstPort, len, pseudo, sumBytes(q, IPV4_HEADER + UDP_HEADER, len));
    this.#stats.datagramsSent++;
    if (hop !== undefined && !hop.known) {
      // It waits for ARP, bounded.
      emitIpv4Header(q, 0, IPV4_HEADER + total, 0, 0, DEFAULT_TTL, PROTO_UDP, src, dst);
      return this.#uplink.hold(hop, q, IPV4_HEADER + total, now) ? '' : 'ENOBUFS';
    }
    const mac = hop === undefined ? BROADCAST_MAC : hop.mac;
    return this.#egress.sendIpv4(mac, 0, PROTO_UDP, src, dst, q, IPV4_HEADER, total) ? '' : 'ENOBUFS';
  }
}

/** Who says "port unreachable". */
export interface PortUnreachable {
  portUnreachable(ip: Ipv4View, macBuf: Uint8Array, macOff: number, now: Millis): void;
}
