// Echo requests of guests to addresses that are not ours, handed to whoever carries them, and what came back handed to the guest:
// replies and errors about exactly that request (RFC 792). It makes up no answer of its own.

import { copyBytes } from '../base/bytes.ts';
import { sumBytes } from '../base/checksum.ts';
import type { Millis } from '../base/clock.ts';
import { Drop } from '../base/drop.ts';
import type { Neighbour, Neighbours } from '../ethernet/neighbours.ts';
import { AddressCache, IpAddress } from '../ip/address.ts';
import {
  emitEcho,
  ICMP_ECHO_REPLY,
  ICMP_HEADER,
  ICMP_TIME_EXCEEDED,
  ICMP_UNREACHABLE,
  type IcmpView,
} from '../ip/icmp.ts';
import { Ipv4View, PROTO_ICMP } from '../ip/ipv4.ts';
import type { EgressWriter } from './egress.ts';
import type { EchoAcceptor, EchoRequest, EchoSender, LinkPort } from './ports.ts';
import type { StackStats } from './stats.ts';
import type { VmPort } from './vm-port.ts';

/** Sends an ICMP error to a guest; `IcmpLayer`. */
export interface ErrorWriter {
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
  ): void;
}

export class EchoLayer implements EchoSender {
  /** Undefined: nobody carries echo requests, and they are dropped. */
  acceptor: EchoAcceptor | undefined = undefined;
  readonly #gateway: number;
  readonly #stats: StackStats;
  readonly #egress: EgressWriter;
  readonly #errors: ErrorWriter;
  readonly #neighbours: Neighbours;
  readonly #ports: Map<number, VmPort>;
  readonly #addresses = new AddressCache();
  readonly #sent = new Ipv4View();
  readonly #request: EchoRequest;
  #message = new Uint8Array(0);

  constructor(
    gateway: number,
    stats: StackStats,
    egress: EgressWriter,
    errors: ErrorWriter,
    neighbours: Neighbours,
    ports: Map<number, VmPort>,
  ) {
    this.#gateway = gateway;
    this.#stats = stats;
    this.#egress = egress;
    this.#errors = errors;
    this.#neighbours = neighbours;
    this.#ports = ports;
    const none = IpAddress.v4(0);
    this.#request = {
      vm: undefined as unknown as LinkPort,
      guest: none,
      remote: none,
      id: 0,
      seq: 0,
      ttl: 0,
      dontFragment: false,
      dataLength: 0,
    };
  }

  /** @param ip a whole packet with an echo request whose TTL outlives the gateway. */
  onRequest(port: VmPort, ip: Ipv4View, icmp: IcmpView, now: Millis): Drop {
    const { acceptor } = this;
    if (acceptor === undefined) return Drop.IcmpUnhandled;
    const r = this.#request;
    const { src, dst } = ip;
    r.vm = port;
    if (r.guest.w3 !== src) r.guest = this.#addresses.v4(src);
    if (r.remote.w3 !== dst) r.remote = this.#addresses.v4(dst);
    r.id = icmp.id;
    r.seq = icmp.seq;
    r.ttl = ip.ttl;
    r.dontFragment = ip.dontFragment;
    r.dataLength = icmp.payloadLength;
    return acceptor.onEcho(r, ip.buf, ip.off, ip.totalLength, now) ? Drop.None : Drop.IcmpUnhandled;
  }

  sendEchoReply(vm: LinkPort, packet: Uint8Array, from: IpAddress, ttl: number, now: Millis): boolean {
    const sent = this.#sent;
    if (sent.wrap(packet, 0, packet.length) !== Drop.None) return false;
    const n = this.#guest(vm, sent.src, now);
    const port = this.#ports.get(vm.id);
    if (n === undefined || port === undefined) return false;
    const length = sent.payloadLength;
    if (this.#message.length < length) this.#message = new Uint8Array(length);
    const message = this.#message;
    const data = sent.payloadOff + ICMP_HEADER;
    const dataLength = length - ICMP_HEADER;
    // Copy: the request is held for a quote, too.
    copyBytes(packet, data, message, ICMP_HEADER, dataLength);
    const id = (packet[sent.payloadOff + 4]! << 8) | packet[sent.payloadOff + 5]!;
    const seq = (packet[sent.payloadOff + 6]! << 8) | packet[sent.payloadOff + 7]!;
    emitEcho(message, 0, ICMP_ECHO_REPLY, id, seq, sumBytes(packet, data, dataLength));
    if (!this.#egress.sendIpv4(port, n.mac, PROTO_ICMP, from.v4, sent.src, message, 0, length, ttl)) return false;
    this.#stats.icmpEchoesCarried++;
    return true;
  }

  sendEchoExceeded(vm: LinkPort, packet: Uint8Array, from: IpAddress, code: number, now: Millis): void {
    this.#error(vm, packet, from.v4, ICMP_TIME_EXCEEDED, code, 0, now);
  }

  sendEchoUnreachable(
    vm: LinkPort,
    packet: Uint8Array,
    from: IpAddress | undefined,
    code: number,
    mtu: number,
    now: Millis,
  ): void {
    this.#error(vm, packet, from === undefined ? this.#gateway : from.v4, ICMP_UNREACHABLE, code, mtu, now);
  }

  #error(vm: LinkPort, packet: Uint8Array, from: number, type: number, code: number, mtu: number, now: Millis): void {
    const sent = this.#sent;
    if (sent.wrap(packet, 0, packet.length) !== Drop.None) return;
    const n = this.#guest(vm, sent.src, now);
    const port = this.#ports.get(vm.id);
    if (n === undefined || port === undefined) return;
    this.#errors.sendError(port, n.mac, type, code, mtu, from, sent.src, packet, 0, packet.length, now);
  }

  /** Where the guest is, if it is still the VM that has asked. */
  #guest(vm: LinkPort, ip: number, now: Millis): Neighbour | undefined {
    const n = this.#neighbours.lookup(ip, now);
    return n !== undefined && n.portId === vm.id ? n : undefined;
  }
}
