// What a guest may reach by way of a proxy: the same as without one. The host's loopback by the host alias only, no link-local address (the
// cloud's metadata service), nothing of isthmus itself; also where a name hides the address.

import type { Clock } from '../base/clock.ts';
import { Destination, type Destinations, refusalOf } from '../forwarder/destination.ts';
import { type IpAddress, parseAddress } from '../ip/address.ts';
import { lookUp, type NameServer } from './name-lookup.ts';
import { type Refusal, RefusalCause, refusal } from './refusal.ts';
import type { Route } from './upstream.ts';

export interface ReachOptions {
  readonly destinations: Destinations;
  readonly names: NameServer;
  /** Addresses that isthmus itself answers for a name, undefined where upstream servers are asked; forwarder's policy fits. */
  readonly local: (name: string) => readonly IpAddress[] | undefined;
  readonly clock: Clock;
}

/** A destination as a guest names it. */
export interface Place {
  /** Lower case, without a dot at its end; undefined for a literal address. */
  readonly name: string | undefined;
  readonly address: IpAddress | undefined;
  /** One or the other, as text. */
  readonly host: string;
  /** Only isthmus knows it (the host alias, a VM): never a proxy's to resolve. */
  readonly inside: boolean;
}

export class Reach {
  readonly #options: ReachOptions;

  constructor(options: ReachOptions) {
    this.#options = options;
  }

  /** Reads the host of a URL or of a CONNECT. @returns a refusal for what no guest may reach. */
  place(text: string): Place | Refusal {
    const canonical = canonicalHost(text);
    if (canonical === undefined)
      return refusal(RefusalCause.Destination, 400, `"${text.slice(0, 100)}" is no host name`);
    const address = parseAddress(canonical);
    if (address !== undefined) {
      const wrong = this.#wrong(address, canonical);
      return wrong ?? { name: undefined, address, host: canonical, inside: this.#isInside(address) };
    }
    const local = this.#options.local(canonical) ?? [];
    const isLoopback = (one: IpAddress): boolean => this.#options.destinations.classify(one) === Destination.Loopback;
    if (canonical === 'localhost' || local.some(isLoopback))
      return forbidden(canonical, "it would be the proxy's own host, not the guest; the host has names of its own");
    const inside = local.some((one) => this.#isInside(one));
    return { name: canonical, address: undefined, host: canonical, inside };
  }

  /** Literal addresses to dial for a place, or why there are none. */
  async addresses(place: Place, vmId: number): Promise<readonly string[] | Refusal> {
    const { names, clock, destinations } = this.#options;
    const { name, host } = place;
    const known = place.address === undefined ? [] : [place.address];
    if (name !== undefined) {
      const found = this.#options.local(name) ?? (await lookUp(names, clock, name, vmId));
      const { addresses, failed } = 'failed' in found ? found : { addresses: found, failed: false };
      known.push(...addresses);
      if (known.length === 0) {
        const why = failed ? 'its name cannot be resolved now' : 'no such name';
        return refusal(RefusalCause.Unreachable, 502, `${host} cannot be reached: ${why}`);
      }
    }
    const allowed = known.filter((address) => this.#wrong(address, host) === undefined);
    if (allowed.length === 0) return this.#wrong(known[0]!, host)!;
    return allowed.map((address) => destinations.dialAddress(address, destinations.classify(address)).toString());
  }

  /**
   * A name is the proxy's to resolve. One on the host itself would reach the host's loopback for who makes a name point there, so what
   * the name stands for is looked at first; a name that only the proxy knows passes.
   */
  async vet(routes: readonly Route[], place: Place, vmId: number): Promise<Refusal | undefined> {
    if (place.name === undefined || place.inside || !routes.some(isOnHost)) return undefined;
    const found = await this.addresses(place, vmId);
    return 'cause' in found && found.cause === RefusalCause.Forbidden ? found : undefined;
  }

  #isInside(address: IpAddress): boolean {
    const kind = this.#options.destinations.classify(address);
    return kind !== Destination.Outside;
  }

  #wrong(address: IpAddress, host: string): Refusal | undefined {
    const { destinations } = this.#options;
    const kind = destinations.classify(mappedV4(address));
    if (kind === Destination.Gateway) return forbidden(host, 'it is isthmus itself');
    if (kind === Destination.Unused)
      return forbidden(host, 'it is an address of the VMs, who reach each other directly');
    return refusalOf(kind) === undefined ? undefined : forbidden(host, 'no guest may reach this address');
  }
}

function isOnHost(route: Route): boolean {
  return route.kind !== 'direct' && (route.host === 'localhost' || /^127\./.test(route.host) || route.host === '::1');
}

function forbidden(host: string, why: string): Refusal {
  return refusal(RefusalCause.Forbidden, 403, `there is no way to ${host}: ${why}`);
}

/** Addresses that IPv6 has for an IPv4 one are judged as that: `::127.0.0.1` (RFC 4291 2.5.5.1), 64:ff9b::/96 and 2002::/16. */
function mappedV4(address: IpAddress): IpAddress {
  if (address.isV4) return address;
  const { w0, w1, w2, w3 } = address;
  const embedded = (w0 === 0 && w1 === 0 && w2 === 0 && w3 >>> 0 > 1) || (w0 === 0x0064ff9b && w1 === 0 && w2 === 0);
  if (embedded) return parseAddress(dotted(w3))!;
  return w0 >>> 16 === 0x2002 ? parseAddress(dotted((w0 << 16) | (w1 >>> 16)))! : address;
}

function dotted(v: number): string {
  return [v >>> 24, (v >>> 16) & 255, (v >>> 8) & 255, v & 255].join('.');
}

/**
 * A host as everybody will read it: lower case, without brackets and final dot. `127.1`, `0x7f000001` and `2130706433` are an address to
 * most programs, and so they are here.
 */
export function canonicalHost(text: string): string | undefined {
  const bare = text.replace(/^\[(.*)\]$/, '$1');
  const address = parseAddress(bare);
  if (address !== undefined) return address.toString();
  if (bare.includes(':') || bare === '' || bare.length > 254) return undefined;
  try {
    const host = new URL(`http://${bare}/`).hostname.replace(/\.$/, '');
    return /^[a-z0-9_][a-z0-9._-]*$/.test(host) ? host : undefined;
  } catch {
    return undefined;
  }
}
