// Which address of the host guests' traffic leaves from, where the host is not to choose: the most specific rule that holds the
// destination. It knows no sockets; whoever dials asks.

import type { Cidr4, IpAddress } from '../ip/address.ts';

export interface OutboundRule {
  /** Destinations; 0.0.0.0/0 for all of them. */
  readonly network: Cidr4;
  /** Address of the host. */
  readonly address: IpAddress;
}

export class Outbound {
  /** Longest prefix first. */
  readonly #rules: readonly OutboundRule[];

  constructor(rules: readonly OutboundRule[]) {
    this.#rules = [...rules].sort((a, b) => b.network.prefix - a.network.prefix);
  }

  /** Whether the host always chooses. */
  get isEmpty(): boolean {
    return this.#rules.length === 0;
  }

  /** The address to bind to before dialling; undefined: the host's routes decide. The same object for the same rule. */
  addressFor(remote: IpAddress): IpAddress | undefined {
    if (!remote.isV4) return undefined;
    for (const { network, address } of this.#rules) if (network.contains(remote.v4)) return address;
    return undefined;
  }
}

/** For hosts that choose by themselves. */
export const NO_RULES: Outbound = new Outbound([]);
