// The grammars of the options about the way out: `--outbound-address`, and the word `auto` of `--network`.

import type { OutboundRule } from '../forwarder/outbound.ts';
import { Cidr4, isMulticastV4, parseAddress } from '../ip/address.ts';
import { GrammarError, parseNetwork } from './value-grammar.ts';

/** The value of `--network` that leaves the choice to us. */
export const AUTO = 'auto';

const EVERYWHERE = new Cidr4(0, 0);

/** `auto`, or a network. */
export function parseNetworkOrAuto(text: string): Cidr4 | typeof AUTO {
  return text === AUTO ? AUTO : parseNetwork(text);
}

/** `ADDRESS`, or `CIDR=ADDRESS` for some destinations. */
export function parseOutbound(text: string): OutboundRule {
  const right = 'ADDRESS or CIDR=ADDRESS, like 192.0.2.7 or 10.0.0.0/8=10.8.0.2';
  const equals = text.indexOf('=');
  const address = parseAddress(text.slice(equals + 1));
  if (address === undefined) throw new GrammarError('has no IP address to send from', right);
  if (!address.isV4) throw new GrammarError('is IPv6, which guests do not have yet', right);
  if (address.v4 === 0 || isMulticastV4(address.v4) || address.v4 === -1)
    throw new GrammarError('is not an address that a host can have', right);
  if (equals < 0) return { network: EVERYWHERE, address };
  const network = Cidr4.parse(text.slice(0, equals));
  if (network === undefined) throw new GrammarError('has no IPv4 network before the "="', right);
  if (parseAddress(text.slice(0, text.indexOf('/')))?.v4 !== network.network)
    throw new GrammarError('has an address inside a network, not the network itself', `${network}=${address}`);
  return { network, address };
}

/** The text that `parseOutbound` reads back. */
export function formatOutbound({ network, address }: OutboundRule): string {
  return network.prefix === 0 ? `${address}` : `${network}=${address}`;
}
