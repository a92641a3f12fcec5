// Which servers a name is asked of: rules by domain, of which the most specific that the name lies in holds, and one for all the rest.
// Where rules come from is the shell's business; how the servers of one are asked is `resolver`'s.

import { type Server, ServerList, type UpstreamServer } from './server.ts';

/** What part the host's own resolver (getaddrinfo) has in finding addresses. */
export const HostUse = {
  /** It is asked where a rule has no server. */
  Alone: 'alone',
  /** It is asked too when no server answers. */
  Last: 'last',
  /** It is asked before the servers: it knows by which interface this domain's are reached. */
  First: 'first',
} as const;
export type HostUse = (typeof HostUse)[keyof typeof HostUse];

export interface UpstreamRule {
  /** Lower case, without the final dot; empty for every name that no other rule is for. */
  readonly domain: string;
  readonly servers: readonly UpstreamServer[];
  /** Where the rule is written: a path, an option; printed. */
  readonly source: string;
  readonly host: HostUse;
  /**
   * That a name or type does not exist is believed only when every server has said so: they know different names. VPNKit asks so.
   */
  readonly thorough?: boolean;
}

/** A rule in force. */
export class Route {
  readonly domain: string;
  readonly servers: ServerList = new ServerList();
  source = '';
  host: HostUse = HostUse.Alone;
  thorough = false;
  /** When all its servers have had their time; Infinity if one has no limit. */
  patienceMs: number = Number.POSITIVE_INFINITY;

  constructor(domain: string) {
    this.domain = domain;
  }

  /** @returns whether anything but the words has changed. */
  set(rule: UpstreamRule, known: Map<string, Server>): boolean {
    const thorough = rule.thorough ?? false;
    const same = this.host === rule.host && this.thorough === thorough;
    this.source = rule.source;
    this.host = rule.host;
    this.thorough = thorough;
    const changed = this.servers.replace(rule.servers, known);
    const { all } = this.servers;
    this.patienceMs = all.length === 0 ? Number.POSITIVE_INFINITY : all.reduce((sum, s) => sum + s.timeoutMs, 0);
    return changed || !same;
  }
}

const NOTHING: UpstreamRule = { domain: '', servers: [], source: '', host: HostUse.Alone };

export class Upstreams {
  /** For every name that no other is for. */
  readonly fallback: Route = new Route('');
  #routes = new Map<string, Route>();

  /** Those for domains. */
  get routes(): readonly Route[] {
    return [...this.#routes.values()];
  }

  get hasDomains(): boolean {
    return this.#routes.size > 0;
  }

  /** Every server, each once. */
  get servers(): readonly Server[] {
    return [...new Set([this.fallback, ...this.routes].flatMap((r) => r.servers.all))];
  }

  /** @param name lower case, without the final dot; it does not matter while no rule is for a domain. */
  route(name: string): Route {
    if (this.#routes.size === 0) return this.fallback;
    for (let at = 0; ; ) {
      const found = this.#routes.get(name.slice(at));
      if (found !== undefined) return found;
      const dot = labelEnd(name, at);
      if (dot < 0) return this.fallback;
      at = dot + 1;
    }
  }

  /** Takes new rules; of two for one domain the first holds. @returns false if nothing changed. */
  replace(rules: readonly UpstreamRule[]): boolean {
    const known = new Map<string, Server>();
    for (const r of [this.fallback, ...this.routes]) r.servers.share(known);
    const routes = new Map<string, Route>();
    let changed = false;
    let rest = NOTHING;
    for (const rule of rules) {
      if (rule.domain === '') {
        if (rest === NOTHING) rest = rule;
      } else if (!routes.has(rule.domain)) {
        const old = this.#routes.get(rule.domain);
        const route = old ?? new Route(rule.domain);
        if (route.set(rule, known) || old === undefined) changed = true;
        routes.set(rule.domain, route);
      }
    }
    if (routes.size !== this.#routes.size) changed = true;
    this.#routes = routes;
    return this.fallback.set(rest, known) || changed;
  }

  /** Nothing is held against any server any more. */
  forgive(): void {
    for (const r of [this.fallback, ...this.routes]) r.servers.forgive();
  }
}

/** The dot behind a label; dots and backslashes inside of one are escaped. @returns -1 at the last. */
function labelEnd(name: string, from: number): number {
  for (let at = from; at < name.length; at++) {
    if (name[at] === '\\') at++;
    else if (name[at] === '.') return at;
  }
  return -1;
}
