// An upstream proxy: how operators, PAC files and environments write one, and how it is shown again, without its password.
// It connects nowhere.

import { ProxyError } from './proxy-error.ts';

/** A proxy that flows may go through. Names are always the proxy's to resolve, also with `socks5://`. */
export interface Upstream {
  /** `https` is HTTP inside TLS. */
  readonly kind: 'http' | 'https' | 'socks5';
  /** Name in lower case, or address without brackets. */
  readonly host: string;
  readonly port: number;
  readonly user?: string | undefined;
  readonly password?: string | undefined;
}

/** No proxy: the destination itself is dialled. */
export interface Direct {
  readonly kind: 'direct';
}

export type Route = Upstream | Direct;

export const DIRECT: Direct = { kind: 'direct' };

const KINDS: Readonly<Record<string, { kind: Upstream['kind']; port: number }>> = {
  http: { kind: 'http', port: 80 },
  https: { kind: 'https', port: 443 },
  socks: { kind: 'socks5', port: 1080 },
  socks5: { kind: 'socks5', port: 1080 },
  socks5h: { kind: 'socks5', port: 1080 },
};

export const UPSTREAM_FORMS = 'http://, https:// or socks5://[USER:PASSWORD@]HOST[:PORT]';
/** RFC 1929 has one byte for the length of each. */
const SOCKS_SECRET_BYTES = 255;

/** Reads `http://user:pass@proxy:3128`, or `proxy:3128` for an HTTP proxy. @throws ProxyError ERR_PROXY_URL */
export function parseUpstream(text: string, key?: string): Upstream {
  const wrong = (why: string): ProxyError =>
    new ProxyError('ERR_PROXY_URL', `"${withoutPassword(text)}" ${why}`, UPSTREAM_FORMS, key);
  const [, scheme = 'http', rest = ''] = /^(?:([a-z][a-z0-9+.-]*):\/\/)?(.*)$/is.exec(text.trim()) ?? [];
  const known = Object.hasOwn(KINDS, scheme.toLowerCase()) ? KINDS[scheme.toLowerCase()] : undefined;
  if (known === undefined) throw wrong(`has the scheme "${scheme}", which is no proxy's`);
  let url: URL;
  try {
    // A scheme that URL does not know keeps its port, whichever that is.
    url = new URL(`proxy://${rest}`);
  } catch {
    throw wrong('is no URL');
  }
  const host = url.hostname.replace(/^\[(.*)\]$/, '$1').toLowerCase();
  if (!isHost(host)) throw wrong(host === '' ? 'has no host' : `has the host "${host}", which is no name or address`);
  if (!/^\/?$/.test(url.pathname) || url.search !== '' || url.hash !== '') throw wrong('has more than host and port');
  const user = decoded(url.username);
  const password = decoded(url.password);
  if (user === undefined || password === undefined) throw wrong('has a percent sign that encodes nothing');
  if (known.kind === 'socks5' && Math.max(Buffer.byteLength(user), Buffer.byteLength(password)) > SOCKS_SECRET_BYTES)
    throw wrong('has a user or password of more than 255 bytes');
  if (/[\r\n\0]/.test(user + password) || user.includes(':')) throw wrong('has a user or password that cannot be sent');
  const port = url.port === '' ? known.port : Number(url.port);
  if (port === 0) throw wrong('has port 0');
  const credentials = user === '' && password === '' ? {} : { user, password };
  return { kind: known.kind, host, port, ...credentials };
}

/** The same as text; the password is `...`. */
export function formatUpstream({ kind, host, port, user, password }: Upstream): string {
  const secret = password === undefined || password === '' ? '' : ':...';
  const credentials = user === undefined ? '' : `${encodeURIComponent(user)}${secret}@`;
  return `${kind}://${credentials}${hostPort(host, port)}`;
}

/** For messages: `proxy.example:3128`. */
export function upstreamName({ host, port }: Upstream): string {
  return hostPort(host, port);
}

/** `host:port`, an IPv6 address in brackets. */
export function hostPort(host: string, port: number): string {
  return host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`;
}

/** Any URL of a proxy or PAC file without its password. */
export function withoutPassword(text: string): string {
  return text.replace(/^((?:[a-z0-9+.-]+:(?:\/\/)?)?[^:@/]*):.*@/i, '$1:...@');
}

/** A name, or an address of either family. */
export function isHost(host: string): boolean {
  return /^[a-z0-9_]([a-z0-9._-]{0,252})$/i.test(host) || /^[0-9a-f:.]*:[0-9a-f:.]*$/i.test(host);
}

function decoded(text: string): string | undefined {
  try {
    return decodeURIComponent(text);
  } catch {
    return undefined;
  }
}
