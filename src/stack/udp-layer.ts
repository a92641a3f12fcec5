// UDP with guests: datagrams to the gateway's services and to the forwarder, datagrams back, fragmented where they must be
// (RFC 768, RFC 1122 4.1). DHCP is the one service that is also heard on broadcast and answered without ARP.

import { copyBytes } from '../base/bytes.ts';
import { sumBytes } from '../base/checksum.ts';
import type { Millis } from '../base/clock.ts';
import { Drop } from '../base/drop.ts';
import type { Slab } from '../base/slab.ts';
import { ETHERNET_HEADER, ETHERTYPE_IPV4, emitEthernet } from '../ethernet/frame.ts';
import { BROADCAST_MAC } from '../ethernet/mac.ts';
import type { Neighbours } from '../ethernet/neighbours.ts';
import { AddressCache, IpAddress } from '../ip/address.ts';
import {
  DEFAULT_TTL,
  emitIpv4Header,
  IPV4_HEADER,
  type Ipv4View,
  isNetworkEdge,
  PROTO_UDP,
  pseudoHeaderSumV4,
} from '../ip/ipv4.ts';
import { emitUdpHeader, UDP_HEADER, UDP_MAX_PAYLOAD, UdpView } from '../ip/udp.ts';
import type { EgressWriter } from './egress.ts';
import type { IcmpLayer } from './icmp-layer.ts';
import type { DatagramAcceptor, DatagramMeta, DatagramSender, DatagramService, LinkPort } from './ports.ts';
import type { StackConfig } from './stack.ts';
import type { StackStats } from './stats.ts';
import type { VmPort } from './vm-port.ts';

export const DHCP_SERVER_PORT = 67;
export const DHCP_CLIENT_PORT = 68;

export class UdpLayer implements DatagramSender {
  readonly #config: StackConfig;
  readonly #stats: StackStats;
  readonly #egress: EgressWriter;
  readonly #icmp: IcmpLayer;
  readonly #neighbours: Neighbours;
  readonly #ports: Map<number, VmPort>;
  readonly #acceptor: DatagramAcceptor;
  /** Services of the gateway by port. */
  readonly #services = new Map<number, DatagramService>();
  readonly #udp = new UdpView();
  readonly #addresses = new AddressCache();
  readonly #slab: Slab;
  /** Instead of a block of the slab while that is full. */
  #spare: Uint8Array | undefined = undefined;
  readonly #meta: DatagramMeta;

  constructor(
    config: StackConfig,
    slab: Slab,
    stats: StackStats,
    egress: EgressWriter,
    icmp: IcmpLayer,
    neighbours: Neighbours,
    ports: Map<number, VmPort>,
    acceptor: DatagramAcceptor,
  ) {
    this.#config = config;
    this.#slab = slab;
    this.#stats = stats;
    this.#egress = egress;
    this.#icmp = icmp;
    this.#neighbours = neighbours;
    this.#ports = ports;
    this.#acceptor = acceptor;
    const none = IpAddress.v4(0);
    this.#meta = {
      vm: undefined as unknown as LinkPort,
      macBuf: egress.mem,
      macOff: 0,
      src: none,
      srcPort: 0,
      dst: none,
      dstPort: 0,
    };
  }

  /** Puts a service behind a port of the gateway. */
  serve(port: number, service: DatagramService): void {
    this.#services.set(port, service);
  }

  onPacket(port: VmPort, ip: Ipv4View, macBuf: Uint8Array, macOff: number, now: Millis): Drop {
    const udp = this.#udp;
    const drop = udp.wrap(ip.buf, ip.payloadOff, ip.end);
    if (drop !== Drop.None) return drop;
    const { src, dst } = ip;
    const bad = udp.verify(
      pseudoHeaderSumV4(src, dst, PROTO_UDP, udp.length),
      ip.buf === this.#egress.mem ? this.#egress.kernel : undefined,
      false,
    );
    if (bad !== Drop.None) return bad;
    const dhcp = udp.dstPort === DHCP_SERVER_PORT && udp.srcPort === DHCP_CLIENT_PORT;
    const toGateway = dst === this.#config.gateway;
    const broadcast = dst === -1 || isNetworkEdge(dst, this.#config.network);
    // A client without an address speaks with the DHCP server and nobody else.
    if (src === 0 && !(dhcp && (toGateway || broadcast))) return Drop.Ip4Martian;
    if (broadcast && !dhcp) return Drop.UdpNotRelayed;
    if (dst >>> 28 === 14) return Drop.UdpNotRelayed;
    this.#stats.datagramsFromGuest++;
    const meta = this.#meta;
    meta.vm = port;
    meta.macBuf = macBuf;
    meta.macOff = macOff;
    if (meta.src.w3 !== src) meta.src = this.#addresses.v4(src);
    meta.srcPort = udp.srcPort;
    if (meta.dst.w3 !== dst) meta.dst = this.#addresses.v4(dst);
    meta.dstPort = udp.dstPort;
    const service = toGateway || broadcast ? this.#services.get(udp.dstPort) : undefined;
    if (service !== undefined) {
      service.onDatagram(meta, udp.buf, udp.payloadOff, udp.payloadLength, now);
      return Drop.None;
    }
    if (broadcast) return Drop.UdpNoService;
    if (ip.ttl <= 1 && !toGateway && dst !== this.#config.hostAlias) {
      this.#icmp.ttlExceeded(port, ip, macBuf, macOff, now);
      return Drop.Ip4TtlZero;
    }
    if (this.#acceptor.onDatagram(meta, udp.buf, udp.payloadOff, udp.payloadLength, now)) return Drop.None;
    this.#icmp.portUnreachable(port, ip, macBuf, macOff, now);
    return Drop.UdpNoService;
  }

  sendDatagram(
    src: IpAddress,
    srcPort: number,
    dst: IpAddress,
    dstPort: number,
    buf: Uint8Array,
    off: number,
    len: number,
    now: Millis,
  ): boolean {
    if (len > UDP_MAX_PAYLOAD) {
      this.#stats.drops.add(Drop.UdpTooBig);
      return false;
    }
    const guest = dst.v4;
    const n = this.#neighbours.lookup(guest, now);
    const port = n === undefined ? undefined : this.#ports.get(n.portId);
    if (n === undefined || port === undefined) return this.#hold(src.v4, srcPort, guest, dstPort, buf, off, len, now);
    const total = UDP_HEADER + len;
    const pseudo = pseudoHeaderSumV4(src.v4, guest, PROTO_UDP, total);
    if (IPV4_HEADER + total <= port.takes) {
      const at = this.#egress.reserveIpv4(port, total);
      if (at < 0) {
        this.#stats.drops.add(Drop.LinkTxFull);
        return false;
      }
      const { mem, kernel } = this.#egress;
      // Copy: from the host's read buffer into the batch.
      copyBytes(buf, off, mem, at + UDP_HEADER, len);
      emitUdpHeader(mem, at, srcPort, dstPort, len, pseudo, kernel.sum(at + UDP_HEADER, len));
      this.#egress.commitIpv4(port, n.mac, at, total, PROTO_UDP, src.v4, guest);
      this.#stats.datagramsToGuest++;
      return true;
    }
    const block = this.#slab.alloc(total);
    this.#spare ??= block < 0 ? new Uint8Array(UDP_HEADER + UDP_MAX_PAYLOAD) : undefined;
    const whole = block < 0 ? this.#spare! : this.#egress.mem;
    const at = Math.max(0, block);
    // Copy: whole in one place, as its checksum goes into the first packet; in the packet memory where sums and copies are fast.
    copyBytes(buf, off, whole, at + UDP_HEADER, len);
    const sum = this.#egress.sumOf(whole, at + UDP_HEADER, len);
    emitUdpHeader(whole, at, srcPort, dstPort, len, pseudo, sum);
    port.budget.urgentAt = now;
    const sent = this.#egress.sendIpv4(port, n.mac, PROTO_UDP, src.v4, guest, whole, at, total);
    if (block >= 0) this.#slab.free(block);
    if (sent) this.#stats.datagramsToGuest++;
    return sent;
  }

  /** The guest's MAC is not known: the packet waits for ARP, bounded. */
  #hold(
    src: number,
    srcPort: number,
    guest: number,
    dstPort: number,
    buf: Uint8Array,
    off: number,
    len: number,
    now: Millis,
  ): boolean {
    const total = UDP_HEADER + len;
    const packet = new Uint8Array(IPV4_HEADER + total);
    emitIpv4Header(packet, 0, packet.length, 0, 0, DEFAULT_TTL, PROTO_UDP, src, guest);
    copyBytes(buf, off, packet, IPV4_HEADER + UDP_HEADER, len);
    emitUdpHeader(
      packet,
      IPV4_HEADER,
      srcPort,
      dstPort,
      len,
      pseudoHeaderSumV4(src, guest, PROTO_UDP, total),
      sumBytes(buf, off, len),
    );
    if (!this.#neighbours.hold(guest, packet, 0, packet.length, now)) {
      this.#stats.drops.add(Drop.ArpUnresolved);
      return false;
    }
    this.#neighbours.poll(now);
    return true;
  }

  /** A packet of `#hold` whose guest is known now. */
  sendHeld(port: VmPort, mac: Uint8Array, packet: Uint8Array): void {
    const src = (packet[12]! << 24) | (packet[13]! << 16) | (packet[14]! << 8) | packet[15]!;
    const dst = (packet[16]! << 24) | (packet[17]! << 16) | (packet[18]! << 8) | packet[19]!;
    const len = packet.length - IPV4_HEADER;
    if (this.#egress.sendIpv4(port, mac, PROTO_UDP, src, dst, packet, IPV4_HEADER, len)) this.#stats.datagramsToGuest++;
  }

  sendUnreachable(
    code: number,
    mtu: number,
    guest: IpAddress,
    guestPort: number,
    remote: IpAddress,
    remotePort: number,
    payloadLen: number,
    now: Millis,
  ): void {
    const n = this.#neighbours.lookup(guest.v4, now);
    const port = n === undefined ? undefined : this.#ports.get(n.portId);
    if (n === undefined || port === undefined) return;
    this.#icmp.datagramUnreachable(port, n.mac, code, mtu, guest.v4, guestPort, remote.v4, remotePort, payloadLen, now);
  }

  /** DHCP's answers: straight to a MAC, no ARP (RFC 2131 4.1). @param dstMac undefined: broadcast. */
  sendDhcp(
    vmId: number,
    dstMac: Uint8Array | undefined,
    dstIp: number,
    dstPort: number,
    buf: Uint8Array,
    off: number,
    len: number,
  ): void {
    const port = this.#ports.get(vmId);
    if (port === undefined) return;
    const total = UDP_HEADER + len;
    const at = this.#egress.reserve(port, ETHERNET_HEADER + IPV4_HEADER + total);
    if (at < 0) {
      this.#stats.drops.add(Drop.LinkTxFull);
      return;
    }
    const { mem } = this.#egress;
    const ip = at + ETHERNET_HEADER;
    const src = this.#config.gateway;
    emitEthernet(mem, at, dstMac ?? BROADCAST_MAC, 0, this.#config.mac, 0, ETHERTYPE_IPV4);
    emitIpv4Header(mem, ip, IPV4_HEADER + total, 0, 0, DEFAULT_TTL, PROTO_UDP, src, dstIp);
    copyBytes(buf, off, mem, ip + IPV4_HEADER + UDP_HEADER, len);
    const pseudo = pseudoHeaderSumV4(src, dstIp, PROTO_UDP, total);
    emitUdpHeader(mem, ip + IPV4_HEADER, DHCP_SERVER_PORT, dstPort, len, pseudo, sumBytes(buf, off, len));
    this.#egress.commit(port, at, ETHERNET_HEADER + IPV4_HEADER + total);
    this.#stats.datagramsToGuest++;
  }
}
