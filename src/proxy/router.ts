// Which way a destination is reached: past the proxy, by one, or by what the PAC file says. It follows the settings in force.

import type { IpAddress } from '../ip/address.ts';
import type { Place } from './reach.ts';
import { isProxying, NO_PROXY, type ProxySettings } from './settings.ts';
import { DIRECT, hostPort, type Route } from './upstream.ts';

/** Answers by the PAC file. Never rejects, never empty. */
export interface RouteFinder {
  find(url: string, host: string): Promise<readonly Route[]>;
}

export interface Wanted {
  readonly scheme: 'http' | 'https';
  readonly place: Place;
  readonly port: number;
  /** Where the guest's own flow leads. */
  readonly address: IpAddress | undefined;
  /** Of the URL, with its slash. */
  readonly path: string;
}

const DIRECTLY: readonly Route[] = [DIRECT];

export class Router {
  settings: ProxySettings = NO_PROXY;
  pac: RouteFinder | undefined;

  get isProxying(): boolean {
    return isProxying(this.settings);
  }

  /** Whether flows to this port are taken over. */
  takes(port: number): boolean {
    const { http, https, pac, ports } = this.settings;
    if (!this.isProxying || !ports.includes(port)) return false;
    // With a proxy for one of the two only, the other's own port is left alone.
    if (pac !== undefined) return true;
    return !((port === 80 && http === undefined) || (port === 443 && https === undefined));
  }

  /** Whether it goes past every proxy. */
  isExcluded(name: string | undefined, address: IpAddress | undefined, port: number): boolean {
    return this.settings.exclude.includes(name, address, port);
  }

  /** Ways to go, the best first. */
  async routes({ scheme, place, port, address, path }: Wanted): Promise<readonly Route[]> {
    if (place.inside || this.isExcluded(place.name, place.address ?? address, port)) return DIRECTLY;
    const { http, https, pac } = this.settings;
    if (pac !== undefined) {
      // Beyond the host the path is nobody's business (and browsers do not tell it either) where it is encrypted.
      const standard = scheme === 'http' ? 80 : 443;
      const at =
        port === standard ? (place.host.includes(':') ? `[${place.host}]` : place.host) : hostPort(place.host, port);
      return this.pac?.find(`${scheme}://${at}${scheme === 'http' ? path : '/'}`, place.host) ?? DIRECTLY;
    }
    const upstream = scheme === 'http' ? http : https;
    return upstream === undefined ? DIRECTLY : [upstream];
  }
}
