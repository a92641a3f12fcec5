// Who holds which address: one record a client, remembered for ever so that a client gets its address again, until the pool
// is exhausted; then the one that expired longest ago is reused. DHCP and the VPNKit identities share it (RFC 2131 2.1, 3.1).
// It knows neither messages nor files: `serialise` and `restore` speak plain data, times as what remains of them.
//
// Everything is bounded: records, offers of one VM, quarantined addresses. Each limit has a counter.

import { type Millis, NEVER } from '../base/clock.ts';
import { formatV4, parseV4 } from '../ip/address.ts';
import { AddressPool, type AddressPoolOptions } from './address-pool.ts';
import { isClientKey, parseMac } from './client-key.ts';
import { GuestNames } from './guest-names.ts';

export interface LeasesOptions extends AddressPoolOptions {
  /** Longest time a lease is granted for. */
  readonly leaseMs: number;
  /** How long an offer waits for its request; 60 s if not given. */
  readonly offerMs?: number;
  /** How long a declined address is not used; 10 min if not given. */
  readonly quarantineMs?: number;
  /** Records kept at most; 4,096 if not given. Fixed leases count on top. */
  readonly maxRecords?: number;
  /** Addresses one VM may hold at once; if not given, 1,024 and never the last sixteenth of the pool, so that others get one. */
  readonly maxPerVm?: number;
}

/** Who asks: the VM's link, the MAC, and the key of option 61 ('' if there is none). */
export interface LeaseClient {
  readonly vmId: number;
  /** 6 bytes; copied where kept. */
  readonly mac: Uint8Array;
  readonly macText: string;
  readonly idKey: string;
}

/** A record as it is stored: plain JSON data. */
export interface LeaseRecord {
  readonly client: string;
  readonly mac: string;
  readonly address: string;
  readonly hostName: string;
  /** What is left of the lease; negative since it expired. */
  readonly remainingMs: number;
  /** True for the address of a VPNKit identity. */
  readonly identity: boolean;
}

/** One client's address. Fields are the table's to write. */
export class Lease {
  readonly key: string;
  readonly address: number;
  mac: Uint8Array;
  macText: string;
  /** The name it has in DNS, or ''. */
  hostName = '';
  expiresAt: Millis;
  /** False while it was only offered: then nothing is remembered of it. */
  bound = false;
  identity = false;
  readonly fixed: boolean;
  /** Open connections of a VPNKit identity: the address is its own while there are any. */
  pins = 0;
  /** The link it was last seen on; 0 when that is gone. */
  vmId = 0;

  constructor(key: string, address: number, mac: Uint8Array, macText: string, fixed: boolean, expiresAt: Millis) {
    this.key = key;
    this.address = address;
    this.mac = mac;
    this.macText = macText;
    this.fixed = fixed;
    this.expiresAt = expiresAt;
  }

  /** The address is in use, or offered. */
  active(now: Millis): boolean {
    return this.pins > 0 || this.expiresAt > now;
  }
}

/** What the table refused or had to do, counted. */
export class LeaseStats {
  exhausted = 0;
  vmLimited = 0;
  reused = 0;
  quarantined = 0;
  quarantineLimited = 0;
}

/** Why `reserve` gave no address. */
export type ReserveFailure = 'tied' | 'outside' | 'in-use' | 'exhausted';

export class Leases {
  readonly stats: LeaseStats = new LeaseStats();
  /** Host names of guests, for DNS. */
  readonly names: GuestNames = new GuestNames();
  readonly pool: AddressPool;
  readonly leaseMs: number;
  /** Called after every change that is worth storing. */
  onChange: () => void = () => {};
  readonly #offerMs: number;
  readonly #quarantineMs: number;
  readonly #maxQuarantined: number;
  readonly #maxRecords: number;
  readonly #maxPerVm: number;
  readonly #byKey = new Map<string, Lease>();
  readonly #byAddress = new Map<number, Lease>();
  /** Declined addresses and until when, oldest first. */
  readonly #quarantine = new Map<number, Millis>();

  constructor(options: LeasesOptions) {
    this.pool = new AddressPool(options);
    this.leaseMs = options.leaseMs;
    this.#offerMs = options.offerMs ?? 60_000;
    this.#quarantineMs = options.quarantineMs ?? 600_000;
    this.#maxRecords = options.maxRecords ?? 4096;
    const { size } = this.pool;
    this.#maxPerVm = options.maxPerVm ?? (size < 16 ? size + 1 : Math.min(1024, size - (size >>> 4)));
    // A guest that declines everything must not lock the others out: at most a quarter of the pool is ever quarantined.
    this.#maxQuarantined = Math.min(256, size >>> 2);
  }

  get size(): number {
    return this.#byKey.size;
  }

  /** What is known of a client, expired or not. A client with a fixed lease is always known. */
  find(client: LeaseClient, now: Millis): Lease | undefined {
    const key = this.#keyFor(client, now);
    const lease = this.#byKey.get(key);
    if (lease !== undefined) return lease;
    const fixed = this.pool.fixedOf(client.macText);
    if (fixed === undefined) return undefined;
    return this.#insert(new Lease(key, fixed, client.mac.slice(), client.macText, true, now));
  }

  /**
   * The address to offer: the client's own, else `requested` if it is free, else the lowest free one (RFC 2131 4.3.1).
   * It is held for the client until the offer expires.
   * @returns undefined if there is none for it; counted.
   */
  select(client: LeaseClient, requested: number | undefined, now: Millis): Lease | undefined {
    let lease = this.find(client, now);
    if (lease === undefined) {
      if (this.#vmFull(client, now)) return undefined;
      const wanted = requested !== undefined && this.#free(requested, now) ? requested : undefined;
      lease = this.#take(client, this.#keyFor(client, now), wanted, now);
      if (lease === undefined) return undefined;
    }
    this.#seen(lease, client);
    lease.expiresAt = Math.max(lease.expiresAt, now + this.#offerMs);
    return lease;
  }

  /**
   * Exactly `address` for a client that nothing is known of, because it says that it has it (a renewal after the lease file was lost).
   * @returns undefined if the address is not free.
   */
  claim(client: LeaseClient, address: number, now: Millis): Lease | undefined {
    if (!this.#free(address, now) || this.#vmFull(client, now)) return undefined;
    const lease = this.#take(client, this.#keyFor(client, now), address, now);
    if (lease !== undefined) lease.expiresAt = now + this.#offerMs;
    return lease;
  }

  /** Grants the lease for `ms`. `hostName` is the raw text of option 12, undefined if the client sent none. */
  bind(lease: Lease, client: LeaseClient, ms: number, hostName: string | undefined, now: Millis): void {
    this.#seen(lease, client);
    lease.bound = true;
    lease.expiresAt = now + ms;
    if (hostName !== undefined) this.names.claim(lease, hostName, now);
    this.onChange();
  }

  /**
   * Takes an address out of the pool, for a service of the network; what is remembered of whoever had it once is forgotten.
   * @returns false if a client has it, or always gets it.
   */
  setAside(address: number, now: Millis): boolean {
    const lease = this.#byAddress.get(address);
    if (this.pool.isFixed(address) || (lease !== undefined && (lease.identity || lease.active(now)))) return false;
    if (lease !== undefined) this.#remove(lease);
    this.pool.reserve(address);
    return true;
  }

  /** Clients may have the address again. */
  putBack(address: number): void {
    this.pool.unreserve(address);
  }

  /** The client took another server's offer: what was only offered is forgotten. */
  withdraw(lease: Lease): void {
    if (!lease.bound && lease.pins === 0) this.#remove(lease);
  }

  /** The client gave the address back: it keeps it in memory, its name is free. */
  release(lease: Lease, now: Millis): void {
    lease.expiresAt = Math.min(lease.expiresAt, now);
    this.names.drop(lease);
    this.onChange();
  }

  /**
   * The client found the address in use: nobody gets it for a while, and the client gets another.
   * A fixed or VPNKit address stays what it is, since the operator said so.
   */
  decline(lease: Lease, now: Millis): void {
    this.release(lease, now);
    if (lease.fixed || lease.identity) return;
    this.#remove(lease);
    if (this.#quarantine.size >= this.#maxQuarantined) {
      this.stats.quarantineLimited++;
      for (const oldest of this.#quarantine.keys()) {
        this.#quarantine.delete(oldest);
        break;
      }
    }
    if (this.#maxQuarantined > 0) this.#quarantine.set(lease.address, now + this.#quarantineMs);
    this.stats.quarantined++;
  }

  /** A link is gone: its leases stay, but another link may speak for them. */
  vmGone(vmId: number): void {
    for (const lease of this.#byKey.values()) if (lease.vmId === vmId) lease.vmId = 0;
  }

  /** Ties an address to a MAC for a VPNKit identity, and pins it until `unpin`. @returns int32 address, or why not. */
  reserve(mac: Uint8Array, macText: string, preferred: number | undefined, now: Millis): number | ReserveFailure {
    const client: LeaseClient = { vmId: 0, mac, macText, idKey: '' };
    let lease = this.find(client, now);
    if (lease !== undefined && preferred !== undefined && lease.address !== preferred) {
      // A plain DHCP record of old with this MAC gives way; an identity's address, or a fixed one, does not.
      if (lease.identity || lease.fixed || lease.active(now)) return 'tied';
      this.#remove(lease);
      lease = undefined;
    }
    if (lease === undefined) {
      if (preferred !== undefined) {
        if (!this.pool.inRange(preferred)) return 'outside';
        const holder = this.#byAddress.get(preferred);
        if (holder !== undefined && !holder.identity && !holder.fixed && !holder.active(now)) this.#remove(holder);
        if (!this.#free(preferred, now)) return 'in-use';
      }
      lease = this.#take(client, macText, preferred, now);
      if (lease === undefined) return 'exhausted';
    }
    lease.identity = true;
    lease.pins++;
    this.onChange();
    return lease.address;
  }

  /** One connection of an identity has ended. `forget` frees the address as well, if it was the last. */
  unpin(macText: string, forget: boolean, now: Millis): void {
    const lease = this.#byKey.get(macText);
    if (lease === undefined || lease.pins === 0) return;
    lease.pins--;
    if (lease.pins > 0) return;
    lease.expiresAt = Math.max(lease.expiresAt, now);
    if (forget) this.#remove(lease);
    this.onChange();
  }

  /** The address of a MAC without client identifier, if it is remembered. */
  addressOfMac(macText: string): number | undefined {
    return this.#byKey.get(macText)?.address;
  }

  /** Forgets a record that nobody uses: its address is free for others. */
  forget(address: number, now: Millis): 'removed' | 'unknown' | 'in-use' {
    const lease = this.#byAddress.get(address);
    if (lease === undefined) return 'unknown';
    if (lease.fixed || lease.active(now)) return 'in-use';
    this.#remove(lease);
    return 'removed';
  }

  /** Every record, for status. */
  values(): IterableIterator<Lease> {
    return this.#byKey.values();
  }

  /** What is worth storing. */
  serialise(now: Millis): LeaseRecord[] {
    const out: LeaseRecord[] = [];
    for (const l of this.#byKey.values()) {
      if (!l.bound && !l.identity) continue;
      out.push({
        client: l.key,
        mac: l.macText,
        address: formatV4(l.address),
        hostName: l.hostName,
        remainingMs: l.expiresAt - now,
        identity: l.identity,
      });
    }
    return out;
  }

  /** Takes stored records in, before the first message. @returns how many could not be used (not of this network, taken, malformed). */
  restore(records: readonly unknown[], now: Millis): number {
    let refused = 0;
    for (const record of records) if (!this.#restoreOne(record, now)) refused++;
    return refused;
  }

  #restoreOne(record: unknown, now: Millis): boolean {
    if (typeof record !== 'object' || record === null) return false;
    const { client, mac, address, hostName, remainingMs, identity } = record as Partial<Record<string, unknown>>;
    if (typeof client !== 'string' || !isClientKey(client) || typeof mac !== 'string') return false;
    if (typeof address !== 'string' || typeof remainingMs !== 'number' || Number.isNaN(remainingMs)) return false;
    const macBytes = parseMac(mac);
    const v4 = parseV4(address);
    if (macBytes === undefined || v4 === undefined || this.#byKey.has(client) || this.#byAddress.has(v4)) return false;
    const macText = mac.toLowerCase().replaceAll('-', ':');
    const fixed = this.pool.fixedOf(macText);
    if (fixed !== undefined ? client !== macText || fixed !== v4 : !this.pool.open(v4)) return false;
    if (fixed === undefined && this.pool.fixedOf(client) !== undefined) return false;
    if (fixed === undefined && this.#byKey.size >= this.#maxRecords) return false;
    // Never longer than a lease of today: the wall clock that this was computed with may have been set back.
    const remaining = Math.max(-Number.MAX_SAFE_INTEGER, Math.min(remainingMs, this.leaseMs));
    const lease = new Lease(client, v4, macBytes, macText, fixed !== undefined, now + remaining);
    lease.bound = true;
    lease.identity = identity === true;
    this.#insert(lease);
    if (typeof hostName === 'string' && hostName !== '') this.names.claim(lease, hostName, now);
    return true;
  }

  #keyFor(client: LeaseClient, now: Millis): string {
    const { macText, idKey } = client;
    if (idKey === '' || idKey === macText || this.pool.fixedOf(macText) !== undefined) return macText;
    if ((this.#byKey.get(macText)?.pins ?? 0) > 0) return macText;
    const own = `${idKey}@${macText}`;
    if (this.#byKey.has(own)) return own;
    // Somebody else's fixed or pinned address is not to be had by naming its MAC.
    if (this.pool.fixedOf(idKey) !== undefined) return own;
    const holder = this.#byKey.get(idKey);
    if (holder === undefined || holder.macText === macText) return idKey;
    if (holder.pins > 0) return own;
    // Two VMs cloned from one image send one identifier. Both alive on links of their own, they are two clients.
    const cloned = holder.vmId !== 0 && holder.vmId !== client.vmId && holder.active(now);
    return cloned ? own : idKey;
  }

  #seen(lease: Lease, client: LeaseClient): void {
    lease.vmId = client.vmId;
    if (lease.macText === client.macText) return;
    lease.mac = client.mac.slice();
    lease.macText = client.macText;
  }

  /** Nobody has it and nobody is remembered to have had it. */
  #free(address: number, now: Millis): boolean {
    if (!this.pool.open(address)) return false;
    const until = this.#quarantine.get(address);
    if (until !== undefined) {
      if (until > now) return false;
      this.#quarantine.delete(address);
    }
    const lease = this.#byAddress.get(address);
    return lease === undefined || (!lease.bound && !lease.identity && !lease.active(now));
  }

  #vmFull(client: LeaseClient, now: Millis): boolean {
    let held = 0;
    for (const l of this.#byKey.values()) if (l.vmId === client.vmId && l.active(now)) held++;
    if (held < this.#maxPerVm) return false;
    this.stats.vmLimited++;
    return true;
  }

  /** A new record on a free address: `wanted`, else the lowest, else that of the record that expired longest ago. */
  #take(client: LeaseClient, key: string, wanted: number | undefined, now: Millis): Lease | undefined {
    let address = wanted;
    if (this.#byKey.size >= this.#maxRecords && !this.#reuse(now)) return undefined;
    for (let a = this.pool.first; address === undefined && a <= this.pool.last; a++) {
      if (this.#free(a | 0, now)) address = a | 0;
    }
    address ??= this.#reuse(now)?.address;
    if (address === undefined) return undefined;
    const stale = this.#byAddress.get(address);
    if (stale !== undefined) this.#remove(stale);
    return this.#insert(new Lease(key, address, client.mac.slice(), client.macText, false, now));
  }

  /** Forgets the record that expired longest ago, offers first. @returns undefined, counted, if all are in use. */
  #reuse(now: Millis): Lease | undefined {
    let best: Lease | undefined;
    let bestAt = NEVER;
    for (const l of this.#byKey.values()) {
      if (l.fixed || l.active(now)) continue;
      const at = l.bound || l.identity ? l.expiresAt : -NEVER;
      if (best === undefined || at < bestAt) {
        best = l;
        bestAt = at;
      }
    }
    if (best === undefined) {
      this.stats.exhausted++;
      return undefined;
    }
    this.stats.reused++;
    this.#remove(best);
    return best;
  }

  #insert(lease: Lease): Lease {
    this.#byKey.set(lease.key, lease);
    this.#byAddress.set(lease.address, lease);
    return lease;
  }

  #remove(lease: Lease): void {
    this.names.drop(lease);
    this.#byKey.delete(lease.key);
    this.#byAddress.delete(lease.address);
    if (lease.bound || lease.identity) this.onChange();
  }
}
