// As whom a guest sees a client of a published port: as itself wherever the answers can find their way back through the virtual link, for
// that is what logs and access lists of the guest's server are about (RFC 6302).

import { type IpAddress, isLinkLocalV4 } from '../ip/address.ts';
import type { Destinations } from './destination.ts';
import type { ClientMode } from './forward-spec.ts';

export class ClientAddresses {
  readonly #destinations: Destinations;

  constructor(destinations: Destinations) {
    this.#destinations = destinations;
  }

  /**
   * The source address towards the guest.
   * @param client undefined for a unix socket's, which is as local as one can be.
   */
  seenAs(client: IpAddress | undefined, mode: ClientMode): IpAddress {
    const { gateway, hostAlias } = this.#destinations;
    if (mode !== 'transparent') return gateway;
    if (client === undefined) return hostAlias ?? gateway;
    if (!client.isV4) {
      // The guest has no IPv6 to answer with. ::1 is loopback all the same.
      const loopback = (client.w0 | client.w1 | client.w2) === 0 && client.w3 === 1;
      return (loopback ? hostAlias : undefined) ?? gateway;
    }
    // A guest would look for 169.254/16 on its own link; loopback, the network's own and reserved ones it could not answer to.
    if (isLinkLocalV4(client.v4)) return gateway;
    return this.#destinations.seenFromGuest(client) ?? gateway;
  }
}
