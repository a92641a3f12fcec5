// Rules of who is asked for which names, and how the resolver keeps to them.

import type * as packet from 'dns-packet';
import t from 'tap';
import type { UpstreamRule } from '../../src/dns/upstreams.ts';
import { HostUse, Upstreams } from '../../src/dns/upstreams.ts';
import { aRecords, ip, query, type Rig, rig, SOA, server } from './rig.ts';

const NXDOMAIN = 3;
const rule = (domain: string, servers: string[], more: Partial<UpstreamRule> = {}): UpstreamRule => ({
  domain,
  servers: servers.map(server),
  source: 'test',
  host: HostUse.Alone,
  ...more,
});
const use = (r: Rig, ...rules: UpstreamRule[]) => r.responder.setRules(rules, false, 0);
const asked = (r: Rig) => r.transport.sent.map((a) => a.server.text);
const addresses = (r: Rig) => (r.guest.last.answers ?? []).map((a) => (a as packet.StringAnswer).data);

t.test('the most specific domain that a name lies in holds; whole labels only', (t) => {
  const u = new Upstreams();
  u.replace([
    rule('', ['192.0.2.1']),
    rule('corp.example', ['192.0.2.2']),
    rule('eng.corp.example', ['192.0.2.3']),
    rule('corp.example', ['192.0.2.99']),
  ]);
  const of = (name: string) =>
    u
      .route(name)
      .servers.all.map((s) => s.text)
      .join();
  t.equal(of('corp.example'), '192.0.2.2:53', 'the domain itself; of two rules for one the first');
  t.equal(of('a.b.corp.example'), '192.0.2.2:53');
  t.equal(of('x.eng.corp.example'), '192.0.2.3:53');
  t.equal(of('notcorp.example'), '192.0.2.1:53');
  t.equal(of('example'), '192.0.2.1:53');
  t.equal(of('.'), '192.0.2.1:53', 'the root');
  t.equal(of('a\\.corp.example'), '192.0.2.1:53', 'a dot inside of a label divides nothing');
  t.equal(of('my\\032printer.corp.example'), '192.0.2.2:53');
  t.end();
});

t.test('new rules: what stays keeps its health, also for another domain; the same again is no change', (t) => {
  const u = new Upstreams();
  const rules = [rule('', ['192.0.2.1', '192.0.2.2']), rule('corp.example', ['192.0.2.2'])];
  t.ok(u.replace(rules));
  t.notOk(u.replace(rules));
  const [, two] = u.fallback.servers.all;
  t.equal(u.route('corp.example').servers.all[0], two, 'one server of two rules is one server');
  two!.onFailure(0);
  t.ok(u.replace([rule('lan.example', ['192.0.2.2']), rule('', ['192.0.2.1'])]));
  t.equal(u.route('lan.example').servers.all[0], two);
  t.ok(two!.suspect);
  t.equal(u.route('corp.example'), u.fallback, 'the old rule is gone');
  t.ok(u.replace([rule('', ['192.0.2.1'])]), 'a rule less is a change');
  t.ok(u.replace([rule('', ['192.0.2.1'], { host: HostUse.Last })]), 'so is another part of the host');
  u.forgive();
  t.end();
});

t.test('a lookup goes to the servers of its domain alone, whatever the case of the question', (t) => {
  const r = rig();
  use(r, rule('', ['192.0.2.1']), rule('corp.example', ['192.0.2.2']));
  r.ask(query('DB.Corp.EXAMPLE', 'A'), 0);
  r.ask(query('www.example', 'A'), 0);
  t.same(asked(r), ['192.0.2.2:53', '192.0.2.1:53']);
  t.ok(r.reply(r.transport.sent[0]!, { answers: aRecords('db.corp.example', 1) }, 1));
  t.same(addresses(r), ['10.0.0.0']);
  const n = r.transport.sent.length;
  for (let at = 800; at <= 4500; at += 100) r.responder.resolver.poll(at);
  t.ok(
    r.transport.sent.slice(n).every((a) => a.server.text === '192.0.2.1:53'),
    'nor does another round leave it',
  );
  t.end();
});

t.test('a rule that changes: its open questions are asked anew by the new one, cached answers are gone', (t) => {
  const r = rig();
  use(r, rule('', ['192.0.2.1']));
  r.ask(query('a.corp.example', 'A'), 0);
  r.reply(r.transport.last, { answers: aRecords('a.corp.example', 1) }, 1);
  r.ask(query('b.corp.example', 'A'), 2);
  const old = r.transport.last;
  use(r, rule('', ['192.0.2.1']), rule('corp.example', ['192.0.2.2']));
  t.equal(r.transport.last.server.text, '192.0.2.2:53');
  t.notOk(r.reply(old, { answers: aRecords('b.corp.example', 1) }, 3), 'the old server is not believed');
  r.ask(query('a.corp.example', 'A'), 4);
  t.equal(r.transport.sent.length, 4, 'not answered from the cache');
  t.equal(r.transport.last.server.text, '192.0.2.2:53');
  t.end();
});

t.test('lower orders are asked first, of one order in the order of the list', (t) => {
  const r = rig();
  const servers = [
    { ...server('192.0.2.1'), order: 2 },
    { ...server('192.0.2.2'), order: 0 },
    { ...server('192.0.2.3'), order: 2 },
    { ...server('192.0.2.4'), order: 1 },
  ];
  use(r, { domain: '', servers, source: '', host: HostUse.Alone });
  r.ask(query('a.example', 'A'), 0);
  for (const at of [800, 1600, 2400]) r.responder.resolver.poll(at);
  t.same(asked(r).slice(0, 4), ['192.0.2.2:53', '192.0.2.4:53', '192.0.2.1:53', '192.0.2.3:53']);
  t.end();
});

t.test('a timeout of a server: the next is asked then, and when all had their time it is over', (t) => {
  const r = rig();
  const servers = [
    { ...server('192.0.2.1'), timeoutMs: 200 },
    { ...server('192.0.2.2'), timeoutMs: 500 },
  ];
  use(r, { domain: '', servers, source: '', host: HostUse.Alone });
  r.ask(query('a.example', 'TXT'), 0);
  t.equal(r.responder.resolver.nextDeadline(), 200);
  r.responder.resolver.poll(200);
  t.same(asked(r), ['192.0.2.1:53', '192.0.2.2:53']);
  t.equal(r.responder.resolver.nextDeadline(), 700, 'both times together');
  r.responder.resolver.poll(700);
  t.equal(r.guest.lastRcode, 2);
  t.equal(r.responder.resolver.attemptsInFlight, 0);
  t.end();
});

t.test('VPNKit: "no such name" counts only when every server has said so', (t) => {
  const thorough = (r: Rig) => use(r, rule('', ['192.0.2.1', '192.0.2.2', '192.0.2.3'], { thorough: true }));
  const found = rig();
  thorough(found);
  found.ask(query('db.corp', 'A'), 0);
  found.reply(found.transport.last, { authorities: [SOA] }, 1, NXDOMAIN);
  t.same(asked(found), ['192.0.2.1:53', '192.0.2.2:53'], 'the next at once');
  found.reply(found.transport.last, { answers: aRecords('db.corp', 1) }, 2);
  t.same(addresses(found), ['10.0.0.0'], 'who knows it is believed');

  const missing = rig();
  thorough(missing);
  missing.ask(query('no.corp', 'A'), 0);
  missing.reply(missing.transport.last, {}, 1, 5);
  missing.reply(missing.transport.last, { authorities: [SOA] }, 2, NXDOMAIN);
  t.equal(missing.guest.raw.length, 0);
  missing.reply(missing.transport.last, {}, 3, 5);
  t.equal(missing.guest.lastRcode, NXDOMAIN, 'goes before refusals, earlier and later ones');
  t.equal(missing.guest.last.authorities?.length, 1, 'whole');

  const nodata = rig();
  thorough(nodata);
  nodata.ask(query('a.corp', 'AAAA'), 0);
  nodata.reply(nodata.transport.last, { authorities: [SOA] }, 1);
  nodata.reply(nodata.transport.last, { authorities: [SOA] }, 2, NXDOMAIN);
  nodata.reply(nodata.transport.last, { authorities: [SOA] }, 3, NXDOMAIN);
  t.equal(nodata.guest.lastRcode, 0, 'one server knows the name: it exists');

  const silent = rig();
  thorough(silent);
  silent.responder.resolver.upstreams.fallback.servers.all[2]!.onFailure(0);
  silent.ask(query('no.corp', 'A'), 0);
  silent.reply(silent.transport.sent[0]!, { authorities: [SOA] }, 1, NXDOMAIN);
  silent.reply(silent.transport.last, { authorities: [SOA] }, 2, NXDOMAIN);
  t.equal(silent.guest.lastRcode, NXDOMAIN, 'one that is known to be dead is not waited for');
  t.end();
});

t.test('an ordinary rule believes the first server that says that a name does not exist', (t) => {
  const r = rig();
  use(r, rule('', ['192.0.2.1', '192.0.2.2']));
  r.ask(query('no.example', 'A'), 0);
  r.reply(r.transport.last, { authorities: [SOA] }, 1, NXDOMAIN);
  t.equal(r.guest.lastRcode, NXDOMAIN);
  t.equal(r.transport.sent.length, 1);
  t.end();
});

t.test('the host’s own resolver, when no server answers: beside the second round, for addresses only', (t) => {
  const r = rig();
  use(r, rule('', ['192.0.2.1'], { host: HostUse.Last }));
  const { resolver } = r.responder;
  r.ask(query('a.example', 'A'), 0);
  r.ask(query('a.example', 'MX'), 0);
  t.equal(r.transport.hostLookups.length, 0, 'a server that answers is enough');
  resolver.poll(800);
  t.same(
    r.transport.hostLookups.map((h) => h.name),
    ['a.example'],
  );
  const { lookup } = r.transport.hostLookups[0]!;
  resolver.onHostAddresses(lookup, [ip('10.9.8.7'), ip('2001:db8::1')], true, 900);
  t.same(addresses(r), ['10.9.8.7']);
  t.equal(r.guest.last.answers?.[0]?.type, 'A');
  t.ok(resolver.inFlight === 1, 'the other one goes on');
  for (let at = 900; at <= 4600; at += 100) resolver.poll(at);
  t.equal(r.guest.lastRcode, 2);
  t.equal(resolver.inFlight, 0);
  t.equal(r.transport.hostLookups.length, 1, 'once for each question');
  t.end();
});

t.test('what the host calls its loopback is the host alias to a guest', (t) => {
  const r = rig();
  use(r, rule('', []));
  r.ask(query('laptop', 'A'), 0);
  const { lookup } = r.transport.hostLookups[0]!;
  r.responder.resolver.onHostAddresses(lookup, [ip('127.0.1.1'), ip('10.1.1.1')], true, 1);
  t.same(addresses(r), ['192.168.65.254', '10.1.1.1']);
  const [first] = r.guest.last.answers as { ttl?: number }[];
  t.equal(first?.ttl, 1, 'a VPN behind it may come and go without a word to us');
  t.end();
});

t.test('after a wake open questions are asked anew', (t) => {
  const r = rig();
  r.ask(query('a.example', 'A'), 0);
  const old = r.transport.last;
  r.responder.resolver.restart(100);
  t.equal(r.transport.sent.length, 2);
  t.ok(r.transport.cancelled.includes(old));
  t.notOk(r.reply(old, { answers: aRecords('a.example', 1) }, 101));
  t.ok(r.reply(r.transport.last, { answers: aRecords('a.example', 1) }, 102));
  t.same(addresses(r), ['10.0.0.0']);
  t.equal(r.responder.resolver.attemptsInFlight, 0);
  t.end();
});

t.test(
  'all servers refuse: the host’s own resolver has half a second, then SERVFAIL; its "no such name" is not believed',
  (t) => {
    for (const how of ['silent', 'failed', 'missing', 'busy'] as const) {
      const r = rig();
      use(r, rule('', ['192.0.2.1', '192.0.2.2'], { host: HostUse.Last }));
      const { resolver } = r.responder;
      r.transport.hostAvailable = how !== 'busy';
      r.ask(query('a.example', 'AAAA'), 0);
      resolver.onFailure(r.transport.last, 1);
      resolver.onFailure(r.transport.last, 2);
      if (how === 'busy') {
        t.equal(r.guest.lastRcode, 2, 'nobody to wait for: at once');
        continue;
      }
      t.equal(r.guest.raw.length, 0, how);
      const { lookup } = r.transport.hostLookups[0]!;
      if (how === 'failed') resolver.onHostAddresses(lookup, undefined, true, 3);
      if (how === 'missing') resolver.onHostAddresses(lookup, [], false, 3);
      if (how === 'silent') {
        resolver.poll(501);
        t.equal(r.guest.raw.length, 0);
        resolver.poll(502);
      }
      t.equal(r.guest.lastRcode, 2, how);
      t.equal(resolver.inFlight, 0);
      resolver.onHostAddresses(lookup, [ip('10.9.8.7')], true, 2000);
      t.equal(r.guest.raw.length, 1, 'too late is too late');
    }
    t.end();
  },
);

t.test(
  'the host’s own resolver first: servers follow when it fails or takes long, and are all there is for other types',
  (t) => {
    const first = () => {
      const r = rig();
      use(r, rule('corp.example', ['192.0.2.2'], { host: HostUse.First }), rule('', ['192.0.2.1']));
      return r;
    };
    const good = first();
    good.ask(query('a.corp.example', 'A'), 0);
    t.equal(good.transport.sent.length, 0);
    good.responder.resolver.onHostAddresses(good.transport.hostLookups[0]!.lookup, [ip('10.1.1.1')], true, 5);
    t.same(addresses(good), ['10.1.1.1']);

    const wrong = first();
    wrong.ask(query('a.corp.example', 'A'), 0);
    wrong.responder.resolver.onHostAddresses(wrong.transport.hostLookups[0]!.lookup, [], false, 5);
    t.same(asked(wrong), ['192.0.2.2:53'], 'its "no such name" may be a time-out');
    wrong.reply(wrong.transport.last, { answers: aRecords('a.corp.example', 1) }, 6);
    t.same(addresses(wrong), ['10.0.0.0']);

    const slow = first();
    slow.ask(query('a.corp.example', 'A'), 0);
    slow.responder.resolver.poll(800);
    t.same(asked(slow), ['192.0.2.2:53']);
    slow.responder.resolver.onHostAddresses(slow.transport.hostLookups[0]!.lookup, [ip('10.1.1.1')], true, 900);
    t.same(addresses(slow), ['10.1.1.1'], 'whoever is first');
    t.equal(slow.transport.cancelled.length, 1);

    const other = first();
    other.ask(query('a.corp.example', 'SRV'), 0);
    t.same(asked(other), ['192.0.2.2:53']);
    t.equal(other.transport.hostLookups.length, 0);
    t.end();
  },
);
