// Names that isthmus itself knows: the host alias, the gateway, localhost, and every VM by its DHCP host name; forward and reverse.
// It owns no records of others: the hosts file and upstreams come after it, see `policy`. RFC 6761 6.3, RFC 6303.

import { type Cidr4, IpAddress } from '../ip/address.ts';
import { reverseAddress } from './reverse.ts';

/** VMs by their DHCP host names; implemented by whoever keeps the leases. */
export interface GuestNames {
  /** Changes whenever an answer of this interface may have changed. */
  readonly version: number;
  /** @param host one label, lower case. */
  addressOf(host: string): IpAddress | undefined;
  hostOf(address: IpAddress): string | undefined;
}

/** Names and zones that were added while the daemon runs; implemented by `zones`. */
export interface LocalZones {
  /** Changes whenever an answer of this interface may have changed. */
  readonly version: number;
  /** A record of this very name. */
  lookup(name: string): LocalAnswer | undefined;
  /** What holds for every other name of a zone. */
  fallback(name: string): LocalAnswer | undefined;
  namesOf(address: IpAddress): readonly string[];
}

/** Where an answer came from; printed. */
export const Source = {
  Localhost: 'localhost',
  Zone: 'zone',
  HostAlias: 'host-alias',
  Gateway: 'gateway',
  Guest: 'guest',
  OwnDomain: 'own-domain',
  Hosts: 'hosts-file',
} as const;
export type Source = (typeof Source)[keyof typeof Source];

/** What is known locally of a name. With neither addresses nor names, it exists without data of any type (NODATA). */
export interface LocalAnswer {
  readonly source: Source;
  readonly addresses: readonly IpAddress[];
  /** Targets of PTR records, text. */
  readonly names: readonly string[];
  readonly ttlSec: number;
  /** False: the name does not exist, and nobody else may say otherwise. */
  readonly exists: boolean;
}

export interface LocalNamesOptions {
  readonly gateway: readonly IpAddress[];
  readonly hostAlias: readonly IpAddress[];
  /** The network whose reverse names are answered here, never asked upstream. */
  readonly network?: Cidr4;
  /** The domain that VMs live in besides their bare names; empty for none. */
  readonly domain: string;
  readonly guests: GuestNames;
  readonly zones?: LocalZones | undefined;
  /** In place of the names that images know; the first is the PTR's. */
  readonly hostNames?: readonly string[];
  readonly gatewayNames?: readonly string[];
}

/** Ours alone: what is not known below it does not exist. */
export const OWN_DOMAIN = 'isthmus.internal';
/** Names that existing images use for the host. */
export const HOST_NAMES: readonly string[] = [
  'host.isthmus.internal',
  'host.docker.internal',
  'docker.for.mac.host.internal',
  'docker.for.mac.localhost',
  'docker.for.win.host.internal',
  'docker.for.win.localhost',
  'host.containers.internal',
  'host.lima.internal',
];
export const GATEWAY_NAMES: readonly string[] = [
  'gateway.isthmus.internal',
  'gateway.docker.internal',
  'gateway.containers.internal',
];
const LOCALHOST_NAMES: ReadonlySet<string> = new Set([
  'localhost',
  'localhost.localdomain',
  'ip6-localhost',
  'ip6-loopback',
]);
/** A VM must not become these for the others: programs trust them blindly. */
const RESERVED_HOSTS: ReadonlySet<string> = new Set(['localhost', 'wpad', 'isatap']);

/** Fixed for the life of the process. */
const FIXED_TTL_SEC = 60;
/** Leases and files change: guests must not hold on to them. */
export const CHANGING_TTL_SEC = 1;

export const LOOPBACK_V4: IpAddress = IpAddress.v4(0x7f000001);
export const LOOPBACK_V6: IpAddress = new IpAddress(0, 0, 0, 1);

export class LocalNames {
  readonly hostAlias: readonly IpAddress[];
  readonly #gateway: readonly IpAddress[];
  readonly #network: Cidr4 | undefined;
  readonly #domain: string;
  readonly #guests: GuestNames;
  readonly #zones: LocalZones | undefined;
  readonly #fixed = new Map<string, Source>();
  readonly #hostName: string;
  readonly #gatewayName: string;

  constructor(options: LocalNamesOptions) {
    this.hostAlias = options.hostAlias;
    this.#gateway = options.gateway;
    this.#network = options.network;
    this.#domain = options.domain.toLowerCase().replace(/\.$/, '');
    this.#guests = options.guests;
    this.#zones = options.zones;
    const hostNames = options.hostNames ?? HOST_NAMES;
    const gatewayNames = options.gatewayNames ?? GATEWAY_NAMES;
    for (const n of gatewayNames) this.#fixed.set(n.toLowerCase(), Source.Gateway);
    for (const n of hostNames) this.#fixed.set(n.toLowerCase(), Source.HostAlias);
    this.#hostName = hostNames[0] ?? HOST_NAMES[0]!;
    this.#gatewayName = gatewayNames[0] ?? GATEWAY_NAMES[0]!;
  }

  get version(): number {
    // Both only grow, so their sum is never what it was before.
    return this.#guests.version + (this.#zones?.version ?? 0);
  }

  /** @param name lower case, without trailing dot. @returns undefined if the name is not ours. */
  lookup(name: string): LocalAnswer | undefined {
    if (LOCALHOST_NAMES.has(name)) return answer(Source.Localhost, [LOOPBACK_V4, LOOPBACK_V6], [], FIXED_TTL_SEC);
    // What the operator has added goes before what is built in, but for localhost.
    const zoned = this.#zones?.lookup(name);
    if (zoned !== undefined) return zoned;
    const fixed = this.#fixed.get(name);
    if (fixed !== undefined) {
      return answer(fixed, fixed === Source.HostAlias ? this.hostAlias : this.#gateway, [], FIXED_TTL_SEC);
    }
    // After the built-in names: docker.for.mac.localhost is one of them.
    if (name.endsWith('.localhost')) {
      return answer(Source.Localhost, [LOOPBACK_V4, LOOPBACK_V6], [], FIXED_TTL_SEC);
    }
    const guest = this.#guest(name);
    if (guest !== undefined) return answer(Source.Guest, [guest], [], CHANGING_TTL_SEC);
    if (name.endsWith('.arpa')) return this.#reverse(name);
    const fallback = this.#zones?.fallback(name);
    if (fallback !== undefined) return fallback;
    if (name === OWN_DOMAIN) return answer(Source.OwnDomain, [], [], FIXED_TTL_SEC);
    if (name.endsWith(`.${OWN_DOMAIN}`)) return missing();
    return undefined;
  }

  #guest(name: string): IpAddress | undefined {
    let host = name;
    const dot = name.indexOf('.');
    if (dot >= 0) {
      const domain = name.slice(dot + 1);
      if (domain !== OWN_DOMAIN && (domain !== this.#domain || domain === '')) return undefined;
      host = name.slice(0, dot);
    }
    return host === '' || RESERVED_HOSTS.has(host) ? undefined : this.#guests.addressOf(host);
  }

  #reverse(name: string): LocalAnswer | undefined {
    const address = reverseAddress(name);
    if (address === undefined) return undefined;
    if (address.equals(LOOPBACK_V4) || address.equals(LOOPBACK_V6)) {
      return answer(Source.Localhost, [], ['localhost'], FIXED_TTL_SEC);
    }
    const zoned = this.#zones?.namesOf(address) ?? [];
    if (zoned.length > 0) return answer(Source.Zone, [], zoned, CHANGING_TTL_SEC);
    const is = (a: IpAddress): boolean => a.equals(address);
    if (this.hostAlias.some(is)) return answer(Source.HostAlias, [], [this.#hostName], FIXED_TTL_SEC);
    if (this.#gateway.some(is)) return answer(Source.Gateway, [], [this.#gatewayName], FIXED_TTL_SEC);
    const host = this.#guests.hostOf(address)?.toLowerCase();
    if (host !== undefined && host !== '' && !RESERVED_HOSTS.has(host)) {
      return answer(Source.Guest, [], [`${host}.${this.#domain === '' ? OWN_DOMAIN : this.#domain}`], CHANGING_TTL_SEC);
    }
    return address.isV4 && this.#network?.contains(address.v4) === true ? missing() : undefined;
  }
}

function answer(
  source: Source,
  addresses: readonly IpAddress[],
  names: readonly string[],
  ttlSec: number,
): LocalAnswer {
  return { source, addresses, names, ttlSec, exists: true };
}

function missing(): LocalAnswer {
  return { source: Source.OwnDomain, addresses: [], names: [], ttlSec: CHANGING_TTL_SEC, exists: false };
}
