// What of isthmus's own listens on TCP ports of the gateway, so that no forward is put in front of it unseen. The services are wired in
// network.ts.

import type { Config } from './config.ts';

export const DNS_PORT = 53;
/** Of `--guest-api`. */
export const HTTP_PORT = 80;
/** VPNKit's second port for the explicit proxy, with `--proxy-config`. */
export const VPNKIT_HTTPS_PORT = 3129;

/** The service that the options put on a port of the gateway, in words; undefined where there is none. */
export function gatewayService({ guestApi, proxy }: Config, port: number): string | undefined {
  if (port === DNS_PORT) return 'DNS server';
  if (port === HTTP_PORT && guestApi !== undefined) return 'API for guests (--guest-api)';
  const proxied = proxy.explicit || proxy.choice.kind !== 'none';
  if ((port === proxy.listen && proxied) || (port === VPNKIT_HTTPS_PORT && proxy.file !== undefined))
    return 'HTTP proxy for guests (--proxy-listen)';
  return undefined;
}
