import { createSocket } from 'node:dgram';
import { readdirSync } from 'node:fs';
import * as packet from 'dns-packet';
import t from 'tap';
import { aRecords, query, response } from '../dns/rig.ts';
import { ServiceRig, until, WireServer } from './dns-rig.ts';
import { context, overBoth } from './udp-rig.ts';

const answerA = (q: Buffer): Buffer =>
  response(q, { answers: aRecords(packet.decode(q).questions?.[0]?.name ?? '', 1) });
const later = <T>(ms: number, v: T): Promise<T> => new Promise((done) => setTimeout(() => done(v), ms));
const rcode = (b: Buffer) => b.readUInt16BE(2) & 15;
const descriptors = () => readdirSync('/proc/self/fd').length;

overBoth.test('DNS-02: every query has its own id, and ports keep changing', async (t, handles) => {
  const server = await new WireServer((q) => answerA(q)).listen();
  const rig = new ServiceRig({ sockets: context(handles), upstreams: [server.text] });
  for (let i = 0; i < 200; i++) await rig.ask(query(`h${i}.example`, 'A'));
  t.ok(server.ids.size > 190, `${server.ids.size} ids`);
  t.ok(server.ports.size >= 10, `${server.ports.size} ports`);
  const ports = [...server.ports];
  t.ok(
    ports.some((p, i) => i > 0 && Math.abs(p - ports[i - 1]!) > 16),
    'not in a row',
  );
  rig.close();
  await server.close();
});

t.test('1,000 lookups at once, 200 ms upstream: all within a second, under 200 descriptors', async (t) => {
  const server = await new WireServer((q) => later(200, answerA(q))).listen();
  server.udp.setRecvBufferSize(4 << 20);
  const rig = new ServiceRig({ upstreams: [server.text] });
  const before = descriptors();
  // A loaded machine may not have had the time for it: the best of three counts. What was answered, and with how much, always does.
  let slowest = Number.POSITIVE_INFINITY;
  for (let round = 0; round < 3 && slowest >= 1000; round++) {
    const start = performance.now();
    const ports = Array.from({ length: 1000 }, (_, i) => rig.send(query(`n${i}.r${round}.example`, 'A')));
    t.ok(descriptors() - before < 200, `${descriptors() - before} descriptors`);
    await until(() => ports.every((p) => rig.answers.has(p)), 30_000);
    t.ok(ports.every((p) => rcode(rig.answers.get(p)!) === 0));
    slowest = Math.max(...ports.map((p) => rig.answeredAt.get(p)!)) - start;
  }
  t.ok(slowest < 1000, `${slowest} ms`);
  t.ok(rig.service.upstream.peakUdpSockets <= 96);
  rig.skipMs += 20_000;
  rig.poll();
  t.equal(rig.service.upstream.udpSockets, 0, 'idle sockets are closed');
  t.ok(descriptors() <= before + 1);
  rig.close();
  await server.close();
});

overBoth.test('a refused local server is noticed at once', async (t, handles) => {
  const closed = createSocket('udp4');
  await new Promise<void>((done) => closed.bind(0, '127.0.0.1', done));
  const { port } = closed.address();
  await new Promise<void>((done) => closed.close(done));
  const server = await new WireServer((q) => answerA(q)).listen();
  const rig = new ServiceRig({ sockets: context(handles), upstreams: [`127.0.0.1#${port}`, server.text] });
  const start = performance.now();
  t.equal(rcode(await rig.ask(query('a.example', 'A'))), 0);
  t.ok(performance.now() - start < 300, `${performance.now() - start} ms`);
  const alone = new ServiceRig({ sockets: context(handles), upstreams: [`127.0.0.1#${port}`] });
  const again = performance.now();
  t.equal(rcode(await alone.ask(query('a.example', 'A'))), 2, 'SERVFAIL');
  t.ok(performance.now() - again < 300);
  t.ok(alone.service.stats.hostErrors >= 1);
  rig.close();
  alone.close();
  await server.close();
});

t.test('DNS-10: first server silent: first lookup under 1.5 s, the following at once', async (t) => {
  const silent = await new WireServer(() => undefined).listen();
  const server = await new WireServer((q) => answerA(q)).listen();
  const rig = new ServiceRig({ upstreams: [silent.text, server.text] });
  const start = performance.now();
  t.equal(rcode(await rig.ask(query('a.example', 'A'))), 0);
  t.ok(performance.now() - start < 1500);
  const next = rig.send(query('b.example', 'A'));
  const sentAt = performance.now();
  await until(() => rig.answers.has(next));
  t.ok(rig.answeredAt.get(next)! - sentAt < 100, `${rig.answeredAt.get(next)! - sentAt} ms`);
  rig.close();
  await Promise.all([silent.close(), server.close()]);
});

t.test(
  'DNS-05: TC over UDP is asked again over TCP, on few connections that are used again and closed when idle',
  async (t) => {
    const server = await new WireServer((q, tcp) => {
      const name = packet.decode(q).questions?.[0]?.name ?? '';
      return tcp ? response(q, { answers: aRecords(name, 200) }) : response(q, {}, packet.TRUNCATED_RESPONSE);
    }).listen();
    const rig = new ServiceRig({ upstreams: [server.text], linkLimitBytes: () => 65_000 });
    const ask = (i: number) => rig.ask(query(`big${i}.example`, 'A', { edns: { size: 65_000 } }));
    const answers = await Promise.all(Array.from({ length: 60 }, (_, i) => ask(i)));
    t.ok(answers.every((a) => packet.decode(a).answers?.length === 200));
    t.ok(server.tcpConnections <= 8, `${server.tcpConnections} connections`);
    t.equal(server.tcpQueries, 60);
    const before = server.tcpConnections;
    await ask(100);
    t.equal(server.tcpConnections, before);
    server.dropConnections();
    t.equal(packet.decode(await ask(101)).answers?.length, 200, 'a connection that ended under the query is made anew');
    rig.skipMs += 20_000;
    rig.poll();
    t.equal(rig.service.upstream.tcpSockets, 0);
    rig.close();
    await server.close();
  },
);

t.test('TCP only by `options use-vc`; closed ports and silence over TCP end in SERVFAIL', async (t) => {
  const server = await new WireServer((q, tcp) => (tcp ? answerA(q) : undefined)).listen();
  const rig = new ServiceRig({ resolvConf: `nameserver ${server.text}\noptions use-vc\n` });
  t.equal(rcode(await rig.ask(query('a.example', 'A'))), 0);
  t.equal(server.queries, 0);
  await server.close();
  t.equal(rcode(await rig.ask(query('b.example', 'A'))), 2);
  rig.close();
});

t.test('after a refresh nothing of the old network is used: no socket, no grudge, no cached answer', async (t) => {
  const silent = await new WireServer((_q, _tcp, from) => (back && from ? answerA(_q) : undefined)).listen();
  const server = await new WireServer((q) => answerA(q)).listen();
  let back = false;
  const rig = new ServiceRig({ upstreams: [silent.text, server.text] });
  await rig.ask(query('a.example', 'A'));
  t.ok(rig.service.responder.resolver.servers.all[0]?.suspect);
  back = true;
  const [portsOfFirst, asked] = [new Set(silent.ports), server.queries];
  rig.service.refresh();
  t.equal(rig.service.upstream.udpSockets, 0);
  t.equal(rcode(await rig.ask(query('a.example', 'A'))), 0);
  t.equal(server.queries, asked, 'the first server again, in order');
  t.equal(silent.ports.size, portsOfFirst.size + 1, 'from a new port');
  rig.close();
  await Promise.all([silent.close(), server.close()]);
});

t.test('DNS-02: answers from elsewhere and with wrong ids are ignored, the wait goes on', async (t) => {
  const stranger = createSocket('udp4');
  await new Promise<void>((done) => stranger.bind(0, '127.0.0.1', done));
  const server = await new WireServer((q, _tcp, from) => {
    const forged = response(q, { answers: [{ type: 'A', name: 'a.example', ttl: 1, data: '6.6.6.6' }] });
    if (from) stranger.send(forged, from.port, from.address);
    const wrong = Buffer.from(forged);
    wrong.writeUInt16BE((forged.readUInt16BE(0) + 1) & 0xffff, 0);
    if (from) for (let i = 0; i < 100; i++) server.udp.send(wrong, from.port, from.address);
    return later(60, answerA(q));
  }).listen();
  const rig = new ServiceRig({ upstreams: [server.text] });
  const a = packet.decode(await rig.ask(query('a.example', 'A')));
  t.same(
    a.answers?.map((x) => (x as packet.StringAnswer).data),
    ['10.0.0.0'],
  );
  t.ok(rig.service.stats.ignoredAnswers >= 50, `${rig.service.stats.ignoredAnswers}`);
  rig.close();
  stranger.close();
  await server.close();
});

overBoth.test('a server that the host cannot even address is SERVFAIL at once, without a throw', async (t, handles) => {
  const rig = new ServiceRig({
    sockets: context(handles),
    upstreams: ['fe80::1%nosuchif'],
    maxUdpSockets: 4,
    maxTcpSockets: 1,
  });
  const start = performance.now();
  t.equal(rcode(await rig.ask(query('a.example', 'A'))), 2);
  t.ok(performance.now() - start < 300, `${performance.now() - start} ms`);
  rig.close();
});
