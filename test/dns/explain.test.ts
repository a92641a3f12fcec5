// Explanations: every source that may decide, who is asked and how they are, what is cached; and that asking changes nothing.

import t from 'tap';
import { explain, recordType } from '../../src/dns/explain.ts';
import { parseHosts } from '../../src/dns/hosts.ts';
import { HostUse } from '../../src/dns/upstreams.ts';
import { aRecords, Guest, query, response, SOA, server, zonedRig } from './rig.ts';

function rig() {
  const { zones, guests, transport, responder } = zonedRig();
  responder.setHosts(parseHosts('10.1.2.3 db.corp.example db\n'));
  responder.setRules(
    [
      { domain: '', servers: [server('192.0.2.1')], source: '/etc/resolv.conf', host: HostUse.Last },
      {
        domain: 'corp.example',
        servers: [{ ...server('10.8.0.1'), order: 1, timeoutMs: 2000 }, server('10.8.0.2')],
        source: '--dns',
        host: HostUse.Alone,
      },
    ],
    false,
    0,
  );
  const why = (name: string, type = 'A', now = 0) =>
    explain(responder, name, recordType(type)!, { zones, hostsPath: '/etc/hosts', now })!;
  return { zones, guests, transport, responder, why };
}

t.test('names that are answered here: the source, the rule and the answer, by type', (t) => {
  const { guests, why } = rig();
  guests.names.set('web', '192.168.65.9');
  const none = { route: null, asks: [], cached: [] };
  t.match(why('Host.Docker.Internal'), {
    name: 'host.docker.internal',
    type: 'A',
    source: 'host-alias',
    rule: /loopback/,
    answer: { rcode: 'NOERROR', addresses: ['192.168.65.254'], names: [], ttlSeconds: 60 },
    ...none,
  });
  t.match(why('host.docker.internal', 'AAAA').answer, { rcode: 'NOERROR', addresses: [] }, 'NODATA');
  t.match(why('gateway.docker.internal.'), { source: 'gateway', answer: { addresses: ['192.168.65.1'] } });
  t.match(why('localhost', 'AAAA'), { source: 'localhost', answer: { addresses: ['::1'] } });
  t.match(why('web.lan.example'), { source: 'guest', rule: /DHCP/, answer: { addresses: ['192.168.65.9'] } });
  t.match(why('nobody.isthmus.internal'), { source: 'own-domain', answer: { rcode: 'NXDOMAIN' } });
  t.match(why('DB'), { source: 'hosts-file', rule: '/etc/hosts', answer: { addresses: ['10.1.2.3'] } });
  t.match(why('3.2.1.10.in-addr.arpa', 'PTR'), { source: 'hosts-file', answer: { names: ['db.corp.example'] } });
  t.match(why('db', 'TXT').answer, { rcode: 'NOERROR', addresses: [], names: [] });
  t.match(why('db', 'ANY').answer, { addresses: ['10.1.2.3'] });
  t.end();
});

t.test('zones: which record, pattern or default', (t) => {
  const { zones, why } = rig();
  const records = [
    { name: '@', addresses: ['10.0.0.1'] },
    { name: 'web', addresses: ['10.0.0.2'] },
    { pattern: '^v[0-9]+$', addresses: ['10.0.0.3'] },
  ];
  zones.setZone({ name: 'apps.test', records, defaultAddress: '10.0.0.9' }, [(s) => /^v[0-9]+$/.test(s)]);
  zones.setZone({ name: 'bare.test', records: [] }, []);
  zones.setName({ name: 'one.test', addresses: ['10.0.0.4'] });
  t.match(why('one.test'), { source: 'zone', rule: 'the name one.test', answer: { addresses: ['10.0.0.4'] } });
  t.equal(why('apps.test').rule, 'the zone apps.test: record 1');
  t.equal(why('web.apps.test').rule, 'the zone apps.test: record 2');
  t.equal(why('v12.apps.test').rule, 'the zone apps.test: record 3, pattern ^v[0-9]+$');
  t.match(why('else.apps.test'), {
    rule: 'the zone apps.test: its default address',
    answer: { addresses: ['10.0.0.9'] },
  });
  t.match(why('x.bare.test'), { rule: 'the zone bare.test: nothing of it fits', answer: { rcode: 'NXDOMAIN' } });
  t.match(why('2.0.0.10.in-addr.arpa', 'PTR'), { source: 'zone', answer: { names: ['web.apps.test'] } });
  t.equal(why('bare.test').source, 'upstream', 'a zone’s own name without a record is asked');
  t.end();
});

t.test('upstream: the rule of the domain, its servers with their health, whom a question goes to now', (t) => {
  const { responder, transport, why } = rig();
  t.match(why('www.example'), {
    source: 'upstream',
    answer: null,
    route: { domain: '.', from: '/etc/resolv.conf', hostResolver: 'last', thorough: false },
    asks: ['192.0.2.1:53', "the host's own resolver"],
    cached: [],
  });
  t.same(why('www.example', 'MX').asks, ['192.0.2.1:53'], 'it knows addresses only');
  const corp = () => why('a.corp.example').route!;
  t.match(corp(), { domain: 'corp.example', from: '--dns' });
  t.same(corp().servers[0], {
    server: '10.8.0.2:53',
    order: 0,
    timeoutMs: null,
    health: 'unasked',
    rttMs: null,
    asked: 0,
    answered: 0,
  });
  t.match(corp().servers[1], { server: '10.8.0.1:53', order: 1, timeoutMs: 2000 });
  const q = query('a.corp.example', 'A');
  responder.onQuery(q, 0, q.length, new Guest(), 0);
  responder.resolver.poll(800);
  const a = transport.last;
  const answer = response(a.wire, { answers: aRecords('a.corp.example', 2, 60) });
  responder.resolver.onMessage(a.server, false, a.channel, answer, 0, answer.length, 812.3);
  t.same(
    corp().servers.map((s) => s.health),
    ['suspect', 'healthy'],
  );
  t.match(corp().servers[1], { rttMs: 12.3, asked: 1, answered: 1 });
  t.same(why('b.corp.example').asks, ['10.8.0.1:53', '10.8.0.2:53'], 'the silent one last');
  t.end();
});

t.test('cached answers with the time that they have left, by the flags that a question must have', (t) => {
  const { responder, transport, why } = rig();
  const learn = (q: Buffer, sections: Parameters<typeof response>[1], flags = 0) => {
    responder.onQuery(q, 0, q.length, new Guest(), 0);
    const a = transport.last;
    const answer = response(a.wire, sections, flags);
    responder.resolver.onMessage(a.server, false, a.channel, answer, 0, answer.length, 0);
  };
  learn(query('a.example', 'A'), { answers: aRecords('a.example', 2, 60) });
  learn(query('a.example', 'A', { edns: { dnssec: true } }), { answers: aRecords('a.example', 3, 30) });
  learn(query('no.example', 'A'), { authorities: [SOA] }, 3);
  const { hits, misses } = responder.cache;
  t.same(why('A.Example', 'A', 10_500).cached, [
    { rcode: 'NOERROR', records: 2, ttlSeconds: 49, flags: [] },
    { rcode: 'NOERROR', records: 3, ttlSeconds: 19, flags: ['do', 'edns'] },
  ]);
  t.same(why('a.example', 'AAAA').cached, []);
  t.match(why('no.example', 'A').cached, [{ rcode: 'NXDOMAIN', records: 0, ttlSeconds: 60 }]);
  t.same(why('a.example', 'A', 31_000).cached.length, 1, 'what is over is not there');
  t.same([responder.cache.hits, responder.cache.misses], [hits, misses], 'a look is no use');
  t.equal(responder.cache.size, 3);
  t.equal(transport.sent.length, 3, 'nobody was asked');
  t.end();
});

t.test('names and types that are none', (t) => {
  const { zones, responder } = rig();
  const of = (name: string) => explain(responder, name, 1, { zones, hostsPath: '', now: 0 });
  for (const bad of ['', 'a..b', '.a', `${'x'.repeat(64)}.example`, 'a.'.repeat(200)]) t.equal(of(bad), undefined, bad);
  t.equal(of('.')?.name, '.');
  t.equal(recordType('aaaa'), 28);
  t.equal(recordType('TYPE65535'), 65_535);
  for (const bad of ['', 'AAAAA', 'TYPE', 'TYPE65536', 'toString', '1']) t.equal(recordType(bad), undefined, bad);
  t.end();
});
