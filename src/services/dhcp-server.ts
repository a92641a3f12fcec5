// The DHCP server of the gateway: what each message of a client means and where the answer goes (RFC 2131 4.1, 4.3, 4.4;
// RFC 2132, 3046, 3397, 3442, 4039, 6842). It is the only server of its network, so it is authoritative.
// It refuses to own: who holds what (`leases`), what clients are told (`dhcp-parameters`), bytes (`dhcp-message`,
// `dhcp-builder`), frames (the stack).
//
// A guest's rubbish is counted and answered with silence. Replies leave from gateway:67 as one frame, without ARP.

import { asciiText, copyBytes } from '../base/bytes.ts';
import type { Millis } from '../base/clock.ts';
import { Drop, type DropCounters } from '../base/drop.ts';
import { clientIdKey, formatMac, isUnicastMac } from './client-key.ts';
import { DHCP_DEFAULT_SENT_BYTES, DHCP_MAX_SENT_BYTES, DhcpBuilder } from './dhcp-builder.ts';
import {
  BOOTREPLY,
  BOOTREQUEST,
  DHCP_CLIENT_PORT,
  DHCP_SERVER_PORT,
  DhcpMessage,
  DhcpOption,
  DhcpType,
  FLAG_BROADCAST,
  HTYPE_ETHERNET,
} from './dhcp-message.ts';
import { type DhcpOptions, DhcpParameters } from './dhcp-parameters.ts';
import type { Lease, LeaseClient, Leases } from './leases.ts';

/** Sends a reply to a guest. Implemented by the stack. */
export interface DhcpOutput {
  /**
   * @param vmId the link it leaves on.
   * @param dstMac 6 bytes, valid until the call returns; undefined for broadcast.
   * @param dstIp int32; -1 is 255.255.255.255.
   */
  sendDhcp(
    vmId: number,
    dstMac: Uint8Array | undefined,
    dstIp: number,
    dstPort: number,
    buf: Uint8Array,
    off: number,
    len: number,
    now: Millis,
  ): void;
}

/** Who sent a message: the part of the stack's DatagramMeta that DHCP needs. */
export interface DhcpMeta {
  readonly vm: { readonly id: number };
  readonly macBuf: Uint8Array;
  readonly macOff: number;
  readonly src: { readonly v4: number };
}

/** Told of leases; called between messages only. */
export interface DhcpEvents {
  /** A lease was granted or renewed; `hostName` is '' if the guest has none. */
  onLease(mac: Uint8Array, address: number, hostName: string): void;
  /** A lease was given back or declined. */
  onRelease(mac: Uint8Array, address: number): void;
}

/** Messages by kind, both ways. */
export class DhcpStats {
  discovers = 0;
  requests = 0;
  declines = 0;
  releases = 0;
  informs = 0;
  offers = 0;
  acks = 0;
  naks = 0;
  malformed = 0;
  /** Well formed and not answered. */
  ignored = 0;
  /** Options that found no room in a reply. */
  optionsCut = 0;
}

const BROADCAST = -1;
const IP_UDP_BYTES = 28;
const MIN_LEASE_MS = 60_000;
/** The DHCP service. Fits the stack's `DatagramService` by structure. */
export class DhcpService {
  readonly stats: DhcpStats = new DhcpStats();
  readonly #leases: Leases;
  readonly #output: DhcpOutput;
  readonly #drops: DropCounters;
  readonly #events: DhcpEvents | undefined;
  readonly #msg = new DhcpMessage();
  readonly #out = new DhcpBuilder();
  readonly #mac = new Uint8Array(6);
  readonly #parameters: DhcpParameters;
  readonly #gateway: number;

  constructor(options: DhcpOptions, leases: Leases, output: DhcpOutput, drops: DropCounters, events?: DhcpEvents) {
    this.#gateway = options.gateway;
    this.#leases = leases;
    this.#output = output;
    this.#drops = drops;
    this.#events = events;
    this.#parameters = new DhcpParameters(options, leases.pool.network);
  }

  /** New domain and search list, from the next reply on (the host's VPN came up). */
  setDomains(domain: string, search: readonly string[]): void {
    this.#parameters.setDomains(domain, search);
  }

  /** A VM's link is gone. */
  vmGone(vmId: number): void {
    this.#leases.vmGone(vmId);
  }

  /** One datagram to port 67. */
  onDatagram(meta: DhcpMeta, buf: Uint8Array, off: number, len: number, now: Millis): void {
    const msg = this.#msg;
    if (!msg.wrap(buf, off, len) || !this.#sane()) {
      this.stats.malformed++;
      this.#drops.add(Drop.DhcpMalformed);
      return;
    }
    const giaddr = msg.giaddr;
    // A relay of another network: there is no pool for it.
    if (giaddr !== 0 && (!this.#leases.pool.network.contains(giaddr) || giaddr === this.#gateway)) {
      this.#ignore();
      return;
    }
    // Copy: six bytes that outlive the datagram where a lease keeps them.
    copyBytes(buf, msg.chaddrOff, this.#mac, 0, 6);
    const idLen = msg.optionLen(DhcpOption.ClientId);
    const client: LeaseClient = {
      vmId: meta.vm.id,
      mac: this.#mac,
      macText: formatMac(this.#mac, 0),
      idKey: idLen > 0 ? clientIdKey(msg.options, msg.optionOff(DhcpOption.ClientId), idLen) : '',
    };
    if (!this.#dispatch(meta, client, now)) this.#ignore();
  }

  /** @returns false if the message is not for us to answer. */
  #dispatch(meta: DhcpMeta, client: LeaseClient, now: Millis): boolean {
    switch (this.#msg.messageType) {
      case DhcpType.Discover:
        this.stats.discovers++;
        return this.#onDiscover(meta, client, now);
      case DhcpType.Request:
        this.stats.requests++;
        return this.#onRequest(meta, client, now);
      case DhcpType.Decline:
        this.stats.declines++;
        return this.#onDecline(client, now);
      case DhcpType.Release:
        this.stats.releases++;
        return this.#onRelease(client, now);
      case DhcpType.Inform:
        this.stats.informs++;
        return this.#onInform(meta, now);
      default:
        return false;
    }
  }

  /** Field checks that hold for every message that this server may answer. */
  #sane(): boolean {
    const msg = this.#msg;
    if (msg.op !== BOOTREQUEST || msg.htype !== HTYPE_ETHERNET || msg.hlen !== 6) return false;
    if (!isUnicastMac(msg.buf, msg.chaddrOff)) return false;
    return msg.messageType > 0 && msg.optionLen(DhcpOption.ClientId) <= 255;
  }

  #ignore(): void {
    this.stats.ignored++;
    this.#drops.add(Drop.DhcpIgnored);
  }

  /** RFC 2131 4.3.1. */
  #onDiscover(meta: DhcpMeta, client: LeaseClient, now: Millis): boolean {
    const msg = this.#msg;
    const lease = this.#leases.select(client, msg.i32(DhcpOption.RequestedAddress), now);
    if (lease === undefined) return false;
    // RFC 4039: a client that asks for it gets its lease at once.
    if (msg.has(DhcpOption.RapidCommit)) return this.#grant(meta, client, lease, now);
    this.stats.offers++;
    this.#begin(DhcpType.Offer, lease.address);
    this.#addLease(this.#leaseMs());
    this.#addRequired();
    this.#addAsked(meta.vm.id, lease.hostName);
    this.#send(meta, lease.address, now);
    return true;
  }

  /** RFC 2131 4.3.2: which state the client is in shows in what it fills in. */
  #onRequest(meta: DhcpMeta, client: LeaseClient, now: Millis): boolean {
    const msg = this.#msg;
    const server = msg.i32(DhcpOption.ServerId);
    const requested = msg.i32(DhcpOption.RequestedAddress);
    const ciaddr = msg.ciaddr;
    let lease = this.#leases.find(client, now);
    if (server !== undefined) {
      // SELECTING. Some clients name the address in ciaddr instead.
      const wanted = requested ?? ciaddr;
      if (server !== this.#gateway) {
        if (lease !== undefined) this.#leases.withdraw(lease);
        return false;
      }
      if (wanted === 0) return false;
      // An offer that was forgotten (restart, expiry) still stands if nobody else took the address.
      lease ??= this.#leases.claim(client, wanted, now);
      if (lease === undefined || lease.address !== wanted) return this.#refuse(meta, now);
      return this.#grant(meta, client, lease, now);
    }
    if (ciaddr !== 0) {
      // RENEWING or REBINDING. A client that nothing is known of keeps its address if it is free: the lease file was lost.
      lease ??= this.#leases.claim(client, ciaddr, now);
      if (lease === undefined || lease.address !== ciaddr) return this.#refuse(meta, now);
      return this.#grant(meta, client, lease, now);
    }
    if (requested === undefined) return false;
    // INIT-REBOOT.
    if (!this.#leases.pool.network.contains(requested)) return this.#refuse(meta, now);
    if (lease === undefined) return false;
    if (lease.address !== requested) return this.#refuse(meta, now);
    return this.#grant(meta, client, lease, now);
  }

  /** RFC 2131 4.3.3. */
  #onDecline(client: LeaseClient, now: Millis): boolean {
    const lease = this.#owned(client, this.#msg.i32(DhcpOption.RequestedAddress) ?? this.#msg.ciaddr, now);
    if (lease === undefined) return false;
    this.#leases.decline(lease, now);
    this.#events?.onRelease(lease.mac, lease.address);
    return true;
  }

  /** RFC 2131 4.3.4. */
  #onRelease(client: LeaseClient, now: Millis): boolean {
    const lease = this.#owned(client, this.#msg.ciaddr, now);
    if (lease === undefined) return false;
    this.#leases.release(lease, now);
    this.#events?.onRelease(lease.mac, lease.address);
    return true;
  }

  /** The running lease of `address` if the message may end it: it is for this server and does not come from another VM. */
  #owned(client: LeaseClient, address: number, now: Millis): Lease | undefined {
    const server = this.#msg.i32(DhcpOption.ServerId);
    if (server !== undefined && server !== this.#gateway) return undefined;
    const lease = this.#leases.find(client, now);
    if (lease === undefined || !lease.bound || lease.address !== address || !lease.active(now)) return undefined;
    return lease.vmId === 0 || lease.vmId === client.vmId ? lease : undefined;
  }

  /** RFC 2131 4.3.5: parameters only, to an address that the client set itself. */
  #onInform(meta: DhcpMeta, now: Millis): boolean {
    const ciaddr = this.#msg.ciaddr !== 0 ? this.#msg.ciaddr : meta.src.v4;
    if (!this.#leases.pool.network.contains(ciaddr) || ciaddr === this.#gateway) return false;
    this.stats.acks++;
    this.#begin(DhcpType.Ack, 0);
    this.#addRequired();
    this.#addAsked(meta.vm.id, '');
    this.#send(meta, ciaddr, now);
    return true;
  }

  #grant(meta: DhcpMeta, client: LeaseClient, lease: Lease, now: Millis): boolean {
    const msg = this.#msg;
    const nameLen = msg.optionLen(DhcpOption.HostName);
    const name = nameLen > 0 ? asciiText(msg.options, msg.optionOff(DhcpOption.HostName), nameLen) : undefined;
    const leaseMs = this.#leaseMs();
    this.#leases.bind(lease, client, leaseMs, name, now);
    this.stats.acks++;
    this.#begin(DhcpType.Ack, lease.address);
    this.#addLease(leaseMs);
    if (msg.messageType === DhcpType.Discover) this.#out.addBytes(DhcpOption.RapidCommit, this.#mac, 0, 0);
    this.#addRequired();
    this.#addAsked(meta.vm.id, lease.hostName);
    this.#send(meta, lease.address, now);
    this.#events?.onLease(lease.mac, lease.address, lease.hostName);
    return true;
  }

  #refuse(meta: DhcpMeta, now: Millis): boolean {
    this.stats.naks++;
    this.#begin(DhcpType.Nak, 0);
    this.#addRequired();
    this.#send(meta, BROADCAST, now);
    return true;
  }

  /** What is granted: what was asked for, but at least a minute and at most the configured time. */
  #leaseMs(): number {
    const asked = this.#msg.i32(DhcpOption.LeaseTime);
    const most = this.#leases.leaseMs;
    return asked === undefined ? most : Math.min(most, Math.max(MIN_LEASE_MS, (asked >>> 0) * 1000));
  }

  #begin(type: number, yiaddr: number): void {
    const msg = this.#msg;
    const asked = msg.u16(DhcpOption.MaxMessageSize);
    // RFC 2132 9.10: below 576 is not legal, and taken as not sent.
    const max = asked <= 576 ? DHCP_DEFAULT_SENT_BYTES : Math.min(asked - IP_UDP_BYTES, DHCP_MAX_SENT_BYTES);
    const nak = type === DhcpType.Nak;
    // RFC 2131 4.3.2: the relay is to broadcast a NAK, since the client has no address that holds.
    const flags = nak && msg.giaddr !== 0 ? FLAG_BROADCAST : msg.flags & FLAG_BROADCAST;
    this.#out.begin(BOOTREPLY, msg.xid, flags, max);
    const ciaddr = type === DhcpType.Ack ? msg.ciaddr : 0;
    this.#out.addresses(ciaddr, yiaddr, 0, msg.giaddr);
    this.#out.chaddr(this.#mac, 0);
    // First, since old clients look for it there.
    this.#out.addU8(DhcpOption.MessageType, type);
    this.#out.addU32(DhcpOption.ServerId, this.#gateway);
  }

  /** Lease time, T1 and T2 (RFC 2131 4.4.5: half and seven eighths). */
  #addLease(leaseMs: number): void {
    const seconds = Math.floor(leaseMs / 1000);
    this.#out.addU32(DhcpOption.LeaseTime, seconds);
    this.#out.addU32(DhcpOption.RenewalTime, Math.floor(seconds / 2));
    this.#out.addU32(DhcpOption.RebindingTime, Math.floor((seconds * 7) / 8));
  }

  /** Echoes: the client identifier (RFC 6842) and a relay's information (RFC 3046 2.2). */
  #addRequired(): void {
    const msg = this.#msg;
    this.#echo(DhcpOption.ClientId);
    if (msg.giaddr !== 0) this.#echo(DhcpOption.RelayAgent);
  }

  #echo(code: number): void {
    const len = this.#msg.optionLen(code);
    if (len > 0) this.#out.addBytes(code, this.#msg.options, this.#msg.optionOff(code), len);
  }

  #addAsked(vmId: number, hostName: string): void {
    this.#parameters.addAsked(this.#msg, this.#out, vmId, hostName);
    this.stats.optionsCut += this.#out.cut;
  }

  /** RFC 2131 4.1: where a reply goes. */
  #send(meta: DhcpMeta, address: number, now: Millis): void {
    const msg = this.#msg;
    const vmId = meta.vm.id;
    const len = this.#out.finish();
    let mac: Uint8Array | undefined = this.#mac;
    let ip = address;
    let port = DHCP_CLIENT_PORT;
    if (msg.giaddr !== 0) {
      // The relay is whoever handed the message in.
      copyBytes(meta.macBuf, meta.macOff, this.#mac, 0, 6);
      ip = msg.giaddr;
      port = DHCP_SERVER_PORT;
    } else if (address === BROADCAST || (msg.ciaddr === 0 && (msg.flags & FLAG_BROADCAST) !== 0)) {
      mac = undefined;
      ip = BROADCAST;
    } else if (msg.ciaddr !== 0 && this.#leases.pool.network.contains(msg.ciaddr)) {
      ip = msg.ciaddr;
    }
    this.#output.sendDhcp(vmId, mac, ip, port, this.#out.buf, 0, len, now);
  }
}
