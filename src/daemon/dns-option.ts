// The grammar of --dns: a server for every name, servers for one domain, or a file of both; and of --timesync, a guest's vsock port. Text
// only, but for the look at a resolver file before the start.

import { readFileSync, statSync } from 'node:fs';
import { parseResolverFile } from '../dns/resolver-file.ts';
import { HostUse, type UpstreamRule } from '../dns/upstreams.ts';
import type { VsockTarget } from '../forwarder/forward-spec.ts';
import { OperatorError } from '../host/operator-error.ts';
import {
  type Endpoint,
  formatEndpoint,
  GrammarError,
  parseDnsServer,
  parseDomain,
  parsePath,
} from './value-grammar.ts';

/** A value of --dns. */
export type DnsOption =
  | { readonly kind: 'server'; readonly server: Endpoint }
  /** `domain` is empty for every name. */
  | { readonly kind: 'domain'; readonly domain: string; readonly servers: readonly Endpoint[] }
  | { readonly kind: 'file'; readonly path: string };

const RIGHT =
  'ADDRESS[:PORT], DOMAIN=ADDRESS[:PORT],... or the path of a resolver file, like 10.0.0.2:5353, corp.example=10.8.0.1 or /etc/vpn/dns.conf';

/** A path is told by a slash before any "=", or by an "@" in front. */
export function parseDnsOption(text: string): DnsOption {
  if (text.startsWith('@')) return { kind: 'file', path: parsePath(text.slice(1)) };
  if (/^[^=]*\//.test(text)) return { kind: 'file', path: parsePath(text) };
  const equals = text.indexOf('=');
  if (equals < 0) {
    const name = /^[a-z][a-z0-9.-]*$/i.test(text) && !text.includes(':');
    if (name) throw new GrammarError('is a name', RIGHT);
    return { kind: 'server', server: parseDnsServer(text) };
  }
  const name = text.slice(0, equals);
  const domain = name === '.' ? '' : parseDomain(name);
  const servers = text
    .slice(equals + 1)
    .split(',')
    .map((part) => part.trim());
  if (servers.some((part) => part === ''))
    throw new GrammarError(`has no server for ${name}`, `${name}=ADDRESS[:PORT], more of them behind commas`);
  return { kind: 'domain', domain, servers: servers.map(parseDnsServer) };
}

export function formatDnsOption(option: DnsOption): string {
  switch (option.kind) {
    case 'server':
      return formatEndpoint(option.server.address, option.server.port);
    case 'domain':
      return `${option.domain || '.'}=${option.servers.map((s) => formatEndpoint(s.address, s.port)).join(',')}`;
    case 'file':
      return option.path.includes('/') && !/^[^/]*=/.test(option.path) ? option.path : `@${option.path}`;
  }
}

/** What the values of --dns come to. */
export interface DnsOptions {
  /** For every name; empty: those of files, else of resolv.conf. */
  readonly dns: readonly Endpoint[];
  readonly dnsRules: readonly UpstreamRule[];
  readonly dnsFiles: readonly string[];
}

/** Values for one domain add up: a variable's commas separate values. */
export function dnsOptions(options: readonly DnsOption[]): DnsOptions {
  const domains = new Map<string, Endpoint[]>();
  for (const o of options) {
    if (o.kind === 'file') continue;
    const [domain, servers] = o.kind === 'server' ? ['', [o.server]] : [o.domain, o.servers];
    domains.set(domain, [...(domains.get(domain) ?? []), ...servers]);
  }
  const dns = domains.get('') ?? [];
  domains.delete('');
  const dnsRules = [...domains].map(([domain, servers]) => ({
    domain,
    servers: servers.map(({ address, port }) => ({ address, port, zone: '' })),
    source: '--dns',
    host: HostUse.Alone,
  }));
  return { dns, dnsRules, dnsFiles: options.flatMap((o) => (o.kind === 'file' ? [o.path] : [])) };
}

/** How a mistake is told; neither returns. */
export interface DnsFileReport {
  wrong(problem: string, expected: string): never;
  unreadable(path: string, error: unknown): never;
}

/** A resolver file may be missing: a VPN writes it when it comes up. One that is there must be right. */
export function checkDnsFiles(files: readonly string[], report: DnsFileReport): void {
  for (const path of files) {
    let text: string;
    try {
      const st = statSync(path);
      // A pipe or device would be waited for, or never end.
      if (!st.isFile() && !st.isDirectory()) report.wrong(`"${path}" is no regular file`, 'a resolver file');
      text = readFileSync(path, 'utf8');
    } catch (error) {
      if (error instanceof OperatorError) throw error;
      const { code } = error as NodeJS.ErrnoException;
      if (code === 'ENOENT' || code === 'ENOTDIR') continue;
      return report.unreadable(path, error);
    }
    const parsed = parseResolverFile(text, path);
    if ('line' in parsed) report.wrong(`"${path}" line ${parsed.line} is "${parsed.text}"`, parsed.expected);
  }
}

/** `vsock:PATH:PORT` or `vsock-hyperkit:DIRECTORY:PORT`. */
export function parseTimesync(text: string): VsockTarget {
  const right =
    'vsock:PATH:PORT or vsock-hyperkit:DIRECTORY:PORT with an absolute path, like vsock:/run/vm/vsock:62372';
  const m = /^(vsock(?:-hyperkit)?):(\/.*):([^:]*)$/s.exec(text);
  if (m === null) throw new GrammarError('is not vsock:PATH:PORT', right);
  const port = /^(0x[0-9a-f]{1,8}|\d{1,10})$/i.test(m[3]!) ? Number(m[3]) : -1;
  if (port < 1 || port > 0xfffffffe) throw new GrammarError(`has "${m[3]}" as its vsock port`, right);
  return { kind: 'vsock', path: parsePath(m[2]!), port, ...(m[1] === 'vsock' ? {} : { style: 'hyperkit' as const }) };
}

export function formatTimesync({ path, port, style }: VsockTarget): string {
  return `${style === 'hyperkit' ? 'vsock-hyperkit' : 'vsock'}:${path}:${port}`;
}
