import * as packet from 'dns-packet';
import fc from 'fast-check';
import t from 'tap';
import { Cache, NEGATIVE_TTL_CAP_SEC, TTL_CAP_SEC } from '../../src/dns/cache.ts';
import { QueryView } from '../../src/dns/message.ts';
import { type Keyed, QuestionKey, QuestionTable } from '../../src/dns/question-table.ts';
import { ResponseView } from '../../src/dns/response.ts';
import { aRecords, type QueryOptions, query, response, SOA } from './rig.ts';

const key = new QuestionKey(99);

function keyOf(q: Uint8Array): QuestionKey {
  const v = new QueryView();
  v.wrap(q, 0, q.length);
  key.set(q, v.nameOff, v.nameLen, v.type, v.klass, v.keyFlags);
  return key;
}

function put(c: Cache, q: Uint8Array, sections: Partial<packet.Packet>, ttlSec: number, now: number, flags = 0): void {
  const r = response(q, sections, flags);
  const v = new ResponseView();
  v.wrap(r, 0, r.length);
  c.insert(keyOf(q), v, ttlSec, 0, now);
}

function get(c: Cache, q: Uint8Array, now: number): packet.DecodedPacket | undefined {
  const e = c.find(keyOf(q), now);
  if (!e) return undefined;
  const out = new Uint8Array(65_535);
  return packet.decode(Buffer.from(out.subarray(0, e.writeTo(out, 0, now))));
}

const ttlOf = (p: packet.DecodedPacket | undefined) => (p?.answers?.[0] as packet.StringAnswer | undefined)?.ttl;

t.test('DNS-08: TTL counts down in whole seconds and ends', async (t) => {
  const c = new Cache(1 << 16);
  const q = query('host.example', 'A');
  put(c, q, { answers: aRecords('host.example', 1, 10) }, 10, 1000);
  t.equal(ttlOf(get(c, q, 1000)), 10);
  t.equal(ttlOf(get(c, q, 1999)), 10);
  t.equal(ttlOf(get(c, q, 2000)), 9);
  t.equal(ttlOf(get(c, q, 10_999)), 1);
  t.equal(get(c, q, 11_000), undefined);
  t.equal(c.size, 0, 'an expired entry goes when it is met');
  t.equal(c.bytes, 0);
});

t.test('DNS-08: the key is name folded, type, class, DO, CD, RD, AD and EDNS', async (t) => {
  const c = new Cache(1 << 16);
  const q = query('Host.Example', 'A');
  put(c, q, { answers: aRecords('host.example', 1, 10) }, 10, 0);
  t.ok(get(c, query('hOST.eXAMPLE', 'A'), 1));
  const others: [string, string, QueryOptions][] = [
    ['host.example', 'AAAA', {}],
    ['host.example', 'A', { klass: 'CH' }],
    ['host.exampla', 'A', {}],
    ['host.example', 'A', { flags: 0 }],
    ['host.example', 'A', { flags: packet.RECURSION_DESIRED | packet.CHECKING_DISABLED }],
    ['host.example', 'A', { flags: packet.RECURSION_DESIRED | packet.AUTHENTIC_DATA }],
    ['host.example', 'A', { edns: {} }],
    ['host.example', 'A', { edns: { dnssec: true } }],
  ];
  for (const [name, type, o] of others)
    t.equal(get(c, query(name, type, o), 1), undefined, JSON.stringify([name, type, o]));
  t.equal(c.hits, 1);
  t.equal(c.misses, others.length);
});

t.test('DNS-08: caps', async (t) => {
  const c = new Cache(1 << 16);
  const q = query('host.example', 'A');
  put(c, q, { answers: aRecords('host.example', 1, 10_000_000) }, 10_000_000, 0);
  t.equal(ttlOf(get(c, q, 0)), TTL_CAP_SEC);
  t.equal(get(c, q, TTL_CAP_SEC * 1000), undefined);
  put(c, q, { authorities: [SOA] }, 100_000, 0, 3);
  t.ok(get(c, q, NEGATIVE_TTL_CAP_SEC * 1000 - 1));
  t.equal(get(c, q, NEGATIVE_TTL_CAP_SEC * 1000), undefined);
  put(c, q, { answers: aRecords('host.example', 1, 0) }, 0, 0);
  t.equal(c.size, 0, 'TTL 0 is not kept');
});

t.test('DNS-09: bounded by bytes, least recently used out first', async (t) => {
  const c = new Cache(2000);
  const name = (i: number) => query(`h${i}.example`, 'A');
  for (let i = 0; i < 4; i++) put(c, name(i), { answers: aRecords(`h${i}.example`, 1) }, 300, 0);
  t.equal(c.size, 4);
  t.ok(get(c, name(0), 1), 'used: now the newest');
  put(c, name(4), { answers: aRecords('h4.example', 1) }, 300, 1);
  put(c, name(5), { answers: aRecords('h5.example', 1) }, 300, 1);
  t.ok(c.bytes <= 2000);
  t.ok(get(c, name(0), 2));
  t.equal(get(c, name(1), 2), undefined);
  t.ok(c.evicted >= 1);
  put(c, name(6), { answers: aRecords('h6.example', 200) }, 300, 1);
  t.equal(get(c, name(6), 2), undefined, 'larger than the cache');
  put(c, name(0), { answers: aRecords('h0.example', 2) }, 300, 5);
  t.equal(get(c, name(0), 5)?.answers?.length, 2, 'replaced');
  c.flush();
  t.same([c.size, c.bytes, get(c, name(0), 5)], [0, 0, undefined]);
  const off = new Cache(0);
  put(off, name(0), { answers: aRecords('h0.example', 1) }, 300, 0);
  t.equal(off.size, 0);
});

t.test('property: the cache is what a map with the same rules is, and never beyond its bytes', async () => {
  const step = fc.record({
    host: fc.nat(12),
    put: fc.boolean(),
    ttl: fc.integer({ min: 0, max: 30 }),
    after: fc.nat(8000),
  });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 120 }), (steps) => {
      const c = new Cache(3000);
      const model = new Map<number, number>();
      let now = 0;
      for (const s of steps) {
        now += s.after;
        const q = query(`h${s.host}.example`, 'A');
        if (s.put) {
          put(c, q, { answers: aRecords(`h${s.host}.example`, 1, s.ttl) }, s.ttl, now);
          if (s.ttl > 0) model.set(s.host, now + s.ttl * 1000);
        } else {
          const got = ttlOf(get(c, q, now));
          const until = model.get(s.host) ?? 0;
          // The model forgets nothing, so a hit must be in it; a miss may be an eviction.
          if (got !== undefined && (now >= until || got !== Math.ceil((until - now) / 1000))) return false;
        }
        if (c.bytes > 3000) return false;
      }
      return true;
    }),
  );
});

class Item implements Keyed<Item> {
  nextInBucket: Item | undefined = undefined;
  readonly hash: number;
  readonly type: number;
  constructor(hash: number, type: number) {
    this.hash = hash;
    this.type = type;
  }
  matches(k: QuestionKey): boolean {
    return k.type === this.type;
  }
}

t.test('the table keeps chains short when hashes collide', async (t) => {
  const table = new QuestionTable<Item>();
  const items = Array.from({ length: 9 }, (_, i) => new Item(5, i));
  const added = items.map((i) => table.add(i));
  t.same(added, [true, true, true, true, true, true, true, true, false]);
  const k = new QuestionKey(0);
  for (const i of items.slice(0, 8)) {
    Object.assign(k, { hash: 5, type: i.type });
    t.equal(table.find(k), i);
  }
  for (const n of [7, 3, 0]) {
    table.remove(items[n]!);
    Object.assign(k, { hash: 5, type: n });
    t.equal(table.find(k), undefined);
  }
  table.remove(items[3]!);
  t.equal(table.size, 5, 'removing twice is nothing');
  for (const n of [1, 2, 4, 5, 6]) table.remove(items[n]!);
  t.equal(table.size, 0);
});
