// Servers that die and come back, over real sockets: how long guests wait, who is asked, and what it costs in descriptors.

import { readdirSync } from 'node:fs';
import * as packet from 'dns-packet';
import t from 'tap';
import { aRecords, query, response } from '../dns/rig.ts';
import { ServiceRig, until, WireServer } from './dns-rig.ts';

const answerA = (q: Buffer): Buffer =>
  response(q, { answers: aRecords(packet.decode(q).questions?.[0]?.name ?? '', 1) });
const later = <T>(ms: number, v: T): Promise<T> => new Promise((done) => setTimeout(() => done(v), ms));
const rcode = (b: Buffer) => b.readUInt16BE(2) & 15;
const descriptors = () => readdirSync('/proc/self/fd').length;

/** A server that can be struck dumb. */
async function mortal(alive: boolean) {
  const state = { alive };
  const server = await new WireServer((q) => (state.alive ? answerA(q) : undefined)).listen();
  server.udp.setRecvBufferSize(4 << 20);
  return { state, server };
}

/** Milliseconds until the answer to a new name. */
async function lookup(rig: ServiceRig, name: string): Promise<{ ms: number; rcode: number }> {
  const sentAt = performance.now();
  const port = rig.send(query(name, 'A'));
  await until(() => rig.answers.has(port), 8000);
  return { ms: rig.answeredAt.get(port)! - sentAt, rcode: rcode(rig.answers.get(port)!) };
}

t.test('DNS-10: the first server dead: the first lookup under 1.5 s, those that follow under 20 ms', async (t) => {
  const [dead, well] = [await mortal(false), await mortal(true)];
  const rig = new ServiceRig({ upstreams: [dead.server.text, well.server.text] });
  const first = await lookup(rig, 'first.example');
  t.ok(first.rcode === 0 && first.ms < 1500, `${first.ms} ms`);
  const next: number[] = [];
  for (let i = 0; i < 21; i++) {
    const one = await lookup(rig, `next${i}.example`);
    t.equal(one.rcode, 0);
    next.push(one.ms);
  }
  // The middle one: this process may have to wait for its processor now and then.
  next.sort((a, b) => a - b);
  t.ok(next[10]! < 20, `${next[10]} ms`);
  t.ok(next.at(-1)! < 800, 'none of them has waited for the dead one');
  rig.close();
  await Promise.all([dead.server.close(), well.server.close()]);
});

t.test('DNS-10: a server that dies is left within a second, probed, and asked again when it is back', async (t) => {
  const [first, second] = [await mortal(true), await mortal(true)];
  const rig = new ServiceRig({ upstreams: [first.server.text, second.server.text] });
  t.equal((await lookup(rig, 'before.example')).rcode, 0);
  t.equal(second.server.queries, 0);
  first.state.alive = false;
  const diedAt = performance.now();
  const waits: number[] = [];
  let n = 0;
  let askedInVain = 0;
  while (performance.now() - diedAt < 3000) {
    const sentAt = performance.now() - diedAt;
    const { ms } = await lookup(rig, `during${n++}.example`);
    if (sentAt >= 1000) waits.push(ms);
    else askedInVain = first.server.queries;
    await later(10, undefined);
  }
  t.ok(Math.max(...waits) < 800, `nobody waits for it after a second: ${Math.max(...waits)} ms`);
  const probes = first.server.queries - askedInVain;
  t.ok(probes >= 1 && probes <= 3, `${probes} probes in two seconds for ${waits.length} lookups`);
  first.state.alive = true;
  await until(() => {
    rig.send(query(`after${n++}.example`, 'A'));
    return rig.service.responder.resolver.servers.all[0]!.suspect === false;
  }, 8000);
  const [asked, beside] = [first.server.queries, second.server.queries];
  t.equal((await lookup(rig, 'back.example')).rcode, 0);
  t.ok(first.server.queries > asked, 'the order of the configuration is back');
  t.equal(second.server.queries, beside);
  rig.close();
  await Promise.all([first.server.close(), second.server.close()]);
});

t.test('DNS-10: all servers dead: SERVFAIL under 5 s; back: the first lookup is right', async (t) => {
  const both = [await mortal(false), await mortal(false)] as const;
  const rig = new ServiceRig({ upstreams: both.map((m) => m.server.text) });
  const lost = await lookup(rig, 'lost.example');
  t.equal(lost.rcode, 2);
  t.ok(lost.ms > 3000 && lost.ms < 5000, `${lost.ms} ms`);
  both[1].state.alive = true;
  const back = await lookup(rig, 'lost.example');
  t.equal(back.rcode, 0, 'nothing of the failure was kept');
  t.ok(back.ms < 800, `${back.ms} ms`);
  rig.close();
  await Promise.all(both.map((m) => m.server.close()));
});

for (const silent of [1, 3]) {
  t.test(`1,000 lookups at once, ${silent} silent in front of the server that answers after 200 ms`, async (t) => {
    const dead = await Promise.all(Array.from({ length: silent }, () => mortal(false)));
    const server = await new WireServer((q) => later(200, answerA(q))).listen();
    server.udp.setRecvBufferSize(4 << 20);
    const rig = new ServiceRig({ upstreams: [...dead.map((m) => m.server.text), server.text] });
    const before = descriptors();
    let most = 0;
    const watch = setInterval(() => {
      most = Math.max(most, descriptors());
    }, 5);
    const ports = Array.from({ length: 1000 }, (_, i) => rig.send(query(`n${i}.example`, 'A')));
    await until(() => ports.every((p) => rig.answers.has(p)), 8000);
    clearInterval(watch);
    t.equal(ports.filter((p) => rcode(rig.answers.get(p)!) !== 0).length, 0, 'without an answer');
    t.equal(rig.service.stats.failures, 0);
    t.ok(server.ports.size >= 8, `${server.ports.size} ports for the one that answers`);
    t.ok(most - before < 200, `${most - before} descriptors`);
    t.equal(rig.service.responder.resolver.inFlight, 0);
    rig.close();
    await Promise.all([...dead.map((m) => m.server.close()), server.close()]);
  });
}

t.test('1,000 lookups at once by TCP: few connections, all answered', async (t) => {
  const server = await new WireServer((q, tcp) => (tcp ? later(50, answerA(q)) : undefined)).listen();
  const rig = new ServiceRig({ resolvConf: `nameserver ${server.text}\noptions use-vc\n` });
  const before = descriptors();
  const ports = Array.from({ length: 1000 }, (_, i) => rig.send(query(`n${i}.example`, 'A')));
  await until(() => ports.every((p) => rig.answers.has(p)), 8000);
  t.ok(ports.every((p) => rcode(rig.answers.get(p)!) === 0));
  t.ok(server.tcpConnections <= 8, `${server.tcpConnections} connections`);
  t.ok(descriptors() - before < 50);
  rig.close();
  await server.close();
});
