// Where an answer comes from, in order: the names of isthmus itself, the host's hosts file, then upstream.
// Each decision carries its source, so that it can be printed.

import { type IpAddress, isLoopbackV4 } from '../ip/address.ts';
import { type Hosts, NO_HOSTS } from './hosts.ts';
import { CHANGING_TTL_SEC, LOOPBACK_V6, type LocalAnswer, type LocalNames, Source } from './local-names.ts';
import { reverseAddress } from './reverse.ts';

export class Policy {
  readonly #local: LocalNames;
  #hosts: Hosts = NO_HOSTS;
  #hostsVersion = 0;

  constructor(local: LocalNames) {
    this.#local = local;
  }

  /** Changes whenever `lookup` may decide otherwise than before. */
  get version(): number {
    return this.#local.version + this.#hostsVersion;
  }

  setHosts(hosts: Hosts): void {
    this.#hosts = hosts;
    // A stride that no count of lease changes makes up by chance between two versions that are compared.
    this.#hostsVersion += 0x1_0000_0000;
  }

  /** @param name lower case, without trailing dot. @returns undefined: ask upstream. */
  lookup(name: string): LocalAnswer | undefined {
    return this.#local.lookup(name) ?? this.#fromHosts(name);
  }

  /** What the host itself calls loopback is the host, which the guest reaches by the host alias. */
  seenByGuest(listed: readonly IpAddress[]): readonly IpAddress[] {
    if (!listed.some(isLoopback)) return listed;
    const out: IpAddress[] = [];
    for (const a of listed) {
      for (const b of isLoopback(a) ? this.#local.hostAlias.filter((h) => h.family === a.family) : [a]) {
        if (!out.some((o) => o.equals(b))) out.push(b);
      }
    }
    return out;
  }

  #fromHosts(name: string): LocalAnswer | undefined {
    const listed = this.#hosts.addresses.get(name);
    if (listed !== undefined) {
      return {
        source: Source.Hosts,
        addresses: this.seenByGuest(listed),
        names: [],
        ttlSec: CHANGING_TTL_SEC,
        exists: true,
      };
    }
    if (!name.endsWith('.arpa')) return undefined;
    const address = reverseAddress(name);
    // The host's loopback entries (127.0.1.1 laptop) say nothing about the guest's own loopback.
    if (address === undefined || isLoopback(address)) return undefined;
    const names = this.#hosts.names.get(address.toString());
    if (names === undefined) return undefined;
    return { source: Source.Hosts, addresses: [], names, ttlSec: CHANGING_TTL_SEC, exists: true };
  }
}

export function isLoopback(a: IpAddress): boolean {
  return a.isV4 ? isLoopbackV4(a.v4) : a.equals(LOOPBACK_V6);
}
