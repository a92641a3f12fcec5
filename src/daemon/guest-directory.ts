// Which address a guest has now, by the ways of naming one: its address, its MAC, its DHCP host name, or "the only VM". It reads what the
// stack and the leases know, and keeps nothing.

import type { Clock } from '../base/clock.ts';
import { equalMac } from '../ethernet/mac.ts';
import type { Neighbour } from '../ethernet/neighbours.ts';
import type { GuestDirectory as Directory } from '../forwarder/guest-stream.ts';
import { IpAddress, parseV4 } from '../ip/address.ts';
import type { Leases } from '../services/leases.ts';
import type { Stack } from '../stack/stack.ts';

export class GuestDirectory implements Directory {
  readonly #stack: Pick<Stack, 'neighbours' | 'ports'>;
  readonly #leases: Leases;
  readonly #clock: Clock;

  constructor(stack: Pick<Stack, 'neighbours' | 'ports'>, leases: Leases, clock: Clock) {
    this.#stack = stack;
    this.#leases = leases;
    this.#clock = clock;
  }

  find(guest: string | undefined): IpAddress | undefined {
    if (guest === undefined) return this.#only();
    const address = parseV4(guest);
    if (address !== undefined) return IpAddress.v4(address);
    return guest.includes(':') ? this.#byMac(guest) : this.#byName(guest);
  }

  #byName(name: string): IpAddress | undefined {
    return this.#leases.names.addressOf(name);
  }

  /** The leased address of a MAC; of a guest without lease the one that it speaks from, if it is one. */
  #byMac(mac: string): IpAddress | undefined {
    const heard = this.#known().filter((n) => macText(n.mac) === mac);
    const now = this.#clock.now();
    const leased = [...this.#leases.values()].filter((l) => l.macText === mac && l.bound && l.active(now));
    const both = leased.find((l) => heard.some((n) => n.ip === l.address));
    if (both !== undefined) return IpAddress.v4(both.address);
    if (heard.length === 1) return IpAddress.v4(heard[0]!.ip);
    return leased.length === 1 ? IpAddress.v4(leased[0]!.address) : undefined;
  }

  /** The address of the only VM, while there is exactly one. Never that of one of several, whatever is known of them. */
  #only(): IpAddress | undefined {
    const links = this.#linksOfOnly();
    if (links === undefined) return undefined;
    const known = this.#known()
      .filter((n) => links.has(n.portId))
      .map((n) => n.ip);
    const now = this.#clock.now();
    const leases = [...this.#leases.values()].filter((l) => l.bound && l.active(now));
    const ownOnes = leases.filter((l) => links.has(l.vmId));
    // After a restart a lease is back, and its VM, before that VM has said a word: then it is nobody else's.
    const leased = (ownOnes.length > 0 ? ownOnes : leases.filter((l) => l.vmId === 0)).map((l) => l.address);
    // A VM may hold more addresses than its own (containers on a bridge): the leased one is meant.
    const both = known.filter((ip) => leased.includes(ip));
    const candidates = known.length === 1 ? known : both.length > 0 ? both : known.length === 0 ? leased : [];
    return candidates.length === 1 ? IpAddress.v4(candidates[0]!) : undefined;
  }

  /** VMs that are connected. Links to which a handshake gave one MAC are one VM's. */
  get vms(): number {
    const macs = new Set<string>();
    let plain = 0;
    for (const { info } of this.#stack.ports.values()) {
      if (info.mac === undefined) plain++;
      else macs.add(macText(info.mac));
    }
    return plain + macs.size;
  }

  /** The numbers of the links of the only VM; undefined if there is none, or more than one. */
  #linksOfOnly(): ReadonlySet<number> | undefined {
    const links = new Set<number>();
    let first: Uint8Array | undefined;
    for (const { id, info } of this.#stack.ports.values()) {
      if (links.size === 0) first = info.mac;
      else if (first === undefined || info.mac === undefined || !equalMac(first, 0, info.mac, 0)) return undefined;
      links.add(id);
    }
    return links.size === 0 ? undefined : links;
  }

  /** Addresses that were heard on a link that is up. */
  #known(): Neighbour[] {
    return [...this.#stack.neighbours.entries()].filter((n) => n.usable && this.#stack.ports.has(n.portId));
  }
}

function macText(mac: Uint8Array): string {
  return Array.from(mac, (b) => b.toString(16).padStart(2, '0')).join(':');
}
