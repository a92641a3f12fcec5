// Which of the host's own networks the virtual one clashes with, and which private network clashes with none (`--network auto`).

import type { HostNetwork } from '../host/host-networks.ts';
import { Cidr4 } from '../ip/address.ts';

/** Routes to whole private ranges, as large companies have them: with all three there would be nothing left to choose. */
const BROAD_PREFIX = 16;

/** Networks of the host that share an address with `network`, each once. */
export function clashesOf(network: Cidr4, hostNetworks: readonly HostNetwork[]): HostNetwork[] {
  const seen = new Set<string>();
  return hostNetworks.filter(({ cidr, device }) => {
    const other = Cidr4.parse(cidr);
    if (other === undefined || !overlap(network, other) || seen.has(`${cidr} ${device}`)) return false;
    // An interface and the route to its network are one.
    seen.add(`${cidr} ${device}`);
    return true;
  });
}

/** The first /24 of the list that clashes with nothing; else the first that clashes with broad routes only; else undefined. */
export function chooseNetwork(hostNetworks: readonly HostNetwork[]): Cidr4 | undefined {
  const list = candidates();
  const free = list.find((network) => clashesOf(network, hostNetworks).length === 0);
  if (free !== undefined) return free;
  const narrow = hostNetworks.filter(
    ({ cidr, kind }) => kind === 'interface' || (Cidr4.parse(cidr)?.prefix ?? 0) > BROAD_PREFIX,
  );
  return list.find((network) => clashesOf(network, narrow).length === 0);
}

/** The usual one, then its neighbours, then the other private ranges (RFC 1918), always in this order. */
function candidates(): Cidr4[] {
  const list: Cidr4[] = [];
  const add = (a: number, b: number, c: number): void => {
    list.push(new Cidr4((a << 24) | (b << 16) | (c << 8), 24));
  };
  for (let c = 65; c < 255; c++) add(192, 168, c);
  for (let b = 31; b >= 16; b--) add(172, b, 65);
  for (let b = 65; b < 255; b++) add(10, b, 65);
  return list;
}

function overlap(a: Cidr4, b: Cidr4): boolean {
  return a.prefix < b.prefix ? a.contains(b.network) : b.contains(a.network);
}
