// VPNKit's resolver file (its `--dns FILE`), text to rules. One directive a line; `#` lines and unknown words are ignored; a line that is
// malformed voids the whole file. Reading and watching is the shell's.
//
//   nameserver 10.0.0.53#5353     a server; what follows is about it, up to the next
//   zone corp.example lan         it knows these domains
//   timeout 2000                  how long it is waited for, ms
//   order 1                       lower ones first, 0 if not given
//   search corp.example           the search list, not of one server
//   assume-offline-after 2        taken and without effect: a server that is silent once comes last at once
//
// Whom VPNKit asks: servers with a zone that the name lies in; if there is none, all servers. Of them the lower orders are heard first, and
// "no such name" counts only when nobody knows it.

import { nameFromText } from './name.ts';
import { parseServer, serverText } from './resolv-conf.ts';
import type { UpstreamServer } from './server.ts';
import { HostUse, type UpstreamRule } from './upstreams.ts';

export interface ResolverFile {
  /** One for each zone, and one for all other names; none without a server. */
  readonly rules: readonly UpstreamRule[];
  readonly search: readonly string[];
}

/** The line that voids the file. */
export interface ResolverFileError {
  readonly line: number;
  readonly text: string;
  /** What would be right. */
  readonly expected: string;
}

interface Entry extends UpstreamServer {
  order?: number;
  timeoutMs?: number;
  readonly zones: string[];
}

const SERVERS_MAX = 64;
const ZONES_MAX = 1024;
const TIMEOUT_MAX_MS = 60_000;
const ORDER_MAX = 1_000_000;

/** @param source the file's path, for the rules. */
export function parseResolverFile(text: string, source: string): ResolverFile | ResolverFileError {
  const entries: Entry[] = [];
  let search: readonly string[] = [];
  let zones = 0;
  for (const [i, raw] of text.split(/\r\n?|\n/).entries()) {
    const [keyword, ...values] = raw.trim().split(/\s+/);
    const last = entries.at(-1);
    const wrong = (expected: string): ResolverFileError => ({ line: i + 1, text: raw.trim().slice(0, 100), expected });
    switch (keyword) {
      case 'nameserver': {
        const at = values.length === 1 ? parseServer(values[0]!) : undefined;
        if (at === undefined) return wrong('nameserver ADDRESS or ADDRESS#PORT, like 10.0.0.53#5353');
        if (entries.length === SERVERS_MAX) return wrong(`at most ${SERVERS_MAX} servers`);
        entries.push({ ...at, zones: [] });
        break;
      }
      case 'zone':
      case 'search': {
        const names = values.map(domainOf);
        if (names.length === 0 || names.includes(undefined))
          return wrong(`${keyword} DOMAIN..., like ${keyword} corp.example`);
        zones += names.length;
        if (zones > ZONES_MAX) return wrong(`at most ${ZONES_MAX} domains`);
        if (keyword === 'search') search = names as string[];
        else last?.zones.push(...(names as string[]));
        break;
      }
      case 'timeout':
      case 'order':
      case 'assume-offline-after': {
        const max = keyword === 'timeout' ? TIMEOUT_MAX_MS : ORDER_MAX;
        const least = keyword === 'timeout' ? 1 : 0;
        const n = values.length === 1 && /^\d{1,7}$/.test(values[0]!) ? Number(values[0]) : -1;
        if (n < least || n > max) return wrong(`${keyword} and a whole number from ${least} to ${max}`);
        // The first of several holds, as in VPNKit.
        if (last !== undefined && keyword === 'timeout') last.timeoutMs ??= n;
        if (last !== undefined && keyword === 'order') last.order ??= n;
        break;
      }
      default:
    }
  }
  return { rules: rulesOf(entries, source), search };
}

function rulesOf(entries: readonly Entry[], source: string): UpstreamRule[] {
  if (entries.length === 0) return [];
  const domains = new Set(entries.flatMap((e) => e.zones));
  domains.delete('');
  const rule = (domain: string, servers: UpstreamServer[]): UpstreamRule => ({
    domain,
    servers,
    source,
    host: HostUse.Alone,
    thorough: true,
  });
  const rules = [...domains].map((domain) => {
    const matching = entries
      .map((e) => ({ e, depth: Math.max(...e.zones.map((z) => (isWithin(domain, z) ? z.length : -1))) }))
      .filter(({ depth }) => depth >= 0)
      // Of one order whoever is closest to the name first.
      .sort((a, b) => b.depth - a.depth);
    return rule(domain, distinct(matching.map(({ e }) => e)));
  });
  // Of one order those without zones first: the others are there for names of their own.
  const general = [...entries].sort((a, b) => Number(a.zones.length > 0) - Number(b.zones.length > 0));
  return [...rules, rule('', distinct(general))];
}

function distinct(entries: readonly Entry[]): UpstreamServer[] {
  const seen = new Map<string, UpstreamServer>();
  for (const { zones: _, ...server } of entries)
    if (!seen.has(serverText(server))) seen.set(serverText(server), server);
  return [...seen.values()];
}

/** Whether a domain is another or lies below it. */
function isWithin(domain: string, zone: string): boolean {
  return zone === '' || domain === zone || domain.endsWith(`.${zone}`);
}

/** Lower case without the final dot, empty for the root; undefined if it is no domain name. */
export function domainOf(text: string): string | undefined {
  if (text === '.') return '';
  const name = text.toLowerCase().replace(/\.$/, '');
  return /[^!-~]|\\/.test(name) || nameFromText(name) === undefined ? undefined : name;
}
