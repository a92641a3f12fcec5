// The names that guests give themselves in DHCP option 12, made safe for DNS: one LDH label each (RFC 952, RFC 1123 2.1), lower
// case, first come first served. A hostile guest may not take a name that others act upon without asking for it.
// Fits the `GuestNames` of dns by structure.

import type { Millis } from '../base/clock.ts';
import { IpAddress } from '../ip/address.ts';

/** Names that clients look up by themselves or that mean the machine itself. */
const RESERVED: ReadonlySet<string> = new Set(['localhost', 'wpad', 'isatap', 'broadcasthost', 'ip6-localhost']);

/** What a name hangs on: a lease. */
export interface Named {
  /** The name it has, or ''. Written here only. */
  hostName: string;
  /** int32. */
  readonly address: number;
  active(now: Millis): boolean;
}

/**
 * The label of a host name: its first label if all of it is well formed, without trailing NULs or dot.
 * @returns undefined for anything else, for numbers, also hexadecimal ones (they read as addresses), and for reserved names.
 */
export function hostLabel(text: string): string | undefined {
  let end = text.length;
  while (end > 0 && text.charCodeAt(end - 1) === 0) end--;
  const name = text.slice(0, end).replace(/\.$/, '');
  if (name.length === 0 || name.length > 253) return undefined;
  const labels = name.toLowerCase().split('.');
  if (!labels.every((l) => /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/.test(l))) return undefined;
  const label = labels[0]!;
  return /^([0-9]+|0x[0-9a-f]*)$/.test(label) || RESERVED.has(label) ? undefined : label;
}

/** Name to lease and back. An expired lease keeps its name until somebody else wants it, or the address. */
export class GuestNames {
  /** Changes whenever a name does. */
  version = 0;
  /** Names that were not taken: not a host name, or held by a running lease. */
  refused = 0;
  conflicts = 0;
  readonly #byName = new Map<string, Named>();
  readonly #byAddress = new Map<number, Named>();

  /** @param host one label, any case. */
  addressOf(host: string): IpAddress | undefined {
    const address = this.lookupName(host);
    return address === undefined ? undefined : IpAddress.v4(address);
  }

  hostOf(address: IpAddress): string | undefined {
    return address.isV4 ? this.nameOf(address.v4) : undefined;
  }

  /** Like `addressOf`, as int32. */
  lookupName(host: string): number | undefined {
    return this.#byName.get(host.toLowerCase())?.address;
  }

  /** Like `hostOf`, of an int32. */
  nameOf(address: number): string | undefined {
    return this.#byAddress.get(address | 0)?.hostName;
  }

  /** Gives `lease` the name in `text` (raw option 12) if it is one and free; else it keeps what it had. */
  claim(lease: Named, text: string, now: Millis): void {
    const label = hostLabel(text);
    if (label === undefined) {
      this.refused++;
      return;
    }
    if (label === lease.hostName) return;
    const holder = this.#byName.get(label);
    if (holder?.active(now)) {
      this.conflicts++;
      return;
    }
    if (holder !== undefined) this.drop(holder);
    this.drop(lease);
    lease.hostName = label;
    this.#byName.set(label, lease);
    this.#byAddress.set(lease.address, lease);
    this.version++;
  }

  /** The lease has no name any more. */
  drop(lease: Named): void {
    if (lease.hostName === '') return;
    this.#byName.delete(lease.hostName);
    this.#byAddress.delete(lease.address);
    lease.hostName = '';
    this.version++;
  }
}
