// The `policy` resource: the rules in force, in words, from the configuration and the parts that hold to it.

import type { PolicyInfo, ProxyInfo } from '../control/resources.ts';
import { explainRoute } from '../dns/explain.ts';
import type { Upstreams } from '../dns/upstreams.ts';
import { formatBindRule } from './bind-grammar.ts';
import type { Config } from './config.ts';

/** Who is asked for a name, in order; dns/local-names.ts and dns/policy.ts do so. */
export const DNS_ORDER: readonly string[] = [
  'localhost',
  'names and zones of the control API',
  'host alias and gateway',
  'VMs by host name',
  'own network, backwards',
  'default addresses of zones',
  'hosts file',
  'upstream servers, by domain',
];

/** @param upstreams rules of who is asked for names, now. @param proxy settings in force now. */
export function policyOf(config: Config, upstreams: Upstreams, proxy: ProxyInfo): PolicyInfo {
  const servers = upstreams.fallback.servers.all.map((server) => server.text);
  const routes = [...upstreams.routes, upstreams.fallback].map(explainRoute);
  const { network, gateway, hostAlias, guestApi } = config;
  const allowBind = config.allowBind.map(formatBindRule);
  const alias = hostAlias === undefined ? [] : [{ destination: `${hostAlias}/32`, action: "the host's loopback" }];
  return {
    network: network.toString(),
    gateway: gateway.toString(),
    hostAlias: hostAlias?.toString() ?? null,
    destinations: [
      ...alias,
      { destination: `${gateway}/32`, action: 'services of the gateway' },
      { destination: '224.0.0.0/4', action: 'not relayed; stays among the VMs' },
      { destination: '255.255.255.255/32', action: 'not relayed; stays among the VMs' },
      { destination: '127.0.0.0/8', action: 'refused: network unreachable' },
      { destination: '0.0.0.0/8', action: 'refused: network unreachable' },
      { destination: '240.0.0.0/4', action: 'refused: network unreachable' },
      { destination: '169.254.0.0/16', action: 'refused: prohibited' },
      { destination: network.toString(), action: 'other VMs, by the switch; else refused: host unreachable' },
      { destination: '0.0.0.0/0', action: 'dialled by the host' },
    ],
    outbound: config.outbound.map((rule) => ({
      destination: rule.network.toString(),
      address: rule.address.toString(),
    })),
    ping: config.ping,
    dns: { order: DNS_ORDER, servers, domain: config.domain, routes },
    proxy,
    allowBind: allowBind.length === 0 ? null : allowBind,
    limits: {
      maxFlows: config.maxFlows,
      udpMaxFlows: config.udpMaxFlows,
      udpIdleSeconds: config.udpIdleMs / 1000,
      leaseSeconds: config.leaseTimeMs / 1000,
      memoryBytes: config.memoryBytes,
    },
    apis: config.apis.map(({ protocol, path }) => `${protocol}:${path}`),
    guestApi: guestApi === undefined ? null : guestApiText(guestApi),
  };
}

/** Without the token: what may be asked of guests is no secret, the secret is. */
function guestApiText({ protocol, token, allow }: NonNullable<Config['guestApi']>): string {
  const parts = [
    ...(token === undefined ? [] : ['token']),
    ...(allow.length === 0 ? [] : [`allow=${allow.join(',')}`]),
  ];
  return parts.length === 0 ? protocol : `${protocol}:${parts.join(';')}`;
}
