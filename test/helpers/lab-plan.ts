// The map of the laboratory: networks that a laptop is on, addresses, names, ports.
//
//   guest --TAP-- [daemon] host --home0-- home   the router at home, behind it the internet; or that of a cafe
//                               --vpn0--- corp   the company, only while the VPN is up

import type { Zone } from './lab-dns.ts';

/** Ports of every host of the laboratory. */
export const WEB_PORT = 80;
export const ECHO_PORT = 7;
export const PROXY_PORT = 3128;

/** One network that the laptop can join by its one uplink. */
export interface Uplink {
  readonly router: string;
  /** Addresses that the laptop may get there. */
  readonly host: string;
  readonly otherHost: string;
}

export const HOME: Uplink = { router: '10.1.0.1', host: '10.1.0.20', otherHost: '10.1.0.21' };
export const CAFE: Uplink = { router: '10.2.0.1', host: '10.2.0.20', otherHost: '10.2.0.21' };

/** DNS servers. The home router's second one is another address of it; nobody has the last. */
export const HOME_DNS = '10.1.0.1';
export const HOME_DNS_2 = '10.1.0.2';
export const CAFE_DNS = '10.2.0.1';
export const CORP_DNS = '172.20.0.53';
export const NO_DNS = '10.1.0.99';
/** On the host itself: libc's server where resolv.conf names none. Nothing listens there unless a test starts it. */
export const HOST_DNS = '127.0.0.1';

/** A host of the internet, behind either router. */
export const INTERNET = '203.0.113.80';
/** Hosts that only the VPN reaches. */
export const INTRANET = '172.20.0.80';
export const PROXY = '172.20.0.8';
/** All of the company's addresses: the route by the VPN. */
export const CORP_NETWORK = '172.20.0.0/16';
/** The company's end of the tunnel, and addresses that the laptop may get for its own. */
export const VPN_PEER = '10.90.0.1';
export const VPN_HOST = '10.90.0.20';
export const VPN_OTHER_HOST = '10.90.0.21';

/** Known everywhere. */
export const PUBLIC_NAME = 'www.public.example';
/** Known only inside. */
export const CORP_NAME = 'wiki.corp.example';
export const PROXY_NAME = 'proxy.corp.example';
/** Inside another host than outside. */
export const SPLIT_NAME = 'mail.split.example';
/** Each server gives its own address for this name, and for all `*.any.example`: the answer tells who was asked. */
export const WHO_NAME = 'who.answers.example';
/** A name of that kind that nobody has asked for before. */
export function freshName(): string {
  return `n${++fresh}.any.example`;
}
let fresh = 0;

const outside: Zone = { [PUBLIC_NAME]: [INTERNET], [SPLIT_NAME]: [INTERNET] };

function own(address: string): Zone {
  return { [WHO_NAME]: [address], '*.any.example': [address] };
}

/** What each server answers. */
export const ZONES: Readonly<Record<string, Zone>> = {
  [HOME_DNS]: { ...outside, ...own(HOME_DNS) },
  [HOME_DNS_2]: { ...outside, ...own(HOME_DNS_2) },
  [CAFE_DNS]: { ...outside, ...own(CAFE_DNS) },
  [CORP_DNS]: {
    ...outside,
    ...own(CORP_DNS),
    [SPLIT_NAME]: [INTRANET],
    [CORP_NAME]: [INTRANET],
    [PROXY_NAME]: [PROXY],
  },
  [HOST_DNS]: { ...outside, ...own('10.9.9.9') },
};
