// Why a name is answered as it is: which source decides, what it says, or who is asked and how they are, and what the cache holds. It asks
// nobody and changes nothing, counters included.

import type { Millis } from '../base/clock.ts';
import type { CacheEntry } from './cache.ts';
import { type LocalAnswer, Source } from './local-names.ts';
import { CLASS_IN, KEY_AD, KEY_CD, KEY_DO, KEY_EDNS, KEY_RD, RCODE_MASK, TYPE_ANY } from './message.ts';
import { nameFromText, nameToText } from './name.ts';
import type { Responder } from './responder.ts';
import type { Server } from './server.ts';
import { HostUse, type Route } from './upstreams.ts';
import type { Zones } from './zones.ts';

/** Types by name; any other is TYPE123. */
export const RECORD_TYPES: Readonly<Record<string, number>> = {
  A: 1,
  NS: 2,
  CNAME: 5,
  SOA: 6,
  PTR: 12,
  MX: 15,
  TXT: 16,
  AAAA: 28,
  SRV: 33,
  NAPTR: 35,
  DS: 43,
  RRSIG: 46,
  DNSKEY: 48,
  TLSA: 52,
  SVCB: 64,
  HTTPS: 65,
  ANY: 255,
  CAA: 257,
};

export interface ExplainedServer {
  readonly server: string;
  readonly order: number;
  readonly timeoutMs: number | null;
  /** `suspect`: silent or refused when last asked. */
  readonly health: 'healthy' | 'suspect' | 'unasked';
  /** Smoothed time to an answer. */
  readonly rttMs: number | null;
  readonly asked: number;
  readonly answered: number;
}

/** A rule of who is asked. */
export interface ExplainedRoute {
  /** `.` for every name that no other rule is for. */
  readonly domain: string;
  readonly from: string;
  readonly servers: readonly ExplainedServer[];
  /** The part of the host's own resolver in finding addresses. */
  readonly hostResolver: HostUse;
  /** "No such name" counts only when every server has said so. */
  readonly thorough: boolean;
}

export interface Explanation {
  readonly name: string;
  readonly type: string;
  /** Who decides. */
  readonly source: Source | 'upstream';
  /** The rule in words. */
  readonly rule: string;
  /** What a guest is answered; null where others are asked. */
  readonly answer: {
    readonly rcode: string;
    readonly addresses: readonly string[];
    readonly names: readonly string[];
    readonly ttlSeconds: number;
  } | null;
  readonly route: ExplainedRoute | null;
  /** Whom a question without a cached answer goes to now, in order. */
  readonly asks: readonly string[];
  readonly cached: readonly CachedAnswer[];
}

export interface CachedAnswer {
  readonly rcode: string;
  readonly records: number;
  readonly ttlSeconds: number;
  /** What a question must have to get it, besides RD: `do`, `cd`, `ad`, `edns`. */
  readonly flags: readonly string[];
}

/** What is not the responder's. */
export interface ExplainContext {
  readonly zones: Zones;
  readonly hostsPath: string;
  readonly now: Millis;
}

const HOST_RESOLVER = "the host's own resolver";
const RCODES = ['NOERROR', 'FORMERR', 'SERVFAIL', 'NXDOMAIN', 'NOTIMP', 'REFUSED'];

/** @returns undefined if the type is none. */
export function recordType(text: string): number | undefined {
  const upper = text.toUpperCase();
  if (Object.hasOwn(RECORD_TYPES, upper)) return RECORD_TYPES[upper];
  const m = /^TYPE(\d{1,5})$/.exec(upper);
  return m !== null && Number(m[1]) <= 65_535 ? Number(m[1]) : undefined;
}

/** @returns undefined if the text is no name. */
export function explain(
  responder: Responder,
  text: string,
  type: number,
  context: ExplainContext,
): Explanation | undefined {
  const wire = nameFromText(text);
  if (wire === undefined) return undefined;
  const name = nameToText(wire, 0, wire.length).toLowerCase();
  const typeText = Object.keys(RECORD_TYPES).find((t) => RECORD_TYPES[t] === type) ?? `TYPE${type}`;
  const head = { name, type: typeText };
  const local = responder.policy.lookup(name);
  if (local !== undefined) {
    const answer = answerOf(local, type);
    return {
      ...head,
      source: local.source,
      rule: ruleOf(local, name, context),
      answer,
      route: null,
      asks: [],
      cached: [],
    };
  }
  const route = responder.resolver.upstreams.route(name);
  const cached = responder.cachedAnswers(wire, type, CLASS_IN, FLAG_SETS, context.now);
  return {
    ...head,
    source: 'upstream',
    rule: route.domain === '' ? 'every name that no other rule is for' : `names at and below ${route.domain}`,
    answer: null,
    route: explainRoute(route),
    asks: asksOf(route, type),
    cached: cached.map((e) => cachedOf(e, context.now)),
  };
}

export function explainRoute(route: Route): ExplainedRoute {
  const { domain, source, servers, host, thorough } = route;
  return { domain: domain || '.', from: source, servers: servers.all.map(serverOf), hostResolver: host, thorough };
}

function serverOf(s: Server): ExplainedServer {
  return {
    server: s.text,
    order: s.order,
    timeoutMs: Number.isFinite(s.timeoutMs) ? s.timeoutMs : null,
    health: s.suspect ? 'suspect' : s.sent === 0 ? 'unasked' : 'healthy',
    rttMs: s.srttMs === 0 ? null : Math.round(s.srttMs * 10) / 10,
    asked: s.sent,
    answered: s.answered,
  };
}

function asksOf(route: Route, type: number): string[] {
  const servers = route.servers.order().map((s) => s.text);
  const address = type === RECORD_TYPES.A || type === RECORD_TYPES.AAAA;
  if (!address || (route.host === HostUse.Alone && servers.length > 0)) return servers;
  return route.host === HostUse.First ? [HOST_RESOLVER, ...servers] : [...servers, HOST_RESOLVER];
}

function answerOf(local: LocalAnswer, type: number): Explanation['answer'] {
  const any = type === TYPE_ANY;
  const addresses = local.addresses.filter((a) => any || type === (a.isV4 ? RECORD_TYPES.A : RECORD_TYPES.AAAA));
  return {
    rcode: local.exists ? 'NOERROR' : 'NXDOMAIN',
    addresses: addresses.map(String),
    names: any || type === RECORD_TYPES.PTR ? local.names : [],
    ttlSeconds: local.ttlSec,
  };
}

function ruleOf({ source, exists }: LocalAnswer, name: string, { zones, hostsPath }: ExplainContext): string {
  switch (source) {
    case Source.Localhost:
      return "the guest's own loopback";
    case Source.Zone:
      return zones.ruleOf(name);
    case Source.HostAlias:
      return "built in: the address of the host's loopback";
    case Source.Gateway:
      return 'built in: the gateway';
    case Source.Guest:
      return 'a VM, by its DHCP host name';
    case Source.OwnDomain:
      return exists ? 'the domain of the VMs' : 'the domain or network of the VMs: nobody else knows its names';
    case Source.Hosts:
      return hostsPath;
  }
}

const FLAG_NAMES: readonly (readonly [number, string])[] = [
  [KEY_DO, 'do'],
  [KEY_CD, 'cd'],
  [KEY_AD, 'ad'],
  [KEY_EDNS, 'edns'],
];
/** Every kind of question that asks for recursion. */
const FLAG_SETS: readonly number[] = Array.from({ length: 1 << FLAG_NAMES.length }, (_, i) =>
  FLAG_NAMES.reduce((set, [bit], at) => (i & (1 << at) ? set | bit : set), KEY_RD),
);

function cachedOf(e: CacheEntry, now: Millis): CachedAnswer {
  const rcode = e.message[3]! & RCODE_MASK;
  return {
    rcode: RCODES[rcode] ?? `RCODE${rcode}`,
    records: (e.message[6]! << 8) | e.message[7]!,
    ttlSeconds: Math.max(0, Math.floor((e.expiresAt - now) / 1000)),
    flags: FLAG_NAMES.filter(([bit]) => e.keyFlags & bit).map(([, flag]) => flag),
  };
}
