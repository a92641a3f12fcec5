// A day of a laptop on a virtual clock: three guests ask some hundred thousand questions while servers die and come back, lose
// answers, networks change and the machine sleeps. Every question is answered once, in time and rightly, and nothing piles up.

import t from 'tap';
import type { Attempt } from '../../src/dns/lookup.ts';
import type { ResolverTransport } from '../../src/dns/resolver-options.ts';
import { type Asker, Responder } from '../../src/dns/responder.ts';
import { ttlsOf } from '../helpers/wire-dns.ts';
import { Guests, localNames, query, SeededRandom, server } from './rig.ts';

const SECOND = 1000;
const HOUR = 3600 * SECOND;
const DAY_HOURS = 24;
const CACHE_BYTES = 256 * 1024;
const POPULAR = 200;
/** The hour in which the machine sleeps. */
const ASLEEP = 12;
/** Where the answers come from: which network the laptop is in. */
const NETWORKS = [['192.0.2.1', '192.0.2.2'], ['198.51.100.53'], ['203.0.113.1', '203.0.113.2', '203.0.113.3']];
const ROUND_TRIP_MS = [3, 40];

/** What happens later; the earliest first, in the order of asking among equals. */
class Agenda {
  readonly #items: { at: number; run: (now: number) => void }[] = [];

  get next(): number {
    return this.#items[0]?.at ?? Number.POSITIVE_INFINITY;
  }

  add(at: number, run: (now: number) => void): void {
    let i = this.#items.length;
    while (i > 0 && this.#items[i - 1]!.at > at) i--;
    this.#items.splice(i, 0, { at, run });
  }

  runFirst(): void {
    const first = this.#items.shift()!;
    first.run(first.at);
  }
}

/** The A record's first byte tells the network, the others the name. */
function addressOf(name: number, network: number): number[] {
  return [20 + network, (name >> 16) & 255, (name >> 8) & 255, name & 255];
}

interface Hour {
  questions: number;
  waitedMs: number;
  slowestMs: number;
  upstream: number;
  entries: number;
}

class Day implements ResolverTransport {
  readonly agenda = new Agenda();
  readonly random = new SeededRandom(20_261_128);
  readonly dead = new Set<string>();
  readonly hours: Hour[] = [];
  readonly responder: Responder;
  network = 0;
  wrong: string[] = [];
  open = 0;

  constructor() {
    this.responder = new Responder({
      names: localNames(new Guests()),
      transport: this,
      random: new SeededRandom(3),
      cacheBytes: CACHE_BYTES,
      maxInFlight: 4096,
      maxPerClient: 2048,
    });
    this.moveTo(0, 0);
  }

  below(n: number): number {
    return (this.random.i32() >>> 0) % n;
  }

  moveTo(network: number, now: number): void {
    this.network = network;
    this.responder.setServers(NETWORKS[network]!.map(server), false, now);
  }

  // --- The servers.

  send(a: Attempt, now: number): void {
    a.channel = this;
    const { text } = a.server;
    const network = NETWORKS.findIndex((list) => list.some((s) => text === `${s}:53`));
    // One answer in two hundred is lost on the way.
    if (this.dead.has(text) || (!a.tcp && this.below(200) === 0)) return;
    const at = now + ROUND_TRIP_MS[0]! + this.below(ROUND_TRIP_MS[1]!);
    this.agenda.add(at, (then) => {
      if (!a.live) return;
      const q = a.wire;
      const number = Number(/^n(\d+)/.exec(Buffer.from(q.subarray(13, 13 + q[12]!)).toString())![1]);
      const record = Buffer.from([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, ...addressOf(number, network)]);
      record.writeUInt32BE(ttlOf(number), 6);
      const message = Buffer.concat([q, record]);
      message.writeUInt16BE(0x8180, 2);
      message.writeUInt16BE(1, 6);
      this.responder.resolver.onMessage(a.server, a.tcp, this, message, 0, message.length, then);
    });
  }

  cancel(): void {}

  lookupHost(): boolean {
    return false;
  }

  // --- The guests.

  ask(client: number, number: number, now: number): void {
    const q = query(`n${number}.day.example`, 'A', { id: number & 0xffff });
    const hour = this.hours.at(-1)!;
    hour.questions++;
    this.open++;
    let answered = false;
    const allDead = NETWORKS[this.network]!.every((s) => this.dead.has(`${s}:53`));
    const cachedBefore = this.responder.stats.cacheHits;
    const asker: Asker = {
      client,
      tcp: false,
      linkLimitBytes: 1472,
      hold: () => asker,
      deliver: (buf, off, len, then) => {
        if (answered) this.wrong.push(`${number} twice`);
        answered = true;
        this.open--;
        const waited = then - now;
        hour.waitedMs += waited;
        hour.slowestMs = Math.max(hour.slowestMs, waited);
        const m = Buffer.from(buf.slice(off, off + len));
        const fromCache = this.responder.stats.cacheHits > cachedBefore && waited === 0;
        const why = this.#judge(m, number, fromCache, allDead);
        if (why !== '') this.wrong.push(`${number} at ${now}: ${why}`);
      },
    };
    this.responder.onQuery(q, 0, q.length, asker, now);
  }

  #judge(m: Buffer, number: number, fromCache: boolean, allDead: boolean): string {
    if (m.readUInt16BE(0) !== (number & 0xffff)) return 'another id';
    const rcode = m[3]! & 15;
    if (rcode === 2) return allDead ? '' : 'SERVFAIL though a server was there';
    if (rcode !== 0 || m.readUInt16BE(6) !== 1) return `rcode ${rcode}`;
    const got = [...m.subarray(m.length - 4)];
    const want = addressOf(number, this.network);
    if (got.join() !== want.join()) return `${got.join('.')}, not ${want.join('.')}`;
    const [ttl] = ttlsOf(m);
    if (ttl! > ttlOf(number) || (!fromCache && ttl !== ttlOf(number))) return `TTL ${ttl} of ${ttlOf(number)}`;
    return '';
  }

  /** Runs to a moment: answers, deadlines and whatever else comes before it. */
  runTo(end: number): void {
    const { resolver } = this.responder;
    for (;;) {
      const at = Math.min(this.agenda.next, resolver.nextDeadline());
      if (at > end) return;
      if (this.agenda.next <= at) this.agenda.runFirst();
      else resolver.poll(at);
    }
  }
}

function ttlOf(number: number): number {
  return [1, 5, 60, 300, 3600, 86_400][number % 6]!;
}

t.test('24 hours: every question is answered once, in time and rightly, the last as fast as the first', async (t) => {
  const day = new Day();
  const { responder, agenda } = day;
  let fresh = POPULAR;
  for (let h = 0; h < DAY_HOURS; h++) {
    day.hours.push({ questions: 0, waitedMs: 0, slowestMs: 0, upstream: -responder.stats.upstreamSent, entries: 0 });
    const start = h * HOUR;
    // Nothing runs, and every deadline comes an hour late.
    if (h === ASLEEP) continue;
    // Questions, four a second on the average, a third of them for names that nobody has asked for before.
    for (let at = start; at < start + HOUR; at += day.below(500)) {
      const number = day.below(3) === 0 ? fresh++ : day.below(POPULAR);
      agenda.add(at, (now) => day.ask(1 + day.below(3), number, now));
      if (agenda.next < at - SECOND) day.runTo(at - SECOND);
    }
    // The first and the last hour are quiet, to be compared.
    if (h > 0 && h < DAY_HOURS - 1) {
      agenda.add(start + HOUR, (now) => day.moveTo((day.network + 1) % NETWORKS.length, now));
    }
    day.runTo(start + HOUR - 10 * SECOND);
    const hour = day.hours.at(-1)!;
    hour.upstream += responder.stats.upstreamSent;
    hour.entries = responder.cache.size;
    t.ok(responder.cache.bytes <= CACHE_BYTES, `hour ${h}: ${responder.cache.bytes} bytes`);
    t.ok(responder.resolver.inFlight < 50, `hour ${h}: ${responder.resolver.inFlight} open`);
    // In the minutes before a change servers die: the first, then all of them, and all come back.
    if (h % 3 === 1) {
      const servers = NETWORKS[day.network]!.map((s) => `${s}:53`);
      day.dead.add(servers[0]!);
      day.runTo(start + HOUR - 5 * SECOND);
      day.dead.clear();
    }
    day.runTo(start + HOUR);
  }
  const end = DAY_HOURS * HOUR;
  day.runTo(end + 10 * SECOND);
  t.same(day.wrong.slice(0, 5), [], `${day.wrong.length} wrong answers`);
  t.equal(day.open, 0, 'none is left without an answer');
  const total = day.hours.reduce((sum, h) => sum + h.questions, 0);
  t.ok(total > 250_000, `${total} questions`);
  t.equal(responder.stats.answers, total);
  t.ok(Math.max(...day.hours.map((h) => h.slowestMs)) < 5000);
  const [first, last] = [day.hours[0]!, day.hours.at(-1)!];
  const mean = (h: Hour): number => h.waitedMs / h.questions;
  t.ok(mean(last) < mean(first) * 1.2, `${mean(first)} ms at first, ${mean(last)} ms at last`);
  t.ok(last.upstream / last.questions < (first.upstream / first.questions) * 1.1, 'no more queries for an answer');
  const { resolver } = responder;
  t.same([resolver.inFlight, resolver.attemptsInFlight, resolver.nextDeadline()], [0, 0, Number.POSITIVE_INFINITY]);
  t.ok(last.entries <= Math.max(...day.hours.slice(0, 3).map((h) => h.entries)) * 1.2, 'the cache has not grown');
});

t.test('a night’s sleep and every server away: SERVFAIL in time, and the first lookup after it is right', async (t) => {
  const day = new Day();
  day.hours.push({ questions: 0, waitedMs: 0, slowestMs: 0, upstream: 0, entries: 0 });
  day.ask(1, 2, 0);
  day.runTo(SECOND);
  for (const s of NETWORKS[0]!) day.dead.add(`${s}:53`);
  let now = 10 * HOUR;
  for (let i = 0; i < 100; i++, now += 10 * SECOND) {
    day.ask(1, i, now);
    day.runTo(now + 5 * SECOND);
    t.equal(day.open, 0);
  }
  t.equal(day.responder.stats.failures, 100);
  day.dead.clear();
  const before = day.responder.stats.upstreamSent;
  day.ask(1, 7, now);
  day.runTo(now + 100);
  t.equal(day.open, 0, 'at once');
  t.equal(day.responder.stats.failures, 100);
  t.ok(day.responder.stats.upstreamSent - before <= 2);
  t.same(day.wrong, []);
});
