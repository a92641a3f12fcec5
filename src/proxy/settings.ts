// The settings of proxies as they are in force: one immutable value, whoever it came from (options, VPNKit's file, the environment, the
// control API), and the text forms that make it.

import { BypassList } from './bypass-list.ts';
import { ProxyError } from './proxy-error.ts';
import { formatUpstream, parseUpstream, UPSTREAM_FORMS, type Upstream, withoutPassword } from './upstream.ts';

export interface ProxySettings {
  /** For `http:` URLs; undefined: they go directly. */
  readonly http: Upstream | undefined;
  /** For everything else. */
  readonly https: Upstream | undefined;
  /** Decides in place of both. */
  readonly pac: PacSource | undefined;
  readonly exclude: BypassList;
  /** Ports whose flows are taken over. What is spoken there is seen by the first bytes. */
  readonly ports: readonly number[];
  /** Only these may be reached by HTTP (VPNKit's `allow`); undefined: everything. */
  readonly allow: BypassList | undefined;
  /** The body of the 403 for the others; `%s` is the host. */
  readonly allowMessage: string | undefined;
}

/** A PAC file, and the credentials for the proxies that it names. */
export interface PacSource {
  /** `http:`, `https:` or `file:` URL without credentials. */
  readonly url: string;
  readonly user: string | undefined;
  readonly password: string | undefined;
}

export const DEFAULT_PORTS: readonly number[] = [80, 443];

/** Nothing is proxied. */
export const NO_PROXY: ProxySettings = {
  http: undefined,
  https: undefined,
  pac: undefined,
  exclude: BypassList.EMPTY,
  ports: DEFAULT_PORTS,
  allow: undefined,
  allowMessage: undefined,
};

export const PROXY_FORMS: string = `${UPSTREAM_FORMS}, pac+http://HOST/FILE, pac:/FILE, system or none`;

/** What one text asks for. */
export type ProxyChoice =
  | { readonly kind: 'none' }
  | { readonly kind: 'system' }
  | { readonly kind: 'upstream'; readonly upstream: Upstream }
  | { readonly kind: 'pac'; readonly pac: PacSource };

/** Reads `--proxy` and its like. @throws ProxyError ERR_PROXY_URL */
export function parseProxyChoice(text: string, key?: string): ProxyChoice {
  if (text === 'none' || text === 'system') return { kind: text };
  const pac = parsePac(text, key);
  return pac === undefined ? { kind: 'upstream', upstream: parseUpstream(text, key) } : { kind: 'pac', pac };
}

/** The text of a choice, without its password. */
export function formatProxyChoice(choice: ProxyChoice): string {
  switch (choice.kind) {
    case 'upstream':
      return formatUpstream(choice.upstream);
    case 'pac':
      return formatPac(choice.pac);
    default:
      return choice.kind;
  }
}

export function formatPac({ url, user }: PacSource): string {
  return user === undefined ? `pac+${url}` : `pac+${url.replace('://', `://${encodeURIComponent(user)}:...@`)}`;
}

function parsePac(text: string, key: string | undefined): PacSource | undefined {
  const [, form, rest = ''] = /^(pac\+(?:https?|file):\/\/|pac:(?:\/\/)?|file:\/\/)(.+)$/is.exec(text) ?? [];
  if (form === undefined) return undefined;
  const scheme = form.toLowerCase().replace(/^pac\+/, '');
  const wrong = (why: string): ProxyError =>
    new ProxyError('ERR_PROXY_URL', `"${withoutPassword(text)}" ${why}`, 'pac+http://HOST/FILE or pac:/FILE', key);
  if (scheme.startsWith('pac:') && !rest.startsWith('/')) throw wrong('has no absolute path');
  let url: URL;
  try {
    url = new URL(scheme.startsWith('http') ? `${scheme}${rest}` : `x-file://${rest}`);
  } catch {
    throw wrong('is no URL');
  }
  const user = url.username === '' ? undefined : decodeURIComponent(url.username);
  const password = url.username === '' ? undefined : decodeURIComponent(url.password);
  url.username = '';
  url.password = '';
  if (!scheme.startsWith('http')) {
    if (url.hostname !== '' && url.hostname !== 'localhost') throw wrong('has a host, and a file has none');
    return { url: `file://${url.pathname}`, user, password };
  }
  return { url: url.href, user, password };
}

/** Whether anything is proxied at all. */
export function isProxying({ http, https, pac }: ProxySettings): boolean {
  return http !== undefined || https !== undefined || pac !== undefined;
}

/** @throws ProxyError ERR_PROXY_PORTS */
export function checkPorts(ports: readonly number[], key?: string): readonly number[] {
  const bad = ports.find((port) => !Number.isInteger(port) || port < 1 || port > 65_535);
  if (bad !== undefined) throw new ProxyError('ERR_PROXY_PORTS', `${bad} is no port`, 'numbers from 1 to 65535', key);
  if (ports.length > 64)
    throw new ProxyError('ERR_PROXY_PORTS', `${ports.length} ports are too many`, '64 at most', key);
  return [...new Set(ports)];
}
