// The query state machine: which server is asked when, over what, and which answer is believed. Sans-I/O: it hands queries to a
// transport and takes messages and failures from it. One question in flight is shared by all who ask it.
// It neither caches nor knows guests. RFC 1035 7, RFC 5452, RFC 7766 5, RFC 2181 9.
//
// Order of events for one lookup, servers A (preferred) and B:
//   0 ms A, 800 ms B too (all attempts stay open, the first good answer wins), then round again, the third round over TCP,
//   SERVFAIL after 4.5 s: guests give up at 5. A socket error or a useless rcode moves on at once instead of after 800 ms.
//   Between B and more servers 300 ms pass: with three silent ones the fourth answers before 1.5 s.

import { getU16 } from '../base/bytes.ts';
import type { Millis } from '../base/clock.ts';
import { DeadlineQueue } from '../base/deadline-queue.ts';
import type { Random } from '../base/random.ts';
import type { IpAddress } from '../ip/address.ts';
import { AnswerWriter } from './answer.ts';
import { isNegative, isPartialTransfer, isUseless, worth } from './answer-worth.ts';
import { AttemptTable } from './attempt-table.ts';
import { Attempt, Lookup, type Waiter } from './lookup.ts';
import {
  CLASS_IN,
  HEADER_BYTES,
  MESSAGE_MAX_BYTES,
  QueryView,
  RCODE_NOERROR,
  RCODE_NOTIMP,
  RCODE_NXDOMAIN,
  RCODE_SERVFAIL,
  TYPE_A,
  TYPE_AAAA,
  UDP_SAFE_BYTES,
} from './message.ts';
import { nameToText } from './name.ts';
import { OpenLookups } from './open-lookups.ts';
import { type QuestionKey, QuestionTable } from './question-table.ts';
import type { ServerAddress } from './resolv-conf.ts';
import { type ResolverOptions, type ResolverTransport, ResolveVerdict } from './resolver-options.ts';
import { ResponseView } from './response.ts';
import type { Server, ServerList } from './server.ts';
import type { DnsStats } from './stats.ts';
import { HostUse, type UpstreamRule, Upstreams } from './upstreams.ts';

/** Patience with one server before another (or the same again) is asked as well. */
const STEP_MS = 800;
/** The same with one that was asked because another kept silent, if more are to be asked: the guest has waited already. */
const NEXT_STEP_MS = 300;
/** The same for a TCP connection, which takes at least two round trips. */
const TCP_STEP_MS = 1500;
/** Total patience: stub resolvers give up after 5 s. */
const DEADLINE_MS = 4500;
/** How long the host's own resolver is waited for once every server has refused. */
const HOST_LAST_MS = 500;
/** How long a probe may take after its lookup was answered by another server. */
const PROBE_MS = 1000;
/** Attempts open at once, so that free ids stay easy to find and hard to guess. */
const ATTEMPTS_MAX = 32_768;
/** Clients without open questions whose counter is kept: a Map that entries come to and go from is made anew again and again. */
const IDLE_CLIENTS = 64;
/** Answers beyond this are not kept as second best; their rcode is. */
const BEST_MAX_BYTES = 4096;
/** TTL of addresses from the host's own resolver, which tells none: what changes them need not be anything that we notice. */
const HOST_TTL_SEC = 1;

export class Resolver {
  /** Who is asked for which names. */
  readonly upstreams: Upstreams = new Upstreams();
  /** `options use-vc`: TCP only. */
  useTcp = false;
  readonly #transport: ResolverTransport;
  readonly #random: Random;
  readonly #stats: DnsStats;
  readonly #maxInFlight: number;
  readonly #maxPerClient: number;
  readonly #seenByGuest: (addresses: readonly IpAddress[]) => readonly IpAddress[];
  readonly #onAnswered: (lookup: Lookup, view: ResponseView, now: Millis) => void;
  readonly #table = new QuestionTable<Lookup>();
  readonly #open = new OpenLookups();
  readonly #attempts = new AttemptTable();
  readonly #perClient = new Map<number, number>();
  readonly #deadlines = new DeadlineQueue();
  readonly #view = new ResponseView();
  readonly #made = new ResponseView();
  readonly #query = new QueryView();
  readonly #writer = new AnswerWriter(new Uint8Array(MESSAGE_MAX_BYTES));
  readonly #onLookupDeadline = (l: Lookup, now: Millis): void => this.#onDeadline(l, now);

  constructor(options: ResolverOptions) {
    this.#transport = options.transport;
    this.#random = options.random;
    this.#stats = options.stats;
    this.#maxInFlight = options.maxInFlight;
    this.#maxPerClient = options.maxPerClient;
    this.#seenByGuest = options.seenByGuest ?? ((addresses) => addresses);
    this.#onAnswered = options.onAnswered;
  }

  /** The servers of every name that no rule of its own is for. */
  get servers(): ServerList {
    return this.upstreams.fallback.servers;
  }

  /** Questions in flight. */
  get inFlight(): number {
    return this.#open.size;
  }

  /** Queries in flight, probes included. */
  get attemptsInFlight(): number {
    return this.#attempts.size;
  }

  nextDeadline(): Millis {
    return this.#deadlines.next;
  }

  poll(now: Millis): void {
    this.#deadlines.run(now);
  }

  /** One list of servers for every name. */
  setServers(servers: readonly ServerAddress[], now: Millis): boolean {
    return this.setRules([{ domain: '', servers, source: '', host: HostUse.Alone }], now);
  }

  /** Takes new rules. Open questions are asked anew by them: an answer of the old servers may be wrong now. */
  setRules(rules: readonly UpstreamRule[], now: Millis): boolean {
    if (!this.upstreams.replace(rules)) return false;
    this.restart(now);
    return true;
  }

  /** Asks every open question anew, as if nothing had been sent for it. */
  restart(now: Millis): void {
    for (const l of this.#open.list()) {
      this.#cancelAll(l, true);
      l.best = undefined;
      l.bestRcode = -1;
      l.negative = false;
      this.#start(l, now);
    }
  }

  /** Asks upstream, or joins who asks already. The waiter belongs to the resolver until its answer. */
  resolve(q: QueryView, key: QuestionKey, waiter: Waiter, localVersion: number, now: Millis): ResolveVerdict {
    const count = this.#perClient.get(waiter.client) ?? 0;
    if (count >= this.#maxPerClient) return ResolveVerdict.ClientLimit;
    const joined = q.shareable ? this.#table.find(key) : undefined;
    if (joined === undefined && this.#open.size >= this.#maxInFlight) return ResolveVerdict.Full;
    this.#perClient.set(waiter.client, count + 1);
    if (joined !== undefined) {
      this.#stats.shared++;
      waiter.next = joined.waiters;
      joined.waiters = waiter;
      return ResolveVerdict.Pending;
    }
    const l = new Lookup(q, key, localVersion, this.#onLookupDeadline);
    l.waiters = waiter;
    l.deadline = now + DEADLINE_MS;
    this.#open.add(l);
    if (l.shareable) this.#table.add(l);
    this.#stats.lookups++;
    this.#start(l, now);
    return ResolveVerdict.Pending;
  }

  /**
   * A message from a server. Believed only if channel, server, id and question are those of an open query (RFC 5452 9.1).
   * @returns false if it was ignored; the wait goes on.
   */
  onMessage(
    server: Server,
    tcp: boolean,
    channel: unknown,
    buf: Uint8Array,
    off: number,
    len: number,
    now: Millis,
  ): boolean {
    const a = len >= HEADER_BYTES ? this.#attempts.get(getU16(buf, off)) : undefined;
    if (a === undefined || a.server !== server || a.tcp !== tcp || a.channel !== channel) return this.#ignore();
    const l = a.lookup;
    const view = this.#view;
    const whole = view.wrap(buf, off, len);
    // Some servers send an error as a bare header; others cut a TC answer in the middle of a record.
    const bareError = whole && view.questions === 0 && view.rcode !== RCODE_NOERROR;
    if (!whole && !(view.questionEnd > 0 && view.truncated && !tcp)) return this.#ignore();
    if (!bareError && !view.asks(l.query.wire, HEADER_BYTES, l.nameLen, l.type, l.klass)) return this.#ignore();
    server.onAnswer(a.sentAt, now);
    this.#forget(a);
    if (l.finished) this.#settle(l);
    else if (view.truncated && !tcp) {
      this.#keepBest(l, whole);
      this.#ask(l, server, true, false, now);
      l.nextStepAt = now + TCP_STEP_MS;
      this.#deadlines.update(l);
    } else if (isUseless(view.rcode)) {
      this.#keepBest(l, !bareError);
      this.#advance(l, now);
    } else if (l.thorough && isNegative(view) && view.length <= BEST_MAX_BYTES) {
      this.#keepBest(l, true);
      l.negative = true;
      if (l.step < l.order.length && !l.order[l.step]!.suspect) this.#advance(l, now);
      else if (!hasHopeful(l)) this.#finishFailed(l, now);
    } else if (isPartialTransfer(view)) {
      this.#finishError(l, RCODE_NOTIMP, now);
    } else {
      this.#finish(l, view, now);
    }
    return true;
  }

  /** The host could not send a query, or not receive its answer: ECONNREFUSED, no route, no socket, connection closed. */
  onFailure(a: Attempt, now: Millis): void {
    if (!a.live) return;
    this.#stats.hostErrors++;
    // A closed TCP port says little about a server that has just answered over UDP.
    if (!a.tcp || this.useTcp) a.server.onFailure(now);
    this.#forget(a);
    if (a.lookup.finished) this.#settle(a.lookup);
    else this.#advance(a.lookup, now);
  }

  /** The host's own resolver has answered `lookupHost`. @param addresses undefined: it failed; `exists` false: no such name. */
  onHostAddresses(l: Lookup, addresses: readonly IpAddress[] | undefined, exists: boolean, now: Millis): void {
    if (l.finished || !l.hostOpen) return;
    l.hostOpen = false;
    // Where there are servers its "no such name" may be no more than their silence, and is not passed on.
    if (addresses === undefined || (!exists && l.order.length > 0)) {
      if (l.step < l.order.length || l.attempts === undefined) this.#advance(l, now);
      return;
    }
    const q = this.#query;
    q.wrap(l.query.wire, 0, l.query.wire.length);
    const rcode = exists ? RCODE_NOERROR : RCODE_NXDOMAIN;
    this.#writer.begin(q, rcode, false);
    for (const a of this.#seenByGuest(addresses)) {
      if ((l.type === TYPE_A) === a.isV4) this.#writer.addAddress(a, HOST_TTL_SEC);
    }
    this.#finishMade(l, this.#writer.finish(q, rcode), now);
  }

  /** Answers all open questions SERVFAIL: the service ends. */
  close(now: Millis): void {
    for (const l of this.#open.list()) this.#finishError(l, RCODE_SERVFAIL, now);
    for (const a of this.#attempts.list()) {
      this.#cancel(a);
      this.#settle(a.lookup);
    }
  }

  #ignore(): false {
    this.#stats.ignoredAnswers++;
    return false;
  }

  #start(l: Lookup, now: Millis): void {
    const { upstreams } = this;
    const route = upstreams.hasDomains ? upstreams.route(nameText(l)) : upstreams.fallback;
    const order = route.servers.order();
    l.order = order;
    l.step = 0;
    l.hurried = false;
    l.thorough = route.thorough;
    l.hostOpen = false;
    l.hostLast = route.host !== HostUse.Alone;
    l.deadline = Math.min(l.deadline, now + route.patienceMs);
    if (order.length === 0 || route.host === HostUse.First) {
      const asked = this.#askHost(l, now);
      if (order.length === 0 || asked) {
        l.nextStepAt = order.length === 0 ? l.deadline : now + STEP_MS;
        if (asked) this.#deadlines.update(l);
        else this.#finishFailed(l, now);
        return;
      }
    }
    // With nobody healthy there is no order to keep: whoever is back first answers.
    const all = order[0]!.suspect ? order.length : 1;
    while (l.step < all) this.#askNext(l, now);
    if (all === 1) {
      const due = dueProbe(order, now);
      if (due !== undefined) {
        due.onProbe(now);
        this.#ask(l, due, false, true, now);
      }
    }
    this.#deadlines.update(l);
  }

  /** Asks the host's own resolver, at most once by one rule. @returns false if it cannot say, or is asked too much already. */
  #askHost(l: Lookup, now: Millis): boolean {
    const address = l.klass === CLASS_IN && (l.type === TYPE_A || l.type === TYPE_AAAA);
    const name = nameText(l);
    l.hostLast = false;
    l.hostOpen = address && name !== '.' && !name.includes('\\') && this.#transport.lookupHost(l, name, now);
    return l.hostOpen;
  }

  /** Whether the host's own resolver may still have an answer that no server has. */
  #hostMayKnow(l: Lookup, now: Millis): boolean {
    if (l.hostOpen || !l.hostLast) return l.hostOpen;
    return this.#askHost(l, now);
  }

  /** Asks the next server of the order, going round; the third round goes over TCP, for networks that lose DNS over UDP. */
  #askNext(l: Lookup, now: Millis): void {
    const n = l.order.length;
    const tcp = Math.floor(l.step / n) === 2;
    const server = l.order[l.step % n]!;
    const next = l.hurried && l.step + 1 < n && server.timeoutMs === Number.POSITIVE_INFINITY;
    const patienceMs = next ? NEXT_STEP_MS : stepMs(server, tcp);
    this.#ask(l, server, tcp, false, now, patienceMs);
    l.step++;
    l.nextStepAt = now + patienceMs;
  }

  #ask(l: Lookup, server: Server, tcp: boolean, probe: boolean, now: Millis, patienceMs = stepMs(server, tcp)): void {
    if (this.#attempts.size >= ATTEMPTS_MAX) return;
    let id = this.#random.i32() & 0xffff;
    while (this.#attempts.get(id) !== undefined) id = this.#random.i32() & 0xffff;
    const overTcp = tcp || this.useTcp || l.query.wire.length > UDP_SAFE_BYTES;
    const a = new Attempt(l, server, overTcp, probe, id, now, patienceMs);
    this.#attempts.add(a);
    l.add(a);
    server.sent++;
    this.#stats.upstreamSent++;
    if (overTcp) this.#stats.upstreamTcp++;
    this.#transport.send(a, now);
  }

  /** An attempt came to nothing: the next server at once, or the end if all were asked and nothing is out. */
  #advance(l: Lookup, now: Millis): void {
    if (l.step < l.order.length) this.#askNext(l, now);
    else if (l.attempts === undefined) {
      this.#finishFailed(l, now);
      return;
    }
    this.#deadlines.update(l);
  }

  #onDeadline(l: Lookup, now: Millis): void {
    if (l.finished) {
      for (let a = l.attempts; a !== undefined; a = a.nextOfLookup) this.#silence(a, now);
      this.#cancelAll(l, true);
      this.#settle(l);
      return;
    }
    const last = now >= l.deadline;
    for (let a = l.attempts; a !== undefined; a = a.nextOfLookup) {
      if (last || now - a.sentAt >= a.patienceMs) this.#silence(a, now);
    }
    const all = l.step >= l.order.length;
    // With an error in hand and everybody asked, it is not worth another round; a truncated answer is worth waiting on.
    if (last || l.order.length === 0 || ((l.bestRcode > 0 || l.negative) && all)) {
      this.#finishFailed(l, now);
      return;
    }
    // Beside the next round, not after it: the guest's patience is over then.
    if (all && l.bestRcode < 0) this.#hostMayKnow(l, now);
    // Not by TCP, which takes its time, nor where everybody's word is wanted.
    l.hurried = !this.useTcp && !l.thorough;
    this.#askNext(l, now);
  }

  #silence(a: Attempt, now: Millis): void {
    if (a.silent) return;
    a.silent = true;
    this.#stats.timeouts++;
    if (!a.tcp || this.useTcp) a.server.onSilence(a.sentAt, now);
  }

  /** A truncated answer is worth more than "no such name", that more than an error, an earlier error more than a later. */
  #keepBest(l: Lookup, usable: boolean): void {
    const { buf, off, length, rcode } = this.#view;
    if (l.bestRcode >= 0 && worth(rcode) <= worth(l.bestRcode)) return;
    if (rcode === RCODE_NOERROR && !(usable && length <= BEST_MAX_BYTES)) return;
    l.bestRcode = rcode;
    l.best = usable && length <= BEST_MAX_BYTES ? Uint8Array.from(buf.subarray(off, off + length)) : undefined;
  }

  /** Nobody gave a good answer: the best of the others, else SERVFAIL. */
  #finishFailed(l: Lookup, now: Millis): void {
    if (l.best !== undefined && this.#made.wrap(l.best, 0, l.best.length)) this.#finish(l, this.#made, now);
    else if (l.bestRcode >= 0) this.#finishError(l, l.bestRcode, now);
    else if (now < l.deadline && this.#hostMayKnow(l, now)) {
      l.deadline = Math.min(l.deadline, now + HOST_LAST_MS);
      l.nextStepAt = l.deadline;
      this.#deadlines.update(l);
    } else {
      this.#stats.failures++;
      this.#finishError(l, RCODE_SERVFAIL, now);
    }
  }

  #finishError(l: Lookup, rcode: number, now: Millis): void {
    this.#query.wrap(l.query.wire, 0, l.query.wire.length);
    this.#finishMade(l, this.#writer.error(this.#query, rcode), now);
  }

  #finishMade(l: Lookup, len: number, now: Millis): void {
    this.#made.wrap(this.#writer.out, 0, len);
    this.#finish(l, this.#made, now);
  }

  #finish(l: Lookup, view: ResponseView, now: Millis): void {
    this.#open.remove(l);
    this.#table.remove(l);
    l.finished = true;
    this.#cancelAll(l, false);
    // A probe outlives its lookup, or a distant server could never win against a near one and come back.
    l.deadline = now + PROBE_MS;
    this.#settle(l);
    this.#onAnswered(l, view, now);
    let w = l.waiters;
    l.waiters = undefined;
    while (w !== undefined) {
      const next = w.next;
      w.next = undefined;
      const count = this.#perClient.get(w.client)! - 1;
      if (count === 0 && this.#perClient.size > IDLE_CLIENTS) this.#perClient.delete(w.client);
      else this.#perClient.set(w.client, count);
      w.onAnswer(view, now);
      w = next;
    }
  }

  /** Leaves a finished lookup in the queue only for a probe that is still out. */
  #settle(l: Lookup): void {
    if (l.attempts === undefined) this.#deadlines.remove(l);
    else this.#deadlines.update(l);
  }

  #cancelAll(l: Lookup, probes: boolean): void {
    for (let a = l.attempts; a !== undefined; ) {
      const next = a.nextOfLookup;
      if (probes || !a.probe) this.#cancel(a);
      a = next;
    }
  }

  #cancel(a: Attempt): void {
    this.#transport.cancel(a);
    this.#forget(a);
  }

  #forget(a: Attempt): void {
    a.live = false;
    this.#attempts.remove(a);
    a.lookup.remove(a);
  }
}

/** The name asked for, lower case. */
function nameText(l: Lookup): string {
  return nameToText(l.query.wire, HEADER_BYTES, l.nameLen).toLowerCase();
}

/** Whether a query is out from which an answer may be expected. */
function hasHopeful(l: Lookup): boolean {
  for (let a = l.attempts; a !== undefined; a = a.nextOfLookup) if (!a.probe && !a.server.suspect) return true;
  return false;
}

function dueProbe(servers: readonly Server[], now: Millis): Server | undefined {
  for (const s of servers) if (s.suspect && s.probeAt <= now) return s;
  return undefined;
}

/** Patience with one server before another is asked as well. */
function stepMs(server: Server, tcp: boolean): number {
  return Math.min(tcp ? TCP_STEP_MS : STEP_MS, server.timeoutMs);
}
