import { readdirSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import * as packet from 'dns-packet';
import fc from 'fast-check';
import t from 'tap';
import { OperatorError } from '../../src/host/operator-error.ts';
import { RefuseReason } from '../../src/stack/ports.ts';
import { aRecords, query, response } from '../dns/rig.ts';
import { FakeFlow, framed, ServiceRig, until, WireServer } from './dns-rig.ts';

const named =
  (data: string) =>
  (q: Buffer): Buffer =>
    response(q, { answers: [{ type: 'A', name: packet.decode(q).questions?.[0]?.name ?? '', ttl: 300, data }] });
const data = (b: Buffer) => (packet.decode(b).answers ?? []).map((a) => (a as packet.StringAnswer).data);
const rcode = (b: Buffer) => b.readUInt16BE(2) & 15;
const A = query('a.example', 'A');
const LOCAL = query('host.docker.internal', 'A', { id: 3 });

t.test('DNS-01: UDP answers go from the address that was asked; local names, hosts file, upstream', async (t) => {
  const server = await new WireServer(named('1.1.1.1')).listen();
  const rig = new ServiceRig({ resolvConf: `nameserver ${server.text}\n`, hosts: '10.1.2.3 db.corp.example\n' });
  t.same(data(await rig.ask(LOCAL)), ['192.168.65.254']);
  t.same(data(await rig.ask(query('DB.corp.example', 'A'))), ['10.1.2.3']);
  t.same(data(await rig.ask(query('3.2.1.10.in-addr.arpa', 'PTR'))), ['db.corp.example']);
  t.same(data(await rig.ask(A)), ['1.1.1.1']);
  await rig.ask(A);
  t.equal(server.queries, 1);
  t.ok(rig.from.every((f) => f === '192.168.65.1:53'));
  const { queries, answers, localAnswers, cacheHits } = rig.service.stats;
  t.same({ queries, answers, localAnswers, cacheHits }, { queries: 5, answers: 5, localAnswers: 3, cacheHits: 1 });
  rig.close();
  await server.close();
});

t.test('resolv.conf rewritten, replaced, removed, created, behind a symlink: the next lookup is right', async (t) => {
  const [one, two] = [await new WireServer(named('1.1.1.1')).listen(), await new WireServer(named('2.2.2.2')).listen()];
  const rig = new ServiceRig();
  const path = rig.resolvConf;
  // A second has passed for the service; the folder's watch is not waited for.
  const next = async () => {
    rig.skipMs += 1000;
    return data(await rig.ask(A));
  };
  t.equal(rig.service.responder.resolver.servers.all.length, 0, 'no file yet');
  writeFileSync(path, `nameserver ${one.text}\n`);
  t.same(await next(), ['1.1.1.1'], 'created');
  writeFileSync(path, `nameserver ${two.text}\n`);
  t.same(await next(), ['2.2.2.2'], 'rewritten: also no stale cached answer');
  writeFileSync(join(rig.dir, 'new'), `nameserver ${one.text}\n`);
  renameSync(join(rig.dir, 'new'), path);
  t.same(await next(), ['1.1.1.1'], 'replaced');
  const target = join(rig.dir, 'target');
  writeFileSync(target, `nameserver ${two.text}\n`);
  rmSync(path);
  symlinkSync(target, path);
  t.same(await next(), ['2.2.2.2'], 'replaced by a symlink');
  writeFileSync(join(rig.dir, 'new'), `nameserver ${one.text}\n`);
  renameSync(join(rig.dir, 'new'), target);
  t.same(await next(), ['1.1.1.1'], 'the target of the symlink replaced');
  rmSync(path);
  rig.skipMs += 1000;
  t.equal(rcode(await rig.ask(query('a.example', 'MX'))), 2, 'removed: SERVFAIL at once');
  writeFileSync(path, 'nameserver rubbish\n');
  rig.skipMs += 1000;
  t.equal(rcode(await rig.ask(query('a.example', 'MX'))), 2);
  t.ok(rig.events.includes('dns.resolv-conf.unusable'));
  writeFileSync(path, `nameserver ${two.text}\n`);
  t.same(await next(), ['2.2.2.2'], 'restored');
  rig.close();
  await Promise.all([one.close(), two.close()]);
});

t.test('the folder’s watch tells without a query, and the hosts file is followed too', async (t) => {
  const [one, two] = [await new WireServer(named('1.1.1.1')).listen(), await new WireServer(named('2.2.2.2')).listen()];
  const rig = new ServiceRig({ resolvConf: `nameserver ${one.text}\n` });
  t.same(data(await rig.ask(A)), ['1.1.1.1']);
  writeFileSync(rig.resolvConf, `nameserver ${two.text}\n`);
  await until(() => rig.service.responder.resolver.servers.all[0]?.text.endsWith(`:${two.port}`) === true);
  t.same(data(await rig.ask(A)), ['2.2.2.2']);
  writeFileSync(rig.hosts, '10.0.0.9 a.example\n');
  rig.skipMs += 1000;
  t.same(data(await rig.ask(A)), ['10.0.0.9'], 'over what was cached');
  rmSync(rig.hosts);
  rig.skipMs += 1000;
  t.same(data(await rig.ask(A)), ['2.2.2.2']);
  rig.close();
  await Promise.all([one.close(), two.close()]);
});

t.test('--dns overrides resolv.conf; a wrong one is an operator error that names the key', async (t) => {
  const server = await new WireServer(named('3.3.3.3')).listen();
  const rig = new ServiceRig({ upstreams: [`127.0.0.1:${server.port}`], resolvConf: 'nameserver 192.0.2.1\n' });
  t.same(data(await rig.ask(A)), ['3.3.3.3']);
  rig.close();
  await server.close();
  t.throws(() => new ServiceRig({ upstreams: ['dns.example'] }), {
    name: 'OperatorError',
    code: 'ERR_DNS_SERVER',
    message: /^dns: "dns.example"/,
  });
  t.ok(OperatorError);
});

t.test('without a usable server the host’s own resolver answers addresses', async (t) => {
  const rig = new ServiceRig({ resolvConf: '# nothing\n' });
  const answer = await rig.ask(query('host-lookup.invalid', 'A'), 8000);
  t.ok([2, 3].includes(rcode(answer)), 'RFC 6761 6.4: .invalid does not exist, or the host cannot tell');
  t.equal(rcode(await rig.ask(query('host-lookup.invalid', 'TXT'))), 2);
  rig.close();
});

t.test('close answers open questions, ends connections and leaves no descriptor', async (t) => {
  const descriptors = () => readdirSync('/proc/self/fd').length;
  const silent = await new WireServer(() => undefined).listen();
  const before = descriptors();
  const rig = new ServiceRig({ upstreams: [silent.text] });
  const port = rig.send(A);
  const flow = new FakeFlow();
  rig.service.onTcpFlow(flow, rig.clock.now());
  flow.push(framed(A), rig.clock.now());
  rig.close();
  rig.close();
  t.equal(rcode(rig.answers.get(port)!), 2);
  t.ok(flow.aborted !== undefined || flow.fin);
  t.equal(rig.service.sessions, 0);
  await until(() => descriptors() <= before);
  await silent.close();
});

t.test(
  'DNS-06: length and message split at every byte, several in one piece, and a ring that shows little',
  async (t) => {
    const rig = new ServiceRig();
    const now = () => rig.clock.now();
    const stream = Buffer.concat([framed(LOCAL), framed(query('localhost', 'A', { id: 4 }))]);
    for (let cut = 1; cut < stream.length; cut++) {
      const flow = new FakeFlow();
      rig.service.onTcpFlow(flow, now());
      t.ok(flow.accepted);
      flow.push(stream.subarray(0, cut), now());
      flow.push(stream.subarray(cut), now());
      t.same(
        flow.messages.map((m) => m.readUInt16BE(0)),
        [3, 4],
        `cut at ${cut}`,
      );
      flow.owner?.onClosed('done', now());
    }
    const flow = new FakeFlow();
    flow.piece = 3;
    rig.service.onTcpFlow(flow, now());
    flow.push(stream, now());
    t.equal(flow.messages.length, 2);
    t.equal(flow.unread, 0);
    flow.owner?.onClosed('guest-reset', now());
    t.equal(rig.service.sessions, 0);
    t.equal(rig.service.stats.tcpQueries, rig.service.stats.answers);
    rig.close();
  },
);

t.test('DNS-06: pipelined questions are answered out of order, each when it is ready', async (t) => {
  let release: (() => void) | undefined;
  const server = await new WireServer(async (q) => {
    if (packet.decode(q).questions?.[0]?.name === 'slow.example') await new Promise<void>((done) => (release = done));
    return named('1.1.1.1')(q);
  }).listen();
  const rig = new ServiceRig({ upstreams: [server.text] });
  const flow = new FakeFlow();
  rig.service.onTcpFlow(flow, rig.clock.now());
  flow.push(
    Buffer.concat([
      framed(query('slow.example', 'A', { id: 1 })),
      framed(query('fast.example', 'A', { id: 2 })),
      framed(LOCAL),
    ]),
    rig.clock.now(),
  );
  await until(() => flow.messages.length === 2);
  t.same(
    flow.messages.map((m) => m.readUInt16BE(0)),
    [3, 2],
  );
  flow.end(rig.clock.now());
  t.notOk(flow.fin, 'half-closed, and a question is open');
  release?.();
  await until(() => flow.fin);
  t.equal(flow.messages[2]?.readUInt16BE(0), 1, 'answered after the half-close');
  t.ok(flow.orphaned);
  t.equal(rig.service.sessions, 0);
  rig.close();
  await server.close();
});

t.test('DNS-06: length 0, a short message and a response: nothing comes back, the connection lives', async (t) => {
  const rig = new ServiceRig();
  const flow = new FakeFlow();
  rig.service.onTcpFlow(flow, rig.clock.now());
  const answer = Buffer.from(LOCAL);
  answer[2] = 0x80;
  flow.push(
    Buffer.concat([framed(Buffer.alloc(0)), framed(Buffer.alloc(5)), framed(answer), framed(LOCAL)]),
    rig.clock.now(),
  );
  t.equal(flow.messages.length, 1);
  t.equal(rig.service.stats.malformed, 3);
  const partial = new FakeFlow();
  rig.service.onTcpFlow(partial, rig.clock.now());
  partial.push(Buffer.from([0xff, 0xff, 1, 2]), rig.clock.now());
  partial.end(rig.clock.now());
  t.ok(partial.fin, 'the end in the middle of a message');
  rig.close();
});

t.test('DNS-06: idle connections are closed', async (t) => {
  const rig = new ServiceRig();
  const flow = new FakeFlow();
  rig.service.onTcpFlow(flow, rig.clock.now());
  flow.push(framed(LOCAL), rig.clock.now());
  rig.skipMs += 9000;
  rig.poll();
  t.notOk(flow.fin);
  rig.skipMs += 1100;
  rig.poll();
  t.ok(flow.fin && flow.orphaned);
  t.equal(rig.service.sessions, 0);
  rig.close();
});

t.test('DNS-06: a guest that does not read: bounded, nothing more is read, then it goes on', async (t) => {
  const server = await new WireServer((q, tcp) => {
    const name = packet.decode(q).questions?.[0]?.name ?? '';
    return tcp ? response(q, { answers: aRecords(name, 1500) }) : response(q, {}, packet.TRUNCATED_RESPONSE);
  }).listen();
  const rig = new ServiceRig({ upstreams: [server.text] });
  const flow = new FakeFlow();
  flow.window = 100;
  rig.service.onTcpFlow(flow, rig.clock.now());
  const queries = Array.from({ length: 200 }, (_, i) =>
    framed(query(i % 2 ? 'x.example' : 'y.example', 'A', { id: i })),
  );
  flow.push(Buffer.concat(queries), rig.clock.now());
  await until(() => rig.service.unsentBytes > 65_536);
  t.ok(flow.unread > 0, 'back-pressure by the window');
  t.ok(rig.service.unsentBytes < 64 * 65_537);
  while (flow.messages.length < 200) {
    flow.open(50_000, rig.clock.now());
    await new Promise((done) => setImmediate(done));
  }
  t.equal(new Set(flow.messages.map((m) => m.readUInt16BE(0))).size, 200);
  t.equal(rig.service.unsentBytes, 0);

  const stuck = new ServiceRig({ upstreams: [server.text], maxUnsentBytes: 100_000 });
  const greedy = new FakeFlow();
  greedy.window = 0;
  stuck.service.onTcpFlow(greedy, stuck.clock.now());
  greedy.push(Buffer.concat(queries), stuck.clock.now());
  await until(() => greedy.aborted !== undefined);
  t.equal(stuck.service.unsentBytes, 0);
  t.equal(stuck.service.sessions, 0);
  stuck.close();
  rig.close();
  await server.close();
});

t.test('DNS-09: connections are limited for each VM', async (t) => {
  const rig = new ServiceRig({ maxSessions: 8 });
  const flows = Array.from({ length: 3 }, () => new FakeFlow());
  for (const f of flows) rig.service.onTcpFlow(f, rig.clock.now());
  t.same(
    flows.map((f) => f.refused),
    [undefined, undefined, RefuseReason.Refused],
  );
  flows[0]?.owner?.onClosed('vm-gone', rig.clock.now());
  const again = new FakeFlow();
  rig.service.onTcpFlow(again, rig.clock.now());
  t.ok(again.accepted);
  rig.close();
});

t.test('property: any bytes in any pieces over TCP never throw and never stay', async () => {
  const rig = new ServiceRig();
  const chunk = fc.oneof(
    fc.uint8Array({ maxLength: 40 }),
    fc.constant(new Uint8Array(framed(LOCAL))),
    fc.uint8Array({ minLength: 12, maxLength: 30 }).map((b) => new Uint8Array(framed(b))),
  );
  fc.assert(
    fc.property(
      fc.array(chunk, { maxLength: 10 }),
      fc.integer({ min: 1, max: 50 }),
      fc.nat(200),
      (chunks, piece, window) => {
        const flow = new FakeFlow();
        flow.piece = piece;
        flow.window = window;
        rig.service.onTcpFlow(flow, rig.clock.now());
        for (const c of chunks) flow.push(c, rig.clock.now());
        flow.end(rig.clock.now());
        flow.open(1 << 20, rig.clock.now());
        rig.skipMs += 6000;
        rig.poll();
        flow.owner?.onClosed('done', rig.clock.now());
        return rig.service.sessions === 0 && rig.service.unsentBytes === 0;
      },
    ),
    { numRuns: 200 },
  );
  rig.close();
});
