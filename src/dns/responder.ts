// A guest's query in, its answer out: the order of cache, local names and upstream, and everything that makes a shared answer
// this guest's own (id, case of the question, size, OPT). Sans-I/O; both transports of the gateway hand their queries in here.
//
//   query -> QueryView -> [error] -> cache -> policy (local names, hosts) -> resolver -> ... -> Asker.deliver

import { copyBytes, getU16, setU16 } from '../base/bytes.ts';
import type { Millis } from '../base/clock.ts';
import type { Random } from '../base/random.ts';
import { AnswerWriter } from './answer.ts';
import { Cache, type CacheEntry } from './cache.ts';
import type { Hosts } from './hosts.ts';
import type { LocalNames } from './local-names.ts';
import type { Lookup, Waiter } from './lookup.ts';
import {
  CLASS_ANY,
  CLASS_IN,
  FLAG_RD,
  FLAG_TC,
  HEADER_BYTES,
  MESSAGE_MAX_BYTES,
  QueryVerdict,
  QueryView,
  RCODE_BADVERS,
  RCODE_FORMERR,
  RCODE_NOTIMP,
  RCODE_REFUSED,
  RCODE_SERVFAIL,
  udpLimit,
} from './message.ts';
import { nameToText } from './name.ts';
import { Policy } from './policy.ts';
import { QuestionKey } from './question-table.ts';
import type { ServerAddress } from './resolv-conf.ts';
import { Resolver } from './resolver.ts';
import { type ResolverTransport, ResolveVerdict } from './resolver-options.ts';
import { cacheTtlSec, ResponseView } from './response.ts';
import { DnsStats } from './stats.ts';
import type { UpstreamRule } from './upstreams.ts';

/** Who asked, and the way back to it. */
export interface Asker {
  /** The VM's number: limits are per VM. */
  readonly client: number;
  readonly tcp: boolean;
  /** The largest UDP payload that the guest's link carries in one packet. */
  readonly linkLimitBytes: number;
  /** One that stays valid until its answer; may return itself. */
  hold(): Asker;
  /** Sends the answer; the bytes are valid until the call returns. */
  deliver(buf: Uint8Array, off: number, len: number, now: Millis): void;
}

export interface ResponderOptions {
  readonly names: LocalNames;
  readonly transport: ResolverTransport;
  readonly random: Random;
  readonly cacheBytes: number;
  readonly maxInFlight: number;
  readonly maxPerClient: number;
}

/** A query that waits for its answer from upstream. */
class Pending implements Waiter {
  next: Waiter | undefined = undefined;
  readonly client: number;
  readonly asker: Asker;
  readonly id: number;
  readonly rd: number;
  readonly limit: number;
  readonly keepOpt: boolean;
  /** The question name as the guest wrote it. */
  readonly name: Uint8Array;
  readonly #done: (p: Pending, view: ResponseView, now: Millis) => void;

  constructor(q: QueryView, asker: Asker, done: (p: Pending, view: ResponseView, now: Millis) => void) {
    this.client = asker.client;
    this.asker = asker.hold();
    this.id = q.id;
    this.rd = q.flags & FLAG_RD;
    this.limit = sizeLimit(q, asker);
    this.keepOpt = q.hasOpt;
    this.name = new Uint8Array(q.nameLen);
    copyBytes(q.buf, q.nameOff, this.name, 0, q.nameLen);
    this.#done = done;
  }

  onAnswer(view: ResponseView, now: Millis): void {
    this.#done(this, view, now);
  }
}

export class Responder {
  readonly stats: DnsStats = new DnsStats();
  readonly cache: Cache;
  readonly policy: Policy;
  readonly resolver: Resolver;
  /** Sees every answer before it is delivered; the bytes are valid until the call returns. */
  onAnswer: ((client: number, buf: Uint8Array, off: number, len: number) => void) | undefined = undefined;
  readonly #query = new QueryView();
  readonly #key: QuestionKey;
  readonly #out = new Uint8Array(MESSAGE_MAX_BYTES);
  readonly #writer = new AnswerWriter(this.#out);
  readonly #fit = new ResponseView();
  readonly #onPending = (p: Pending, view: ResponseView, now: Millis): void => this.#relay(p, view, now);

  constructor(options: ResponderOptions) {
    this.policy = new Policy(options.names);
    this.cache = new Cache(options.cacheBytes);
    this.#key = new QuestionKey(options.random.i32());
    this.resolver = new Resolver({
      transport: options.transport,
      random: options.random,
      stats: this.stats,
      maxInFlight: options.maxInFlight,
      maxPerClient: options.maxPerClient,
      seenByGuest: (addresses) => this.policy.seenByGuest(addresses),
      onAnswered: (l, view, now) => this.#remember(l, view, now),
    });
  }

  /** The host's resolvers have changed: what they said is forgotten. @returns false if they are the same as before. */
  setServers(servers: readonly ServerAddress[], useTcp: boolean, now: Millis): boolean {
    this.resolver.useTcp = useTcp;
    // Open questions are asked anew there, so nothing of the old servers comes into the cache after this.
    const changed = this.resolver.setServers(servers, now);
    if (changed) this.cache.flush();
    return changed;
  }

  /** The same with rules by domain. */
  setRules(rules: readonly UpstreamRule[], useTcp: boolean, now: Millis): boolean {
    this.resolver.useTcp = useTcp;
    const changed = this.resolver.setRules(rules, now);
    if (changed) this.cache.flush();
    return changed;
  }

  /** Cached answers to a question, for each set of its flags that has one. @param name wire name. */
  cachedAnswers(name: Uint8Array, type: number, klass: number, flags: readonly number[], now: Millis): CacheEntry[] {
    const found: CacheEntry[] = [];
    for (const set of flags) {
      this.#key.set(name, 0, name.length, type, klass, set);
      const entry = this.cache.peek(this.#key, now);
      if (entry !== undefined) found.push(entry);
    }
    return found;
  }

  setHosts(hosts: Hosts): void {
    this.policy.setHosts(hosts);
    this.cache.flush();
  }

  /** One message of a guest. Its answer goes to `asker`, at once or later; what deserves none is counted. */
  onQuery(buf: Uint8Array, off: number, len: number, asker: Asker, now: Millis): void {
    const q = this.#query;
    const verdict = q.wrap(buf, off, len);
    if (verdict !== QueryVerdict.Ok) {
      this.#reject(verdict, asker, now);
      return;
    }
    this.stats.queries++;
    if (asker.tcp) this.stats.tcpQueries++;
    const key = this.#key;
    key.set(buf, q.nameOff, q.nameLen, q.type, q.klass, q.keyFlags);
    const cached = q.shareable ? this.cache.find(key, now) : undefined;
    const version = this.policy.version;
    if (cached === undefined || cached.localVersion !== version) {
      if (this.#local(asker, now)) return;
      if (cached !== undefined) cached.localVersion = version;
    }
    if (cached === undefined) {
      this.#forward(asker, version, now);
      return;
    }
    this.stats.cacheHits++;
    const length = cached.writeTo(this.#out, 0, now);
    const cut = cached.hasOpt && !q.hasOpt;
    this.#finish(asker, q.id, q.flags & FLAG_RD, buf, q.nameOff, q.nameLen, length, sizeLimit(q, asker), cut, now);
  }

  #reject(verdict: QueryVerdict, asker: Asker, now: Millis): void {
    if (verdict === QueryVerdict.Short || verdict === QueryVerdict.NotQuery) {
      this.stats.malformed++;
      return;
    }
    this.stats.rejected++;
    const rcode =
      verdict === QueryVerdict.NotImp ? RCODE_NOTIMP : verdict === QueryVerdict.BadVers ? RCODE_BADVERS : RCODE_FORMERR;
    this.#deliver(asker, this.#writer.error(this.#query, rcode), now);
  }

  #local(asker: Asker, now: Millis): boolean {
    const q = this.#query;
    if (q.klass !== CLASS_IN && q.klass !== CLASS_ANY) return false;
    const data = this.policy.lookup(nameToText(this.#key.name, 0, q.nameLen));
    if (data === undefined) return false;
    this.stats.localAnswers++;
    let length = this.#writer.local(q, data);
    const limit = sizeLimit(q, asker);
    if (length > limit && this.#fit.wrap(this.#out, 0, length)) length = this.#cut(limit, q.hasOpt);
    this.#deliver(asker, length, now);
    return true;
  }

  #forward(asker: Asker, version: number, now: Millis): void {
    const q = this.#query;
    const pending = new Pending(q, asker, this.#onPending);
    const verdict = this.resolver.resolve(q, this.#key, pending, version, now);
    if (verdict === ResolveVerdict.Pending) return;
    this.stats.refusedLimit++;
    const rcode = verdict === ResolveVerdict.ClientLimit ? RCODE_REFUSED : RCODE_SERVFAIL;
    // Through what was held: every held asker hears exactly once.
    this.#deliver(pending.asker, this.#writer.error(q, rcode), now);
  }

  #remember(l: Lookup, view: ResponseView, now: Millis): void {
    if (!l.shareable) return;
    const ttlSec = cacheTtlSec(view);
    if (ttlSec <= 0) return;
    this.#key.set(l.query.wire, HEADER_BYTES, l.nameLen, l.type, l.klass, l.keyFlags);
    this.cache.insert(this.#key, view, ttlSec, l.localVersion, now);
  }

  #relay(p: Pending, view: ResponseView, now: Millis): void {
    // Copy: several guests may wait for the same bytes, each with its own id and case.
    copyBytes(view.buf, view.off, this.#out, 0, view.length);
    const cut = view.optOff >= 0 && !p.keepOpt;
    this.#finish(p.asker, p.id, p.rd, p.name, 0, p.name.length, view.length, p.limit, cut, now);
  }

  /** Makes the response in `out` this guest's. */
  #finish(
    asker: Asker,
    id: number,
    rd: number,
    name: Uint8Array,
    nameOff: number,
    nameLen: number,
    length: number,
    limit: number,
    dropOpt: boolean,
    now: Millis,
  ): void {
    const out = this.#out;
    setU16(out, 0, id);
    setU16(out, 2, (getU16(out, 2) & ~FLAG_RD) | rd);
    copyBytes(name, nameOff, out, HEADER_BYTES, nameLen);
    if ((length > limit || dropOpt) && this.#fit.wrap(out, 0, length)) length = this.#cut(limit, !dropOpt);
    this.#deliver(asker, length, now);
  }

  #cut(limit: number, keepOpt: boolean): number {
    const before = this.#fit.flags & FLAG_TC;
    const length = this.#fit.fit(limit, keepOpt);
    if (before === 0 && getU16(this.#out, 2) & FLAG_TC) this.stats.truncated++;
    return length;
  }

  #deliver(asker: Asker, length: number, now: Millis): void {
    this.stats.answers++;
    if (this.onAnswer !== undefined) this.onAnswer(asker.client, this.#out, 0, length);
    asker.deliver(this.#out, 0, length, now);
  }
}

function sizeLimit(q: QueryView, asker: Asker): number {
  return asker.tcp ? MESSAGE_MAX_BYTES : udpLimit(q, asker.linkLimitBytes);
}
