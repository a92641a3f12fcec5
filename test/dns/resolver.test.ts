import * as packet from 'dns-packet';
import t from 'tap';
import { HostUse } from '../../src/dns/upstreams.ts';
import { aRecords, Guest, ip, query, response, rig, SeededRandom, SOA, server } from './rig.ts';

const Q = query('host.example', 'A');
const ANSWER = { answers: aRecords('host.example', 1) };
const two = { servers: ['192.0.2.1', '192.0.2.2'] };

t.test('DNS-02: ids are random, and only server, channel, id and question together are believed', async (t) => {
  const r = rig(two);
  r.ask(Q, 0);
  const a = r.transport.last;
  const good = response(a.wire, ANSWER);
  const { resolver } = r.responder;
  const other = resolver.servers.all[1]!;
  const wrong = (bytes: Uint8Array, srv = a.server, tcp = false, channel: unknown = a.channel) =>
    resolver.onMessage(srv, tcp, channel, bytes, 0, bytes.length, 1);
  const rnd = new SeededRandom(3);
  for (let i = 0; i < 1000; i++) {
    const spoofed = Buffer.from(good);
    const id = rnd.i32() & 0xffff;
    spoofed.writeUInt16BE(id === a.id ? id ^ 1 : id, 0);
    if (wrong(spoofed)) t.fail('spoofed id believed');
  }
  t.notOk(wrong(good, other), 'another server');
  t.notOk(wrong(good, a.server, true), 'another transport');
  t.notOk(wrong(good, a.server, false, {}), 'another socket');
  t.notOk(wrong(Buffer.from(good.subarray(0, 20))), 'cut');
  t.notOk(wrong(Buffer.concat([a.wire])), 'QR=0');
  const asks = (name: string, type: string, klass = 'IN') => {
    const q = query(name, type, { id: a.id, klass });
    return response(q, { answers: [] });
  };
  t.notOk(wrong(asks('hosts.example', 'A')), 'another name');
  t.notOk(wrong(asks('host.example', 'AAAA')), 'another type');
  t.notOk(wrong(asks('host.example', 'A', 'CH')), 'another class');
  t.equal(r.guest.raw.length, 0, 'the wait goes on');
  t.equal(r.responder.stats.ignoredAnswers, 1008);
  t.ok(wrong(good));
  t.equal(r.guest.last.answers?.length, 1);
  t.notOk(wrong(good), 'a second answer is late');
  const ids = new Set<number>();
  for (let i = 0; i < 50; i++) {
    r.ask(query(`h${i}.example`, 'A'), 2);
    ids.add(r.transport.last.id);
  }
  t.equal(ids.size, 50);
  t.not([...ids][1]! - [...ids][0]!, [...ids][2]! - [...ids][1]!);
});

t.test('DNS-10: first server dead: answered under 1.5 s, the next lookups go to the healthy one', async (t) => {
  const r = rig(two);
  const { resolver, stats } = r.responder;
  r.ask(Q, 0);
  const first = r.transport.last;
  t.equal(first.server.text, '192.0.2.1:53');
  t.equal(resolver.nextDeadline(), 800);
  resolver.poll(799);
  t.equal(r.transport.sent.length, 1);
  resolver.poll(800);
  const second = r.transport.last;
  t.equal(second.server.text, '192.0.2.2:53');
  t.not(second.id, first.id);
  r.reply(second, ANSWER, 820);
  t.equal(r.guest.raw.length, 1);
  t.same(r.transport.cancelled, [first]);
  t.equal(resolver.attemptsInFlight, 0);
  t.equal(stats.timeouts, 1);
  r.ask(query('next.example', 'A'), 1000);
  t.equal(r.transport.last.server.text, '192.0.2.2:53', 'no wait for the dead one');
  r.reply(r.transport.last, { answers: aRecords('next.example', 1) }, 1010);
  t.equal(r.guest.raw.length, 2);

  // Probed again beside the healthy one.
  r.ask(query('probe.example', 'A'), 2000);
  const [main, probe] = r.transport.sent.slice(-2);
  t.same([main?.server.text, probe?.server.text, probe?.probe], ['192.0.2.2:53', '192.0.2.1:53', true]);
  r.reply(main!, { answers: aRecords('probe.example', 1) }, 2001);
  t.equal(r.guest.raw.length, 3, 'nobody waits for the probe');
  t.equal(resolver.attemptsInFlight, 1, 'but it is still out');
  r.reply(probe!, { answers: aRecords('probe.example', 1) }, 2040);
  t.equal(resolver.attemptsInFlight, 0);
  r.ask(query('back.example', 'A'), 2050);
  t.equal(r.transport.last.server.text, '192.0.2.1:53', 'the order of the configuration is back');
});

t.test(
  'DNS-10: several silent in front of the one that answers: under 1.5 s, and the next lookups go straight to it',
  async (t) => {
    const r = rig({ servers: ['192.0.2.1', '192.0.2.2', '192.0.2.3', '192.0.2.4'] });
    const { resolver } = r.responder;
    r.ask(Q, 0);
    const sentTo = () => r.transport.sent.map((a) => a.server.text.at(8));
    for (const [at, most] of [
      [799, '1'],
      [800, '12'],
      [1099, '12'],
      [1100, '123'],
      [1400, '1234'],
    ] as const) {
      resolver.poll(at);
      t.equal(sentTo().join(''), most, `${at} ms`);
    }
    r.reply(r.transport.last, ANSWER, 1405);
    t.equal(r.guest.lastRcode, 0);
    r.ask(query('next.example', 'A'), 1500);
    t.equal(r.transport.last.server.text, '192.0.2.4:53');
    r.reply(r.transport.last, { answers: aRecords('next.example', 1) }, 1501);

    // Nobody: the last has the whole step before the next round; that is by UDP again.
    const dead = rig({ servers: ['192.0.2.1', '192.0.2.2', '192.0.2.3'] });
    dead.ask(Q, 0);
    for (let at = 0; at <= 4500; at += 100) dead.responder.resolver.poll(at);
    t.same(
      dead.transport.sent.map((a) => a.sentAt),
      [0, 800, 1100, 1900, 2700, 3500, 4300],
    );
    t.ok(dead.transport.sent.at(-1)?.tcp, 'the third round is reached, by TCP');
    t.equal(dead.guest.lastRcode, 2);

    // A refusal takes no time, and so hurries nobody.
    const refused = rig({ servers: ['192.0.2.1', '192.0.2.2', '192.0.2.3'] });
    refused.ask(Q, 0);
    refused.responder.resolver.onFailure(refused.transport.last, 1);
    refused.responder.resolver.poll(800);
    t.equal(refused.transport.sent.length, 2);
    refused.responder.resolver.poll(801);
    t.equal(refused.transport.sent.length, 3);
  },
);

t.test('where everybody’s word is wanted, or only TCP may be used, everybody has the whole time', async (t) => {
  for (const how of ['thorough', 'tcp']) {
    const r = rig();
    const servers = ['192.0.2.1', '192.0.2.2', '192.0.2.3'].map(server);
    const rule = { domain: '', servers, source: '', host: HostUse.Alone, thorough: how === 'thorough' };
    r.responder.setRules([rule], how === 'tcp', 0);
    r.ask(Q, 0);
    r.responder.resolver.poll(800);
    r.responder.resolver.poll(1100);
    t.equal(r.transport.sent.length, 2, how);
    r.responder.resolver.poll(1600);
    t.equal(r.transport.sent.length, 3, how);
  }
});

t.test('a probe without answer ends, and the next comes later', async (t) => {
  const r = rig(two);
  const { resolver } = r.responder;
  r.ask(Q, 0);
  resolver.poll(800);
  r.reply(r.transport.last, ANSWER, 801);
  const probesAt = (now: number) => {
    r.ask(query(`t${now}.example`, 'A'), now);
    const fresh = r.transport.sent.filter((a) => a.sentAt === now);
    const main = fresh.find((a) => !a.probe);
    r.reply(main!, { answers: aRecords(`t${now}.example`, 1) }, now);
    resolver.poll(now + 1000);
    return fresh.length - 1;
  };
  t.same([1500, 2600, 3000, 4200, 6100, 7000, 10_000].map(probesAt), [0, 1, 0, 1, 0, 1, 0]);
  t.equal(resolver.attemptsInFlight, 0);
  t.equal(resolver.nextDeadline(), Number.POSITIVE_INFINITY, 'nothing left in the queue');
});

t.test('one slow name is not a dead server', async (t) => {
  const r = rig(two);
  r.ask(query('slow.example', 'A'), 0);
  r.ask(Q, 100);
  r.reply(r.transport.last, ANSWER, 120);
  r.responder.resolver.poll(800);
  t.notOk(r.responder.resolver.servers.all[0]?.suspect);
});

t.test('DNS-10: all servers dead: SERVFAIL under 5 s; back: first lookup right', async (t) => {
  const r = rig(two);
  const { resolver, stats } = r.responder;
  r.ask(Q, 0);
  let now = 0;
  while (r.guest.raw.length === 0 && now < 10_000) {
    now = resolver.nextDeadline();
    resolver.poll(now);
  }
  t.ok(now < 5000, `${now} ms`);
  t.equal(r.guest.lastRcode, 2);
  t.equal(r.guest.last.id, 0x1234);
  t.equal(stats.failures, 1);
  t.ok(r.transport.sent.length <= 8, 'and not many queries');
  t.ok(
    r.transport.sent.some((a) => a.tcp),
    'the third round goes over TCP',
  );
  t.equal(resolver.inFlight, 0);
  t.equal(resolver.nextDeadline(), Number.POSITIVE_INFINITY);
  // Both suspect: both are asked at once, so whoever is back answers without a wait.
  r.ask(Q, 6000);
  t.same(
    r.transport.sent.filter((a) => a.sentAt === 6000).map((a) => a.server.text),
    ['192.0.2.1:53', '192.0.2.2:53'],
  );
  r.reply(r.transport.last, ANSWER, 6005);
  t.equal(r.guest.last.answers?.length, 1);
});

t.test('a refused socket moves on at once; all refused is SERVFAIL at once', async (t) => {
  const r = rig(two);
  const { resolver } = r.responder;
  r.ask(Q, 0);
  resolver.onFailure(r.transport.last, 1);
  t.equal(r.transport.last.server.text, '192.0.2.2:53');
  resolver.onFailure(r.transport.last, 2);
  t.equal(r.guest.lastRcode, 2);
  resolver.onFailure(r.transport.last, 3);
  t.equal(r.guest.raw.length, 1, 'told twice changes nothing');
});

t.test('DNS-10: useless rcodes move on; the best of them is relayed whole', async (t) => {
  const r = rig(two);
  r.ask(Q, 0);
  r.reply(r.transport.last, {}, 10, 5);
  t.equal(r.transport.last.server.text, '192.0.2.2:53', 'REFUSED: asks the next');
  r.reply(r.transport.last, { additionals: aRecords('why.example', 1) }, 20, 2);
  t.equal(r.guest.lastRcode, 5, 'the first error wins');
  r.ask(query('b.example', 'A'), 30);
  r.reply(r.transport.last, {}, 31, 2);
  r.reply(r.transport.last, { answers: aRecords('b.example', 1) }, 32);
  t.equal(r.guest.last.answers?.length, 1, 'SERVFAIL of one server is not the end');
  r.ask(query('c.example', 'A'), 40);
  r.reply(r.transport.last, { authorities: [SOA] }, 41, 3);
  t.equal(r.guest.lastRcode, 3, 'NXDOMAIN is an answer');
  r.ask(query('d.example', 'A'), 50);
  const header = Buffer.alloc(12);
  header.writeUInt16BE(r.transport.last.id, 0);
  header.writeUInt16BE(0x8184, 2);
  r.replyRaw(r.transport.last, header, 51);
  r.responder.resolver.poll(51 + 800);
  t.equal(r.guest.lastRcode, 4, 'a bare header is an error too, and nobody waits for a silent second server');
  t.equal(r.guest.last.questions?.[0]?.name, 'd.example');
});

t.test('DNS-05: TC goes to TCP at the same server; without TCP the guest gets the truncated answer', async (t) => {
  const r = rig({ servers: ['192.0.2.1'] });
  r.ask(query('big.example', 'TXT', { edns: { size: 4096 } }), 0);
  const udp = r.transport.last;
  r.reply(udp, {}, 5, packet.TRUNCATED_RESPONSE);
  const tcp = r.transport.last;
  t.ok(tcp.tcp);
  t.equal(tcp.server, udp.server);
  t.equal(r.guest.raw.length, 0);
  const texts = Array.from({ length: 40 }, () => ({
    type: 'TXT' as const,
    name: 'big.example',
    ttl: 5,
    data: 'x'.repeat(50),
  }));
  r.reply(tcp, { answers: texts }, 20);
  t.ok(r.guest.last.flag_tc, '40 texts are more than 1232 bytes');
  const byTcp = new Guest();
  byTcp.tcp = true;
  r.ask(query('big.example', 'TXT', { edns: { size: 4096 } }), 21, byTcp);
  t.equal(byTcp.last.answers?.length, 40, 'whole from the cache over TCP');

  r.ask(query('cut.example', 'A'), 100);
  const cut = response(r.transport.last.wire, { answers: aRecords('cut.example', 3) }, packet.TRUNCATED_RESPONSE);
  r.replyRaw(r.transport.last, cut.subarray(0, cut.length - 5), 101);
  t.ok(r.transport.last.tcp, 'cut in the middle of a record is TC all the same');
  r.responder.resolver.onFailure(r.transport.last, 102);
  t.equal(r.guest.lastRcode, 2);

  r.ask(query('notcp.example', 'A'), 200);
  r.reply(r.transport.last, { answers: aRecords('notcp.example', 3) }, 201, packet.TRUNCATED_RESPONSE);
  r.responder.resolver.onFailure(r.transport.last, 202);
  t.ok(r.guest.last.flag_tc);
  t.equal(r.guest.last.answers?.length, 3);
  t.notOk(r.responder.resolver.servers.all[0]?.suspect, 'a closed TCP port is not a dead server');
});

t.test('DNS-09: one question in flight serves all who ask it, each with its own id and case', async (t) => {
  const r = rig();
  const guests = ['host.example', 'HOST.example', 'hOsT.eXaMpLe'].map((name, i) => {
    const g = new Guest();
    g.client = i;
    r.ask(query(name, 'A', { id: 100 + i }), i, g);
    return { g, name, id: 100 + i };
  });
  t.equal(r.transport.sent.length, 1);
  t.equal(r.responder.stats.shared, 2);
  r.reply(r.transport.last, ANSWER, 50);
  for (const { g, name, id } of guests) {
    t.equal(g.last.id, id);
    t.equal(g.last.questions?.[0]?.name, name);
    t.equal(g.last.answers?.length, 1);
  }
  t.equal(r.responder.resolver.inFlight, 0);
});

t.test('DNS-09: caps: REFUSED for the VM that asks too much, SERVFAIL when all do', async (t) => {
  const r = rig({ maxInFlight: 5, maxPerClient: 3 });
  const greedy = new Guest();
  for (let i = 0; i < 4; i++) r.ask(query(`g${i}.example`, 'A'), 0, greedy);
  t.equal(greedy.raw.length, 1);
  t.equal(greedy.lastRcode, 5);
  const other = new Guest();
  other.client = 2;
  for (let i = 0; i < 3; i++) r.ask(query(`o${i}.example`, 'A'), 0, other);
  t.equal(other.raw.length, 1);
  t.equal(other.lastRcode, 2);
  r.ask(query('o0.example', 'A'), 0, other);
  t.equal(r.responder.stats.shared, 1, 'joining a question takes no place in the table');
  t.equal(r.responder.stats.refusedLimit, 2);
  for (const a of [...r.transport.sent]) r.reply(a, {}, 10);
  t.equal(r.responder.resolver.inFlight, 0);
  r.ask(query('again.example', 'A'), 20, greedy);
  t.equal(r.responder.resolver.inFlight, 1, 'the share is free again');
});

t.test('DNS-10: a new list of servers: open questions are asked there, nothing of the old is believed', async (t) => {
  const r = rig();
  r.ask(Q, 0);
  const old = r.transport.last;
  t.notOk(r.responder.setServers([server('192.0.2.1')], false, 5), 'the same list is no change');
  t.ok(r.responder.setServers([server('198.51.100.1')], false, 10));
  t.same(r.transport.cancelled, [old]);
  t.equal(r.transport.last.server.text, '198.51.100.1:53');
  t.notOk(r.reply(old, ANSWER, 11));
  r.reply(r.transport.last, ANSWER, 12);
  t.equal(r.guest.raw.length, 1);
  r.ask(Q, 13);
  t.equal(r.guest.raw.length, 2, 'cached');
  r.responder.setServers([server('203.0.113.1')], false, 14);
  r.ask(Q, 15);
  t.equal(r.guest.raw.length, 2, 'the cache was flushed');
  t.equal(r.transport.last.server.text, '203.0.113.1:53');
});

t.test('without servers the host’s own resolver gives addresses; the rest is SERVFAIL at once', async (t) => {
  const r = rig({ servers: [] });
  const { resolver } = r.responder;
  r.ask(query('Host.Example', 'AAAA'), 0);
  const job = r.transport.hostLookups[0]!;
  t.equal(job.name, 'host.example');
  resolver.onHostAddresses(job.lookup, [ip('1.2.3.4'), ip('2001:db8::1'), ip('2001:db8::2')], true, 10);
  t.same(
    r.guest.last.answers?.map((a) => (a as packet.StringAnswer).data),
    ['2001:db8::1', '2001:db8::2'],
  );
  r.ask(query('v4only.example', 'AAAA'), 20);
  resolver.onHostAddresses(r.transport.hostLookups[1]!.lookup, [ip('1.2.3.4')], true, 21);
  t.same([r.guest.lastRcode, r.guest.last.answers?.length], [0, 0], 'NODATA');
  r.ask(query('none.example', 'A'), 30);
  resolver.onHostAddresses(r.transport.hostLookups[2]!.lookup, [], false, 31);
  t.equal(r.guest.lastRcode, 3);
  r.ask(query('broken.example', 'A'), 40);
  resolver.onHostAddresses(r.transport.hostLookups[3]!.lookup, undefined, true, 41);
  t.equal(r.guest.lastRcode, 2, 'never a false NXDOMAIN');
  r.ask(query('mx.example', 'MX'), 50);
  t.equal(r.guest.lastRcode, 2);
  r.transport.hostAvailable = false;
  r.ask(query('full.example', 'A'), 60);
  t.equal(r.guest.lastRcode, 2);
  r.transport.hostAvailable = true;
  r.ask(query('hangs.example', 'A'), 70);
  resolver.poll(70 + 4500);
  t.equal(r.guest.raw.length, 7);
  t.equal(resolver.inFlight, 0);
});

t.test('options use-vc, large queries and zone transfers', async (t) => {
  const r = rig();
  r.responder.setServers([server('192.0.2.9')], true, 0);
  r.ask(Q, 0);
  t.ok(r.transport.last.tcp);
  const x = rig();
  x.ask(query('zone.example', 'AXFR'), 0);
  x.reply(
    x.transport.last,
    { answers: [{ ...SOA, name: 'zone.example' } as packet.Answer, ...aRecords('a.zone.example', 1)] },
    1,
  );
  t.equal(x.guest.lastRcode, 4, 'one message cannot carry the rest of a transfer');
  x.ask(query('zone.example', 'AXFR'), 2);
  x.reply(x.transport.last, {}, 3, 5);
  t.equal(x.guest.lastRcode, 5);
});

t.test('close answers what is open', async (t) => {
  const r = rig();
  r.ask(Q, 0);
  r.responder.resolver.close(1);
  t.equal(r.guest.lastRcode, 2);
  t.equal(r.responder.resolver.attemptsInFlight, 0);
  t.equal(r.responder.resolver.nextDeadline(), Number.POSITIVE_INFINITY);
});

t.test('10,000 questions leave nothing behind', async (t) => {
  const r = rig({ ...two, maxInFlight: 64, maxPerClient: 1000, cacheBytes: 20_000, seed: 5 });
  const rnd = new SeededRandom(11);
  let now = 0;
  for (let i = 0; i < 10_000; i++) {
    now += rnd.i32() & 63;
    r.ask(query(`h${i}.example`, 'A'), now);
    const a = r.transport.sent.at(-1);
    const dice = (rnd.i32() >>> 0) % 10;
    if (a?.live && dice < 6) r.reply(a, { answers: aRecords(`h${i}.example`, 1) }, now);
    else if (a?.live && dice < 8) r.responder.resolver.onFailure(a, now);
    r.responder.resolver.poll(now);
  }
  r.responder.resolver.poll(now + 1000);
  for (let n = 0; n < 20; n++) r.responder.resolver.poll(now + 1000 + n * 500);
  const { stats, resolver, cache } = r.responder;
  t.equal(stats.answers, 10_000, 'each question has exactly one answer');
  t.equal(r.guest.raw.length, 10_000);
  t.same([resolver.inFlight, resolver.attemptsInFlight, resolver.nextDeadline()], [0, 0, Number.POSITIVE_INFINITY]);
  t.ok(cache.bytes <= 20_000);
});
