// What an address that a guest sends to stands for: the gateway, the host itself, the world outside, or nothing that may be
// reached. TCP and UDP ask here before they touch a socket. It dials nothing. Special addresses: RFC 6890.

import { type Cidr4, IpAddress, isLinkLocalV4, isLoopbackV4, isMartianV4, isMulticastV4 } from '../ip/address.ts';
import { RefuseReason } from '../stack/ports.ts';

/** Kinds of destination. */
export const Destination = {
  /** Any address of the world: dial it as it is. */
  Outside: 'outside',
  /** The host alias: dial the host's loopback. */
  HostLoopback: 'host-loopback',
  /** The gateway: its services only. */
  Gateway: 'gateway',
  /** An address of the guests' network that nobody answers for here (other VMs are reached through the switch). */
  Unused: 'unused',
  /** 127/8 or ::1 on the wire: the guest's own mistake, and never a way to the host's loopback. */
  Loopback: 'loopback',
  /** 169.254/16, fe80::/10: of the guest's link, which has none; on the host's it would be the cloud's metadata service. */
  LinkLocal: 'link-local',
  /** 224/4, ff00::/8. */
  Multicast: 'multicast',
  /** 255.255.255.255 or the network's broadcast address. */
  Broadcast: 'broadcast',
  /** 0/8, 240/4, ::. */
  Reserved: 'reserved',
} as const;
export type Destination = (typeof Destination)[keyof typeof Destination];

export interface DestinationOptions {
  /** The guests' network. */
  readonly network: Cidr4;
  readonly gateway: IpAddress;
  /** Undefined: guests have no way to the host's loopback. */
  readonly hostAlias: IpAddress | undefined;
}

const LOOPBACK = IpAddress.v4(0x7f000001);

/** Classifies destinations of one network. */
export class Destinations {
  readonly network: Cidr4;
  readonly gateway: IpAddress;
  readonly hostAlias: IpAddress | undefined;

  constructor(options: DestinationOptions) {
    this.network = options.network;
    this.gateway = options.gateway;
    this.hostAlias = options.hostAlias;
  }

  classify(dst: IpAddress): Destination {
    if (this.hostAlias?.equals(dst)) return Destination.HostLoopback;
    if (this.gateway.equals(dst)) return Destination.Gateway;
    return dst.isV4 ? this.#classifyV4(dst.v4) : classifyV6(dst);
  }

  /** The address to dial for a destination that is Outside or HostLoopback. */
  dialAddress(dst: IpAddress, kind: Destination): IpAddress {
    return kind === Destination.HostLoopback ? LOOPBACK : dst;
  }

  /**
   * The address that a guest sees for a host-side peer: the host alias for the host's loopback.
   * Undefined for one that no guest can answer to: loopback without an alias, or an address of the guests' own network.
   */
  seenFromGuest(peer: IpAddress): IpAddress | undefined {
    if (!peer.isV4) return peer;
    const v4 = peer.v4;
    if (isLoopbackV4(v4)) return this.hostAlias;
    return this.network.contains(v4) || isMartianV4(v4) ? undefined : peer;
  }

  #classifyV4(v4: number): Destination {
    if (isMulticastV4(v4)) return Destination.Multicast;
    if (v4 === -1) return Destination.Broadcast;
    if (isLoopbackV4(v4)) return Destination.Loopback;
    if (isMartianV4(v4)) return Destination.Reserved;
    if (isLinkLocalV4(v4)) return Destination.LinkLocal;
    if (!this.network.contains(v4)) return Destination.Outside;
    return v4 === this.network.broadcast && this.network.prefix < 31 ? Destination.Broadcast : Destination.Unused;
  }
}

function classifyV6(a: IpAddress): Destination {
  if (a.w0 >>> 24 === 0xff) return Destination.Multicast;
  if (a.w0 >>> 22 === 0x3fa) return Destination.LinkLocal;
  if (a.w0 === 0 && a.w1 === 0 && a.w2 === 0 && (a.w3 === 0 || a.w3 === 1)) {
    return a.w3 === 1 ? Destination.Loopback : Destination.Reserved;
  }
  return Destination.Outside;
}

/** How a TCP flow to such a destination is refused; undefined if it may be dialled. A gateway port without a service: RST. */
export function refusalOf(kind: Destination): RefuseReason | undefined {
  switch (kind) {
    case Destination.Outside:
    case Destination.HostLoopback:
      return undefined;
    case Destination.Gateway:
      return RefuseReason.Refused;
    case Destination.Unused:
      return RefuseReason.HostUnreachable;
    case Destination.LinkLocal:
      return RefuseReason.Prohibited;
    case Destination.Loopback:
    case Destination.Multicast:
    case Destination.Broadcast:
    case Destination.Reserved:
      return RefuseReason.NetUnreachable;
  }
}
