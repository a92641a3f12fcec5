// The same words in the files, and another network behind them: nothing of what was cached before may be given after.

import { mkdirSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import * as packet from 'dns-packet';
import t from 'tap';
import type { Asker } from '../../src/dns/responder.ts';
import { query, response } from '../dns/rig.ts';
import { ServiceRig, until, WireServer } from './dns-rig.ts';

const A = query('db.corp.example', 'A');
const data = (b: Buffer) => (packet.decode(b).answers ?? []).map((a) => (a as packet.StringAnswer).data);

/** Asks and does not wait. */
const nobody: Asker = { client: 1, tcp: false, linkLimitBytes: 512, hold: () => nobody, deliver: () => {} };

/** A server at one address that two networks have: which of them it is, `network` tells. */
async function twoNetworks() {
  const state = { network: '1.1.1.1' };
  const name = 'db.corp.example';
  const answer = (q: Buffer) => response(q, { answers: [{ type: 'A', name, ttl: 3600, data: state.network }] });
  return { state, server: await new WireServer(answer).listen() };
}

/** Asked at once: the look of the question must do it, the watch has had no turn of the loop. */
async function next(r: ServiceRig): Promise<string[]> {
  r.skipMs += 50;
  return data(await r.ask(A));
}

t.test(
  'resolv.conf is written again with the same text: another network, the same address of its server',
  async (t) => {
    const { state, server } = await twoNetworks();
    const text = `nameserver ${server.text}\n`;
    const r = new ServiceRig({ resolvConf: text });
    t.same(await next(r), ['1.1.1.1']);
    const ways: readonly (readonly [string, () => void])[] = [
      ['replaced', () => writeFileSync(`${r.resolvConf}.new`, text)],
      ['in place', () => writeFileSync(r.resolvConf, text)],
      ['replaced again', () => writeFileSync(`${r.resolvConf}.new`, text)],
    ];
    for (const [i, [how, write]] of ways.entries()) {
      // Another tick of the file system's clock, or a file written in place cannot be told from itself.
      await new Promise((done) => setTimeout(done, 20));
      state.network = `2.2.2.${i}`;
      write();
      if (how.startsWith('replaced')) renameSync(`${r.resolvConf}.new`, r.resolvConf);
      t.same(await next(r), [state.network], how);
      const before = server.queries;
      t.same(await next(r), [state.network]);
      t.equal(server.queries, before, `${how}: cached again, as nothing has happened since`);
    }
    t.equal(r.events.filter((e) => e === 'dns.servers.renewed').length, ways.length);
    r.close();
    await server.close();
  },
);

t.test('open questions are asked anew then: who was silent may be another one now', async (t) => {
  const state = { silent: true };
  const mute = await new WireServer((q) => (state.silent ? undefined : response(q, {}))).listen();
  const text = `nameserver ${mute.text}\n`;
  const r = new ServiceRig({ resolvConf: text });
  const sentAt = performance.now();
  const port = r.send(A);
  await until(() => mute.queries > 0);
  state.silent = false;
  writeFileSync(`${r.resolvConf}.new`, text);
  renameSync(`${r.resolvConf}.new`, r.resolvConf);
  await until(() => r.answers.has(port));
  t.ok(r.answeredAt.get(port)! - sentAt < 700, 'the watch has told, no timer');
  r.close();
  await mute.close();
});

t.test('the servers behind a resolver of this host change: it says so in a file of its own', async (t) => {
  const { state, server } = await twoNetworks();
  const dir = t.testdir();
  const behind = [join(dir, 'resolve', 'resolv.conf'), join(dir, 'no-stub-resolv.conf')];
  const r = new ServiceRig({ resolvConf: `nameserver ${server.text}\n`, behind });
  t.same(await next(r), ['1.1.1.1']);
  state.network = '2.2.2.2';
  mkdirSync(join(dir, 'resolve'));
  writeFileSync(behind[0]!, 'nameserver 10.8.0.1\n');
  t.same(await next(r), ['2.2.2.2'], 'it comes');
  state.network = '3.3.3.3';
  writeFileSync(behind[1]!, 'nameserver 10.8.0.1\n');
  t.same(await next(r), ['3.3.3.3'], 'the other');
  state.network = '4.4.4.4';
  writeFileSync(`${behind[0]!}.new`, 'nameserver 10.8.0.1\n');
  renameSync(`${behind[0]!}.new`, behind[0]!);
  t.same(await next(r), ['4.4.4.4'], 'written again');
  // Asked of a server elsewhere, they are not what is asked. (Its address leads nowhere here, and is not asked.)
  writeFileSync(r.resolvConf, 'nameserver 192.0.2.1\n');
  r.skipMs += 50;
  r.service.ask(A, nobody, r.clock.now());
  const renewed = r.events.filter((e) => e === 'dns.servers.renewed').length;
  writeFileSync(behind[0]!, 'nameserver 10.8.0.2\n');
  r.skipMs += 50;
  r.service.ask(A, nobody, r.clock.now());
  t.equal(r.events.filter((e) => e === 'dns.servers.renewed').length, renewed);
  r.close();
  await server.close();
});
