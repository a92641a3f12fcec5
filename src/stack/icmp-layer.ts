// ICMP with guests: echo of our own addresses, errors about what guests sent, and errors of theirs about what we sent (RFC 792,
// RFC 1122 3.2.2). Echo to the outside is echo-layer's, and never answered from here: a forged reply would be a lie.

import { setU16, setU32 } from '../base/bytes.ts';
import type { Millis } from '../base/clock.ts';
import { Drop } from '../base/drop.ts';
import type { Neighbours } from '../ethernet/neighbours.ts';
import type { IpAddress } from '../ip/address.ts';
import {
  EXCEEDED_REASSEMBLY,
  EXCEEDED_TTL,
  echoReplyInPlace,
  emitIcmpError,
  emitUdpQuote,
  ICMP_ECHO_REQUEST,
  ICMP_TIME_EXCEEDED,
  ICMP_UNREACHABLE,
  IcmpView,
  mayError,
  QuoteView,
  UDP_QUOTE,
  UNREACHABLE_FRAG_NEEDED,
  UNREACHABLE_PORT,
  UNREACHABLE_PROTOCOL,
} from '../ip/icmp.ts';
import { DEFAULT_TTL, emitIpv4Header, IPV4_HEADER, Ipv4View, PROTO_ICMP, PROTO_TCP } from '../ip/ipv4.ts';
import { IcmpError, icmpError } from '../tcp/icmp-error.ts';
import type { EchoLayer, ErrorWriter } from './echo-layer.ts';
import type { EgressWriter } from './egress.ts';
import type { StackConfig } from './stack.ts';
import type { StackStats } from './stats.ts';
import type { TcpLayer } from './tcp-layer.ts';
import type { Path, VmPort } from './vm-port.ts';

export class IcmpLayer implements ErrorWriter {
  /** Set by the stack once both are made. */
  echo: EchoLayer | undefined = undefined;
  readonly #config: StackConfig;
  readonly #stats: StackStats;
  readonly #egress: EgressWriter;
  readonly #tcp: TcpLayer;
  readonly #icmp = new IcmpView();
  readonly #quote = new QuoteView();
  readonly #lost = new Ipv4View();
  readonly #scratch = new Uint8Array(576);
  readonly #isOurs: (ip: number) => boolean;

  constructor(
    config: StackConfig,
    stats: StackStats,
    egress: EgressWriter,
    tcp: TcpLayer,
    isOurs: (ip: number) => boolean,
  ) {
    this.#isOurs = isOurs;
    this.#config = config;
    this.#stats = stats;
    this.#egress = egress;
    this.#tcp = tcp;
  }

  onPacket(port: VmPort, ip: Ipv4View, macBuf: Uint8Array, macOff: number, now: Millis): Drop {
    const icmp = this.#icmp;
    const drop = icmp.wrap(
      ip.buf,
      ip.payloadOff,
      ip.end,
      ip.buf === this.#egress.mem ? this.#egress.kernel : undefined,
    );
    if (drop !== Drop.None) return drop;
    if (icmp.isError) return this.#onError(port, ip, now);
    if (icmp.type !== ICMP_ECHO_REQUEST) return Drop.IcmpUnhandled;
    if (!this.#isOurs(ip.dst)) {
      if (ip.ttl > 1) return this.echo?.onRequest(port, ip, icmp, now) ?? Drop.IcmpUnhandled;
      this.ttlExceeded(port, ip, macBuf, macOff, now);
      return Drop.Ip4TtlZero;
    }
    // The frame is ours until the call returns, so the request becomes the reply where it lies.
    const path = port.pathTo(macBuf, macOff);
    echoReplyInPlace(ip.buf, ip.payloadOff);
    if (!this.#egress.sendIpv4(port, path.mac, PROTO_ICMP, ip.dst, ip.src, ip.buf, ip.payloadOff, ip.payloadLength))
      return Drop.None;
    this.#stats.icmpEchoReplies++;
    return Drop.None;
  }

  /** An error of the guest's about a segment of ours; everything else in it is of no use to us. */
  #onError(port: VmPort, ip: Ipv4View, now: Millis): Drop {
    this.#stats.icmpErrorsFromGuest++;
    const icmp = this.#icmp;
    const quote = this.#quote;
    const drop = quote.wrap(icmp.buf, icmp.payloadOff, icmp.end);
    if (drop !== Drop.None) return drop;
    if (quote.protocol !== PROTO_TCP) return Drop.IcmpUnhandled;
    // The quote is of what we sent: its destination is the guest.
    const c = this.#tcp.table.find4(quote.dst, quote.dstPort, quote.src, quote.srcPort);
    if (c === undefined || quote.dst !== ip.src) return Drop.IcmpUnhandled;
    if ((c.path as Path | undefined)?.port !== port) return Drop.TcpWrongVm;
    let kind: IcmpError = IcmpError.Soft;
    if (icmp.type === ICMP_UNREACHABLE) {
      if (icmp.code === UNREACHABLE_FRAG_NEEDED) kind = IcmpError.TooBig;
      else if (icmp.code === UNREACHABLE_PROTOCOL || icmp.code === UNREACHABLE_PORT) kind = IcmpError.Hard;
    }
    icmpError(c, kind, quote.seq, icmp.mtu, now, quote.totalLength);
    return Drop.None;
  }

  /** RFC 1812 5.3.1: the gateway is one hop, so that traceroute shows it. */
  ttlExceeded(port: VmPort, ip: Ipv4View, macBuf: Uint8Array, macOff: number, now: Millis): void {
    this.#about(port, ip, macBuf, macOff, ICMP_TIME_EXCEEDED, EXCEEDED_TTL, this.#config.gateway, now);
  }

  protocolUnreachable(port: VmPort, ip: Ipv4View, macBuf: Uint8Array, macOff: number, now: Millis): void {
    this.#about(port, ip, macBuf, macOff, ICMP_UNREACHABLE, UNREACHABLE_PROTOCOL, ip.dst, now);
  }

  portUnreachable(port: VmPort, ip: Ipv4View, macBuf: Uint8Array, macOff: number, now: Millis): void {
    this.#about(port, ip, macBuf, macOff, ICMP_UNREACHABLE, UNREACHABLE_PORT, ip.dst, now);
  }

  #about(
    port: VmPort,
    ip: Ipv4View,
    macBuf: Uint8Array,
    macOff: number,
    type: number,
    code: number,
    from: number,
    now: Millis,
  ): void {
    if (!mayError(ip, this.#config.network)) return;
    this.sendError(
      port,
      port.pathTo(macBuf, macOff).mac,
      type,
      code,
      0,
      from,
      ip.src,
      ip.buf,
      ip.off,
      ip.end - ip.off,
      now,
    );
  }

  /** Fragments that never became whole: `[off, off+len)` quotes the first one. */
  reassemblyTimeout(
    port: VmPort,
    buf: Uint8Array,
    off: number,
    len: number,
    neighbours: Neighbours,
    now: Millis,
  ): void {
    const lost = this.#lost;
    if (lost.wrap(buf, off, off + len) !== Drop.None || !mayError(lost, this.#config.network)) return;
    const n = neighbours.lookup(lost.src, now);
    if (n === undefined || n.portId !== port.id) return;
    this.sendError(
      port,
      n.mac,
      ICMP_TIME_EXCEEDED,
      EXCEEDED_REASSEMBLY,
      0,
      this.#config.gateway,
      lost.src,
      buf,
      off,
      len,
      now,
    );
  }

  /** A guest's datagram that the host did not deliver: its headers are written anew for the quote. */
  datagramUnreachable(
    port: VmPort,
    mac: Uint8Array,
    code: number,
    mtu: number,
    guest: number,
    guestPort: number,
    remote: number,
    remotePort: number,
    payloadLen: number,
    now: Millis,
  ): void {
    emitUdpQuote(this.#scratch, 0, guest, guestPort, remote, remotePort, payloadLen);
    // What the destination itself says comes from the destination (RFC 1122 3.2.2.1), as far as it is one of ours.
    const from = remote === this.#config.hostAlias ? remote : this.#config.gateway;
    this.sendError(port, mac, ICMP_UNREACHABLE, code, mtu, from, guest, this.#scratch, 0, UDP_QUOTE, now);
  }

  /** A guest's SYN that the host could not follow. */
  tcpUnreachable(
    path: Path,
    code: number,
    c: { guest: IpAddress; guestPort: number; remote: IpAddress; remotePort: number; irs: number },
    now: Millis,
  ): void {
    const q = this.#scratch;
    emitIpv4Header(q, 0, IPV4_HEADER + 20, 0, 0, DEFAULT_TTL, PROTO_TCP, c.guest.v4, c.remote.v4);
    setU16(q, IPV4_HEADER, c.guestPort);
    setU16(q, IPV4_HEADER + 2, c.remotePort);
    setU32(q, IPV4_HEADER + 4, c.irs);
    this.sendError(
      path.port,
      path.mac,
      ICMP_UNREACHABLE,
      code,
      0,
      this.#config.gateway,
      c.guest.v4,
      q,
      0,
      IPV4_HEADER + 8,
      now,
    );
  }

  sendError(
    port: VmPort,
    mac: Uint8Array,
    type: number,
    code: number,
    rest: number,
    src: number,
    dst: number,
    quote: Uint8Array,
    quoteOff: number,
    quoteLen: number,
    now: Millis,
  ): void {
    if (!port.icmpLimiter.take(now)) {
      this.#stats.drops.add(Drop.IcmpRateLimited);
      return;
    }
    const off = this.#egress.reserveIpv4(port, 576 - IPV4_HEADER);
    if (off < 0) {
      this.#stats.drops.add(Drop.LinkTxFull);
      return;
    }
    const len = emitIcmpError(this.#egress.mem, off, type, code, rest, quote, quoteOff, quoteLen);
    this.#egress.commitIpv4(port, mac, off, len, PROTO_ICMP, src, dst);
    this.#stats.icmpErrorsToGuest++;
  }
}
