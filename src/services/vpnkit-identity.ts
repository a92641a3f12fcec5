// The identity of a VM that connects by the VPNKit handshake: its UUID gives it a MAC and an IPv4 address, the same ones every
// time, also while an earlier connection of that UUID is still open. MACs are 02:50 and the client number (big endian, from 1 up).
// Addresses come from the lease table, so that DHCP gives exactly the address of the handshake.
// It knows no bytes of the handshake: `link/handshake` reads the UUID's text and writes the answer.

import { getU8, setU32 } from '../base/bytes.ts';
import type { Millis } from '../base/clock.ts';
import type { Random } from '../base/random.ts';
import { formatV4 } from '../ip/address.ts';
import { formatMac, hexText } from './client-key.ts';
import type { Leases } from './leases.ts';

/** Answer to a handshake. `reason` is at most 255 ASCII characters, fit for a Disconnect. */
export type IdentityResult =
  | { readonly ok: true; readonly uuid: string; readonly mac: Uint8Array; readonly address: number }
  | { readonly ok: false; readonly invalid: boolean; readonly reason: string };

/** Identities as stored: plain JSON data. The addresses are with the leases. */
export interface IdentityData {
  readonly nextNumber: number;
  readonly identities: readonly { readonly uuid: string; readonly number: number }[];
}

interface Identity {
  readonly uuid: string;
  readonly number: number;
  readonly mac: Uint8Array;
  readonly macText: string;
  /** Made for the NUL UUID: nobody can come back as it. */
  readonly ephemeral: boolean;
  connections: number;
}

/** UUIDs remembered at most; beyond it the one that was seen longest ago and is not connected is forgotten. */
export const MAX_IDENTITIES = 4096;
const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;

export class VpnkitIdentities {
  readonly #leases: Leases;
  readonly #random: Random;
  readonly #byUuid = new Map<string, Identity>();
  #nextNumber = 1;
  /** Identities forgotten because there were too many. */
  forgotten = 0;

  constructor(leases: Leases, random: Random) {
    this.#leases = leases;
    this.#random = random;
  }

  /**
   * Who the VM with this UUID is. Every success is paired with one `disconnected`.
   * @param uuidText 36 characters; all NUL (or empty) for "make one up".
   * @param preferred int32 address that the VM asks for, undefined if it does not.
   */
  identify(uuidText: string, preferred: number | undefined, now: Millis): IdentityResult {
    let none = true;
    for (let i = 0; i < uuidText.length; i++) if (uuidText.charCodeAt(i) !== 0) none = false;
    const uuid = none ? this.#randomUuid() : uuidText.toLowerCase();
    if (!UUID.test(uuid)) return { ok: false, invalid: true, reason: 'the UUID is not one' };
    const known = this.#byUuid.get(uuid);
    const identity = known ?? this.#make(uuid, this.#nextNumber, none);
    if (identity === undefined) return { ok: false, invalid: false, reason: 'too many VMs are connected' };
    // Last in the map is seen last; and in it before `reserve`, whose change is to be stored with it.
    this.#byUuid.delete(uuid);
    this.#byUuid.set(uuid, identity);
    const numberBefore = this.#nextNumber;
    if (known === undefined) this.#nextNumber++;
    const address = this.#leases.reserve(identity.mac, identity.macText, preferred, now);
    if (typeof address !== 'number') {
      if (known === undefined) {
        this.#byUuid.delete(uuid);
        this.#nextNumber = numberBefore;
      }
      return { ok: false, invalid: false, reason: this.#reason(address, identity, preferred) };
    }
    identity.connections++;
    return { ok: true, uuid, mac: identity.mac, address };
  }

  /** One connection of `uuid` (as `identify` gave it) has ended. Its address stays its own while there is room for all. */
  disconnected(uuid: string, now: Millis): void {
    const identity = this.#byUuid.get(uuid);
    if (identity === undefined || identity.connections === 0) return;
    identity.connections--;
    if (identity.ephemeral && identity.connections === 0) this.#byUuid.delete(uuid);
    this.#leases.unpin(identity.macText, identity.ephemeral, now);
  }

  get size(): number {
    return this.#byUuid.size;
  }

  serialise(): IdentityData {
    const identities: { uuid: string; number: number }[] = [];
    for (const i of this.#byUuid.values()) if (!i.ephemeral) identities.push({ uuid: i.uuid, number: i.number });
    return { nextNumber: this.#nextNumber, identities };
  }

  /** Takes stored identities in, before the first VM. @returns how many could not be used. */
  restore(data: unknown): number {
    if (typeof data !== 'object' || data === null) return 1;
    const { nextNumber, identities } = data as Partial<Record<string, unknown>>;
    if (isClientNumber(nextNumber)) this.#nextNumber = Math.max(this.#nextNumber, nextNumber);
    if (!Array.isArray(identities)) return 1;
    const numbers = new Set<number>();
    for (const i of this.#byUuid.values()) numbers.add(i.number);
    let refused = 0;
    for (const item of identities as readonly unknown[]) {
      const { uuid, number } = (typeof item === 'object' && item !== null ? item : {}) as Partial<
        Record<string, unknown>
      >;
      const usable =
        typeof uuid === 'string' &&
        UUID.test(uuid) &&
        isClientNumber(number) &&
        !numbers.has(number) &&
        !this.#byUuid.has(uuid) &&
        this.#byUuid.size < MAX_IDENTITIES;
      const identity = usable ? this.#make(uuid, number, false) : undefined;
      if (identity === undefined) {
        refused++;
        continue;
      }
      numbers.add(identity.number);
      this.#byUuid.set(identity.uuid, identity);
      this.#nextNumber = Math.max(this.#nextNumber, identity.number + 1);
    }
    return refused;
  }

  #make(uuid: string, number: number, ephemeral: boolean): Identity | undefined {
    if (number > 0xffff_ffff) return undefined;
    if (this.#byUuid.size >= MAX_IDENTITIES && !this.#forgetOldest()) return undefined;
    const mac = Uint8Array.of(0x02, 0x50, 0, 0, 0, 0);
    setU32(mac, 2, number);
    return { uuid, number, mac, macText: formatMac(mac, 0), ephemeral, connections: 0 };
  }

  #forgetOldest(): boolean {
    for (const i of this.#byUuid.values()) {
      if (i.connections > 0) continue;
      this.#byUuid.delete(i.uuid);
      this.forgotten++;
      return true;
    }
    return false;
  }

  #reason(failure: 'tied' | 'outside' | 'in-use' | 'exhausted', identity: Identity, preferred = 0): string {
    const wanted = formatV4(preferred);
    const { pool } = this.#leases;
    switch (failure) {
      case 'tied': {
        const has = this.#leases.addressOfMac(identity.macText);
        return `this UUID already has the address ${has === undefined ? 'of a fixed lease' : formatV4(has)}, not the preferred ${wanted}`;
      }
      case 'outside':
        return `the preferred address ${wanted} is outside ${formatV4(pool.first | 0)} to ${formatV4(pool.last | 0)}`;
      case 'in-use':
        return `the preferred address ${wanted} is in use`;
      case 'exhausted':
        return `no address is left in ${pool.network}`;
    }
  }

  /** Version 4, RFC 9562 5.4. */
  #randomUuid(): string {
    const b = new Uint8Array(16);
    for (let i = 0; i < 16; i += 4) setU32(b, i, this.#random.i32());
    b[6] = (getU8(b, 6) & 0x0f) | 0x40;
    b[8] = (getU8(b, 8) & 0x3f) | 0x80;
    const h = hexText(b, 0, 16);
    return `${h.slice(0, 8)}-${h.slice(8, 12)}-${h.slice(12, 16)}-${h.slice(16, 20)}-${h.slice(20)}`;
  }
}

function isClientNumber(v: unknown): v is number {
  return typeof v === 'number' && Number.isInteger(v) && v > 0 && v <= 0xffff_ffff;
}
