// Pings to the outside over a made-up `ping` program: what the guest is told for each thing it may say, and how many run.

import { existsSync, renameSync } from 'node:fs';
import t from 'tap';
import { findPing, type PingProgram } from '../../src/forwarder/ping-program.ts';
import { StartRate } from '../../src/forwarder/start-rate.ts';
import { childCount, fakePing, PingWorld } from './ping-rig.ts';
import { vm } from './udp-rig.ts';

t.test('ICMP-02 what the program says is what the guest is told', async (t) => {
  const w = new PingWorld(t);
  const rows = [
    ['203.0.113.1', 'reply 203.0.113.1 ttl 61', 'the reply, one hop further'],
    ['203.0.113.2', 'exceeded/0 198.51.100.7', 'by the router that says so'],
    ['203.0.113.3', 'unreachable/13 198.51.100.7'],
    ['203.0.113.4', 'unreachable/0 gateway', 'the host has no route'],
    ['203.0.113.5', 'unreachable/4 198.51.100.7 mtu 1300'],
    ['203.0.113.6', 'exceeded/0 192.168.65.1', "a router with an address of the guests' own network is the gateway"],
    ['203.0.113.7', 'unreachable/4 gateway mtu 1492', 'nobody says what fits: the next plateau'],
  ] as const;
  for (const [to, expected, why = to] of rows) {
    t.ok(w.echo(to, { dataLength: to === '203.0.113.7' ? 1472 : 56, seq: 9 }));
    const { what, vm: id, packet } = await w.next();
    t.equal(what, expected, why);
    t.equal(id, 1);
    t.equal(packet[27], 9, "with the guest's own packet");
    await w.idle();
  }
  t.match(w.forwarder.stats, {
    requests: 7,
    processesStarted: 7,
    replies: 1,
    timeExceeded: 2,
    unreachables: 4,
    unanswered: 0,
  });
  t.match(w.logged, [/ping\.found .*iputils/]);
  t.equal(w.logged.length, 1, 'looked for once');
});

t.test('ICMP-02 silence is silence', async (t) => {
  const w = new PingWorld(t);
  w.echo('203.0.113.8');
  await w.called(2);
  await w.idle();
  t.same(w.got, []);
  t.match(w.forwarder.stats, { unanswered: 1, startsFailed: 0 });
});

t.test('size, "do not fragment" and source are kept, and the TTL less the gateway\'s hop', async (t) => {
  const w = new PingWorld(t, { sourceFor: (remote) => (remote.toString() === '203.0.113.1' ? '10.0.0.2' : undefined) });
  w.echo('203.0.113.1', { ttl: 5, dataLength: 1400, dontFragment: true });
  await w.next();
  await w.idle();
  w.echo('203.0.113.2', { ttl: 2, dataLength: 0 });
  await w.next();
  t.same(w.calls().slice(1), [
    '-n -c 1 -W 4 -t 4 -s 1400 -M do -I 10.0.0.2 203.0.113.1',
    '-n -c 1 -W 4 -t 1 -s 0 -M dont 203.0.113.2',
  ]);
});

t.test('one process for each destination, identifier and TTL; three wait, for a second at most', async (t) => {
  const w = new PingWorld(t);
  for (let seq = 0; seq < 10; seq++) w.echo('203.0.113.99', { seq });
  t.equal(w.forwarder.running, 1);
  t.equal(w.forwarder.stats.droppedBusy, 6);
  w.echo('203.0.113.99', { id: 8 });
  w.echo('203.0.113.99', { ttl: 9 });
  w.echo('203.0.113.98');
  w.echo('203.0.113.99', { vm: vm(2) });
  t.equal(w.forwarder.running, 5, 'another of any of them has its own');
  await w.called(6);
  w.time += 1500;
  w.forwarder.onVmGone(2);
  w.forwarder.close();
  await w.idle();
  t.equal(w.forwarder.stats.processesStarted, 5, 'what waited was not sent late');
});

t.test('those that wait are carried one after the other, each with its own answer', async (t) => {
  const w = new PingWorld(t);
  for (const seq of [1, 2, 3]) w.echo('203.0.113.2', { seq, ttl: 3 });
  for (const seq of [1, 2, 3]) {
    const { what, packet } = await w.next();
    t.equal(`${what} ${packet[27]}`, `exceeded/0 198.51.100.7 ${seq}`);
  }
  await w.idle();
  t.equal(w.forwarder.stats.processesStarted, 3);
});

t.test('10,000 requests a second start a bounded number of processes, for each VM and in all', async (t) => {
  const w = new PingWorld(t);
  const before = existsSync('/proc/self/stat') ? childCount() : 0;
  for (let i = 0; i < 10_000; i++) {
    w.time += 0.1;
    w.echo(`203.0.${100 + (i % 100)}.99`, { id: i, vm: vm(1) });
  }
  t.equal(w.forwarder.running, 16, 'of one VM');
  for (let i = 0; i < 10_000; i++) {
    w.time += 0.1;
    w.echo('203.0.113.99', { id: i, vm: vm(2 + (i % 4)) });
  }
  t.equal(w.forwarder.running, 32, 'of all');
  await w.called(33);
  if (existsSync('/proc/self/stat')) t.equal(childCount() - before, 32, 'and so many there are');
  const { requests, processesStarted, droppedLimit, droppedRate, droppedBusy } = w.forwarder.stats;
  t.same([requests, processesStarted], [20_000, 32]);
  t.equal(droppedLimit + droppedRate + droppedBusy, 20_000 - 32, 'every other one is counted');
  w.forwarder.onVmGone(1);
  while (w.forwarder.running > 16) await new Promise((resolve) => setTimeout(resolve, 5));
  t.equal(w.forwarder.running, 16, 'a VM takes its processes along');
  w.forwarder.close();
  await w.idle();
  if (existsSync('/proc/self/stat')) t.equal(childCount(), before, 'none is left');
});

t.test('processes that end at once are started only so often', async (t) => {
  const w = new PingWorld(t);
  for (let i = 0; i < 100; i++) {
    w.echo('203.0.113.1', { id: i });
    if (w.forwarder.running >= 16) await w.idle();
  }
  await w.idle();
  t.equal(w.forwarder.stats.processesStarted, 60, 'the burst of one VM');
  t.equal(w.forwarder.stats.droppedRate, 40);
  w.time += 500;
  for (let i = 0; i < 16; i++) w.echo('203.0.113.1', { id: i });
  t.equal(w.forwarder.running, 10, 'then twenty a second');
  const rate = new StartRate({ burst: 2, perSecond: 10 }, 0);
  t.ok(rate.allows(0));
  rate.take();
  rate.take();
  t.notOk(rate.allows(99));
  t.ok(rate.allows(100));
  t.end();
});

t.test('held requests are bounded in bytes', async (t) => {
  const w = new PingWorld(t);
  for (let i = 0; i < 40; i++) w.echo('203.0.113.99', { id: i % 10, dataLength: 65_507 });
  t.equal(w.forwarder.running, 10);
  t.equal(w.forwarder.stats.droppedBusy, 40 - Math.floor(1_048_576 / 65_535), '1 MiB in all');
  await w.called(11);
});

t.test('a host without a ping for us: "prohibited", or silence; looked for again after a minute', async (t) => {
  let found: PingProgram | string = 'there is no program "ping" on this host';
  let looked = 0;
  const find = async (): Promise<PingProgram | string> => {
    looked++;
    return found;
  };
  const w = new PingWorld(t, { find });
  t.ok(w.echo('203.0.113.1'), 'while it looks');
  t.equal((await w.next()).what, 'unreachable/13 gateway');
  t.ok(w.echo('203.0.113.1'));
  t.equal((await w.next()).what, 'unreachable/13 gateway');
  t.equal(looked, 1);
  t.match(w.logged, [/ping\.none .*no program/]);
  found = (await findPing({ PATH: w.folder }, 'linux')) as PingProgram;
  w.time += 60_000;
  w.echo('203.0.113.1');
  t.equal((await w.next()).what, 'reply 203.0.113.1 ttl 61', 'somebody has installed it');
  t.equal(w.forwarder.stats.notCarried, 2);

  const silent = new PingWorld(t, { find: async () => 'none', mode: 'auto-drop' }, w.folder);
  t.ok(silent.echo('203.0.113.1'));
  await silent.idle();
  t.notOk(silent.echo('203.0.113.1'), 'a drop');
  t.same(silent.got, []);
});

t.test('modes that carry nothing look for nothing', async (t) => {
  const find = async (): Promise<string> => t.fail('looked for a program') as never;
  const no = new PingWorld(t, { find, mode: 'unreachable' });
  t.ok(no.echo('203.0.113.1'));
  t.equal((await no.next()).what, 'unreachable/13 gateway');
  const drop = new PingWorld(t, { find, mode: 'drop' }, no.folder);
  t.notOk(drop.echo('203.0.113.1'));
  t.same(drop.got, []);
});

t.test('addresses that are never reached are refused as TCP and UDP to them', async (t) => {
  const w = new PingWorld(t);
  const rows = [
    ['192.168.65.77', 'unreachable/1 gateway'],
    ['127.0.0.1', 'unreachable/0 gateway'],
    ['169.254.169.254', 'unreachable/13 gateway'],
    ['0.0.0.1', 'unreachable/0 gateway'],
  ] as const;
  for (const [to, expected] of rows) {
    t.ok(w.echo(to), to);
    t.equal((await w.next()).what, expected, to);
  }
  for (const group of ['224.0.0.1', '255.255.255.255', '192.168.65.255']) t.notOk(w.echo(group), group);
  t.equal(w.forwarder.stats.processesStarted, 0);
  t.equal(w.forwarder.stats.notRelayed, 7);
});

t.test('a program that this user may not use is none, before and after it has worked', async (t) => {
  const forbidden = { '127.0.0.1': 'ping: socket: Operation not permitted' };
  const w = new PingWorld(t, {}, fakePing(t, forbidden));
  w.echo('203.0.113.1');
  t.equal((await w.next()).what, 'unreachable/13 gateway');
  t.match(w.logged[0], /may not be used by this user .*Operation not permitted/);

  const once = {
    '127.0.0.1': '64 bytes from 127.0.0.1: icmp_seq=1 ttl=64',
    '203.0.113.1': 'ping: socket: Operation not permitted',
  };
  const later = new PingWorld(t, {}, fakePing(t, once));
  later.echo('203.0.113.1');
  t.equal((await later.next()).what, 'unreachable/13 gateway');
  await later.idle();
  t.match(later.logged.at(-1), /ping\.none/);
});

t.test('finding it: by PATH, by what it says of its version, and that it can be started at all', async (t) => {
  const folder = fakePing(t);
  t.match(await findPing({ PATH: `relative:${folder}` }, 'linux'), {
    path: `${folder}/ping`,
    kind: 'iputils',
    prefix: [],
  });
  t.match(await findPing({ PATH: folder }, 'darwin'), { kind: 'bsd' });
  t.match(await findPing({ PATH: fakePing(t, undefined, 'GNU inetutils 2') }, 'linux'), { kind: 'inetutils' });
  t.match(await findPing({ PATH: fakePing(t, undefined, 'somewhere') }, 'linux'), /options are not known/);
  t.match(await findPing({}, 'linux', []), /there is no program "ping"/);
  const bare = fakePing(t);
  renameSync(`${bare}/ping`, `${bare}/busybox`);
  const found = await findPing({ PATH: bare }, 'linux', []);
  t.match(found, { path: `${bare}/busybox`, kind: 'busybox', prefix: ['ping'] });
});
