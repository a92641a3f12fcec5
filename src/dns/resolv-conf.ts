// resolv.conf (resolv.conf(5)) and the notation of one DNS server: text to data. Reading and watching is the shell's.

import { IpAddress, parseAddress } from '../ip/address.ts';

/** Where a DNS server listens. */
export interface ServerAddress {
  readonly address: IpAddress;
  /** Interface scope of a link-local IPv6 address (`eth0`), else empty. */
  readonly zone: string;
  readonly port: number;
}

export interface ResolvConf {
  /** In order of preference, without doubles. */
  readonly servers: readonly ServerAddress[];
  readonly search: readonly string[];
  readonly ndots: number;
  readonly timeoutSec: number;
  readonly attempts: number;
  /** `options use-vc`: ask over TCP. */
  readonly useTcp: boolean;
  /** Texts of `nameserver` lines that are no address. */
  readonly unusable: readonly string[];
}

export const DNS_PORT = 53;
/** libc takes three; more are kept because a daemon has the time to try them. */
const SERVERS_MAX = 8;
const SEARCH_MAX = 32;

/** `address:port` for logs and as a key, an IPv6 address in brackets. */
export function serverText(s: ServerAddress): string {
  const zone = s.zone === '' ? '' : `%${s.zone}`;
  return s.address.isV4 ? `${s.address.toString()}:${s.port}` : `[${s.address.toString()}${zone}]:${s.port}`;
}

/**
 * One server: `1.2.3.4`, `1.2.3.4:53`, `1.2.3.4#53`, `2001:db8::1`, `[2001:db8::1]:53`, `2001:db8::1#53`, `fe80::1%eth0`.
 * The unspecified address means the host itself, as libc has it. @returns undefined if it is none of these.
 */
export function parseServer(text: string): ServerAddress | undefined {
  const m =
    /^\[([^\]]+)\](?:[:#](\d{1,5}))?$/.exec(text) ??
    /^([0-9.]+)(?:[:#](\d{1,5}))?$/.exec(text) ??
    /^([^#[\]]*:[^#[\]]*)(?:#(\d{1,5}))?$/.exec(text);
  if (!m) return undefined;
  const port = m[2] === undefined ? DNS_PORT : Number(m[2]);
  if (port < 1 || port > 65_535) return undefined;
  const [host, zone = '', more] = m[1]!.split('%');
  if (more !== undefined || (m[1]!.includes('%') && !/^[\w.:-]{1,32}$/.test(zone))) return undefined;
  let address = parseAddress(host!);
  if (!address || (zone !== '' && address.isV4)) return undefined;
  if (address.isV4 ? address.v4 === 0 : address.equals(new IpAddress(0, 0, 0, 0))) {
    address = address.isV4 ? IpAddress.v4(0x7f000001) : new IpAddress(0, 0, 0, 1);
  }
  return { address, zone, port };
}

/** Reads a resolv.conf; what it does not know it ignores, as libc does. */
export function parseResolvConf(text: string): ResolvConf {
  const servers: ServerAddress[] = [];
  const unusable: string[] = [];
  let search: string[] = [];
  let ndots = 1;
  let timeoutSec = 5;
  let attempts = 2;
  let useTcp = false;
  for (const line of text.split(/\r\n?|\n/)) {
    if (/^\s*[#;]/.test(line)) continue;
    const [keyword, ...values] = line.trim().split(/\s+/);
    const value = values[0];
    if (keyword === 'nameserver' && value !== undefined) {
      const server = parseServer(value);
      if (!server) unusable.push(value);
      else if (servers.length < SERVERS_MAX && !servers.some((s) => serverText(s) === serverText(server))) {
        servers.push(server);
      }
    } else if (keyword === 'search' || keyword === 'domain') {
      // The last of either kind wins; a comment may follow the names.
      const end = values.findIndex((v) => /^[#;]/.test(v));
      const names = (end < 0 ? values : values.slice(0, end)).map((v) => v.toLowerCase().replace(/(?<=.)\.$/, ''));
      search = names.slice(0, keyword === 'domain' ? 1 : SEARCH_MAX);
    } else if (keyword === 'options') {
      for (const option of values) {
        const [name, number] = option.split(':');
        const n = number !== undefined && /^\d{1,4}$/.test(number) ? Number(number) : undefined;
        if (name === 'ndots' && n !== undefined) ndots = Math.min(n, 15);
        else if (name === 'timeout' && n !== undefined) timeoutSec = Math.max(1, Math.min(n, 30));
        else if (name === 'attempts' && n !== undefined) attempts = Math.max(1, Math.min(n, 5));
        else if (name === 'use-vc' || name === 'usevc') useTcp = true;
      }
    }
  }
  return { servers, search, ndots, timeoutSec, attempts, useTcp, unusable };
}
