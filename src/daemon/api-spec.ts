// The grammars of `--api` and `--guest-api`: other programs' control protocols on the table of forwards.

import { Cidr4 } from '../ip/address.ts';
import { GrammarError, parsePath } from './value-grammar.ts';

/** Protocols of `--api`. */
export const API_PROTOCOLS = ['gvproxy', 'slirp4netns', 'vpnkit'] as const;
export type ApiProtocol = (typeof API_PROTOCOLS)[number];

/** One `--api`: a protocol and the unix socket that speaks it. */
export interface ApiSpec {
  readonly protocol: ApiProtocol;
  readonly path: string;
}

/** `--guest-api`: gvproxy's forwarder API at the gateway's port 80, for guests. */
export interface GuestApiSpec {
  readonly protocol: 'gvproxy';
  /** Must be sent as a bearer token; undefined: none is asked for. */
  readonly token: string | undefined;
  /** Guests that may ask; empty: all. */
  readonly allow: readonly Cidr4[];
}

/** `NAME:PATH`. */
export function parseApi(text: string): ApiSpec {
  const right = `NAME:PATH with one of ${API_PROTOCOLS.join(', ')}, like gvproxy:/run/gvproxy.sock`;
  const colon = text.indexOf(':');
  if (colon < 0) throw new GrammarError('is not NAME:PATH', right);
  const protocol = API_PROTOCOLS.find((name) => name === text.slice(0, colon));
  if (protocol === undefined) throw new GrammarError(`names the unknown protocol "${text.slice(0, colon)}"`, right);
  if (colon === text.length - 1) throw new GrammarError('has no path', right);
  return { protocol, path: parsePath(text.slice(colon + 1)) };
}

export function formatApi({ protocol, path }: ApiSpec): string {
  return `${protocol}:${path}`;
}

const TOKEN_MIN = 16;

/** `gvproxy`, `gvproxy:token=SECRET`, `gvproxy:allow=CIDR,CIDR`, or both with `;` between. */
export function parseGuestApi(text: string): GuestApiSpec {
  const right = 'gvproxy, gvproxy:token=SECRET or gvproxy:allow=192.168.65.3/32';
  const [name, ...rest] = text.split(':');
  if (name !== 'gvproxy') throw new GrammarError(`names the unknown protocol "${name}"`, right);
  let token: string | undefined;
  const allow: Cidr4[] = [];
  const parts = rest.length === 0 ? [] : rest.join(':').split(';');
  for (const part of parts) {
    if (part.startsWith('token=')) {
      token = part.slice('token='.length);
      if (!/^[\x21-\x7e]+$/.test(token) || token.length < TOKEN_MIN)
        throw new GrammarError(`has a token that is too short`, `at least ${TOKEN_MIN} visible characters`);
    } else if (part.startsWith('allow=')) {
      for (const cidr of part.slice('allow='.length).split(',')) {
        const network = Cidr4.parse(cidr.includes('/') ? cidr : `${cidr}/32`);
        if (network === undefined) throw new GrammarError(`has "${cidr}" as a network`, right);
        allow.push(network);
      }
    } else throw new GrammarError(`has "${part}" where token= or allow= belongs`, right);
  }
  return { protocol: 'gvproxy', token, allow };
}

/** The token is a secret: it is not shown. */
export function formatGuestApi({ protocol, token, allow }: GuestApiSpec): string {
  const parts = [
    ...(token === undefined ? [] : [`token=${token}`]),
    ...(allow.length === 0 ? [] : [`allow=${allow.join(',')}`]),
  ];
  return parts.length === 0 ? protocol : `${protocol}:${parts.join(';')}`;
}
