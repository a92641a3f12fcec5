// Where macOS says who resolves which domain: files of /etc/resolver (resolver(5)) and the output of `scutil --dns`, text to rules.
// /etc/resolv.conf of macOS knows neither. Reading, watching and running is the shell's. Whatever makes no sense is left out.

import { parseServer, type ServerAddress, serverText } from './resolv-conf.ts';
import { domainOf } from './resolver-file.ts';
import type { UpstreamServer } from './server.ts';
import { HostUse, type UpstreamRule } from './upstreams.ts';

const RULES_MAX = 256;
const SERVERS_MAX = 8;
/** `scutil` prints this before the resolvers of single interfaces, which hold only for who asks on that interface. */
const SCOPED = 'for scoped queries';

interface Block {
  domain: string;
  readonly servers: ServerAddress[];
  order: number;
  timeoutMs: number | undefined;
  port: number | undefined;
  multicast: boolean;
}

function block(domain: string): Block {
  return { domain, servers: [], order: 0, timeoutMs: undefined, port: undefined, multicast: false };
}

/**
 * One file of /etc/resolver.
 * @param name the file's name, which is the domain unless a `domain` line says otherwise. @returns undefined if it names no server.
 */
export function parseMacosResolver(text: string, name: string, source: string): UpstreamRule | undefined {
  const b = block(domainOf(name) ?? '');
  for (const line of text.split(/\r\n?|\n/)) {
    const [keyword, ...values] = line
      .replace(/[#;].*$/, '')
      .trim()
      .split(/\s+/);
    const value = values[0] ?? '';
    if (keyword === 'nameserver') add(b, value);
    else if (keyword === 'domain') b.domain = domainOf(value) ?? b.domain;
    else if (keyword === 'port') b.port = wholeNumber(value, 65_535);
    else if (keyword === 'search_order') b.order = wholeNumber(value, 1_000_000) ?? 0;
    else if (keyword === 'timeout') b.timeoutMs = seconds(value);
    else if (keyword === 'options') {
      const timeout = values.find((v) => v.startsWith('timeout:'));
      if (timeout !== undefined) b.timeoutMs = seconds(timeout.slice('timeout:'.length));
    }
  }
  return b.domain === '' || b.servers.length === 0 ? undefined : ruleOf([b], source);
}

/** The output of `scutil --dns`: a rule for each domain that has resolvers of its own, and one for all other names. */
export function parseScutilDns(text: string): UpstreamRule[] {
  const blocks: Block[] = [];
  let current: Block | undefined;
  for (const line of text.split(/\r\n?|\n/)) {
    if (line.includes(SCOPED)) break;
    if (/^resolver #\d+/.test(line)) {
      current = blocks.length < RULES_MAX ? block('') : undefined;
      if (current !== undefined) blocks.push(current);
      continue;
    }
    const m = /^\s+([a-z_]+(?: [a-z]+)?)\s*(?:\[\d+\])?\s*:\s*(.*?)\s*$/i.exec(line);
    if (m === null || current === undefined) continue;
    const [, key, value = ''] = m;
    if (key === 'nameserver') add(current, value);
    else if (key === 'domain') current.domain = domainOf(value) ?? '';
    else if (key === 'port') current.port = wholeNumber(value, 65_535);
    else if (key === 'order') current.order = wholeNumber(value, 1_000_000) ?? 0;
    else if (key === 'timeout') current.timeoutMs = seconds(value);
    else if (key === 'options') current.multicast = /\bmdns\b/.test(value);
  }
  const byDomain = new Map<string, Block[]>();
  for (const b of blocks) {
    // Backwards names of mDNS are asked of the servers like any other: only addresses can be had from the host's own resolver.
    if (b.multicast ? b.domain !== 'local' : b.servers.length === 0) continue;
    const list = byDomain.get(b.domain);
    if (list === undefined) byDomain.set(b.domain, [b]);
    else list.push(b);
  }
  return [...byDomain.values()].map((list) => ruleOf(list, 'scutil --dns'));
}

function ruleOf(blocks: readonly Block[], source: string): UpstreamRule {
  const servers = new Map<string, UpstreamServer>();
  for (const { servers: list, order, timeoutMs, port } of blocks) {
    for (const s of list) {
      const at = { ...s, port: port ?? s.port, order, timeoutMs };
      if (!servers.has(serverText(at))) servers.set(serverText(at), at);
    }
  }
  const { domain } = blocks[0]!;
  // The host's own resolver knows by which interface such a domain's servers are reached.
  return { domain, servers: [...servers.values()], source, host: domain === '' ? HostUse.Last : HostUse.First };
}

/** An address, or with a dot and a port behind it: `10.0.0.17.55`. */
function add(b: Block, text: string): void {
  const dotted = /^(\d+\.\d+\.\d+\.\d+)\.(\d{1,5})$/.exec(text);
  const server = parseServer(dotted === null ? text : `${dotted[1]}#${dotted[2]}`);
  if (server !== undefined && b.servers.length < SERVERS_MAX) b.servers.push(server);
}

function wholeNumber(text: string, max: number): number | undefined {
  const n = /^\d{1,7}$/.test(text) ? Number(text) : 0;
  return n >= 1 && n <= max ? n : undefined;
}

function seconds(text: string): number | undefined {
  const n = wholeNumber(text, 60);
  return n === undefined ? undefined : n * 1000;
}
