// Which IPv4 addresses of the network guests may have: .3 up to the last before broadcast, without the gateway, the host alias
// and what `--lease` gives to one MAC alone. It owns the arithmetic; who holds what is in `leases`, and mistakes of the operator were
// refused when the configuration was read.

import type { Cidr4 } from '../ip/address.ts';

/** An address that belongs to one MAC for good. */
export interface FixedLease {
  /** Six lower-case hex pairs with colons. */
  readonly mac: string;
  /** int32. */
  readonly address: number;
}

export interface AddressPoolOptions {
  /** /8 to /29. */
  readonly network: Cidr4;
  /** int32. */
  readonly gateway: number;
  /** int32; undefined if there is no host alias. */
  readonly hostAlias: number | undefined;
  readonly fixed: readonly FixedLease[];
}

export class AddressPool {
  readonly network: Cidr4;
  /** Lowest and highest address of the range, as unsigned numbers; `size` counts what is between and not reserved by the options. */
  readonly first: number;
  readonly last: number;
  readonly size: number;
  readonly #reserved = new Set<number>();
  readonly #fixedByMac = new Map<string, number>();
  readonly #fixedAddresses = new Set<number>();

  constructor(options: AddressPoolOptions) {
    const { network } = options;
    this.network = network;
    this.first = (network.network >>> 0) + 3;
    this.last = (network.broadcast >>> 0) - 1;
    this.#reserved.add(options.gateway | 0);
    if (options.hostAlias !== undefined) this.#reserved.add(options.hostAlias | 0);
    for (const f of options.fixed) {
      this.#fixedByMac.set(f.mac, f.address | 0);
      this.#fixedAddresses.add(f.address | 0);
    }
    let size = Math.max(0, this.last - this.first + 1);
    for (const a of new Set([...this.#reserved, ...this.#fixedAddresses])) if (this.inRange(a)) size--;
    this.size = size;
  }

  /** True between the first and last address of the range, reserved or not. */
  inRange(address: number): boolean {
    const a = address >>> 0;
    return a >= this.first && a <= this.last;
  }

  /** True for an address that any guest may get. */
  open(address: number): boolean {
    return this.inRange(address) && !this.#reserved.has(address) && !this.#fixedAddresses.has(address);
  }

  /** True for an address that one MAC alone gets. */
  isFixed(address: number): boolean {
    return this.#fixedAddresses.has(address);
  }

  /** No guest gets the address from now on. */
  reserve(address: number): void {
    this.#reserved.add(address);
  }

  unreserve(address: number): void {
    this.#reserved.delete(address);
  }

  /** The address that a MAC always has, if the operator gave it one. */
  fixedOf(macText: string): number | undefined {
    return this.#fixedByMac.get(macText);
  }
}
