// The way out as a guest's kernel sees it: pings and traceroutes over two real routers, routes that refuse at the host and behind it, a path
// that is too narrow, a VPN that comes back with another address, source addresses, clashes of networks.

import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import t from 'tap';
import { daemonEntry } from '../../scripts/project.ts';
import { ControlClient } from '../../src/control/client.ts';
import type { HealthAnswer } from '../../src/control/resources.ts';
import { Namespace } from '../helpers/namespace.ts';
import { GATEWAY, GuestAgent, HOST_ALIAS } from '../helpers/namespace-guest.ts';
import { firstReason, needsNamespace, needsProgram } from '../helpers/requirements.ts';
import { FAR, HOST, join24, ROUTER_1, ROUTER_2, RoutedHost } from '../helpers/routed-host.ts';
import { ethernet, icmp, ipv4 } from '../stack/frames.ts';

const skip = needsNamespace();
const skipPing = firstReason(skip, needsProgram('ping'));

/** ping(8) in the guest, with numeric addresses. */
async function ping(w: RoutedHost, ...args: string[]): Promise<string> {
  const { stdout, stderr } = await w.guest.exec('ping', ['-n', ...args]);
  return stdout + stderr;
}

/** An echo request of a VM of our own, with its length before it. */
function echoFrame(dst: string, number: number): Buffer {
  const packet = ipv4({ src: '192.168.65.50', dst, protocol: 1 }, icmp(8, 0, ((number & 0xffff) << 16) | 1, [1, 2, 3]));
  const frame = ethernet('f6:16:36:bc:f9:c6', '02:00:00:00:00:50', 0x0800, packet);
  const length = Buffer.alloc(4);
  length.writeUInt32BE(frame.length);
  return Buffer.concat([length, frame]);
}

/** CPU time that a process has used, by /proc. */
function cpuMs(pid: number): number {
  const text = readFileSync(`/proc/${pid}/stat`, 'latin1');
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
  return (Number(fields[11]) + Number(fields[12])) * 10;
}

async function stat(w: RoutedHost, name: string): Promise<number> {
  const client = new ControlClient({ kind: 'unix', path: w.control, from: 'the test' });
  const { metrics } = (await client.ask('GET', '/v1/stats')) as { metrics: { name: string; value: number }[] };
  client.close();
  return metrics.find((m) => m.name === `isthmus_${name}`)?.value ?? Number.NaN;
}

t.test('ICMP-02 ping in a guest: live, dead, beyond the TTL, refused on the way', { skip: skipPing }, async (t) => {
  const w = await RoutedHost.start(t);
  const [, r2] = w.routers;
  r2.ip('route', 'add', 'prohibit', '10.99.2.0/24');
  r2.ip('route', 'add', 'unreachable', '10.99.1.0/24');
  r2.ip('route', 'add', 'blackhole', '10.99.3.0/24');
  w.host.ip('route', 'add', 'prohibit', '10.98.2.0/24');
  w.host.ip('route', 'add', 'unreachable', '10.98.1.0/24');
  w.host.ip('route', 'add', 'throw', '10.98.4.0/24');

  t.match(
    await ping(w, '-c', '3', '-i', '0.2', FAR),
    /3 received, 0% packet loss/,
    'live: identifier, number and data match',
  );
  t.match(
    await ping(w, '-c', '1', FAR),
    new RegExp(`64 bytes from ${FAR}: icmp_seq=1 ttl=61 `),
    'one hop more than the host has',
  );
  for (const size of ['0', '15', '1472', '5000', '20000'])
    t.match(await ping(w, '-c', '1', '-W', '3', '-s', size, FAR), /1 received/, `${size} bytes`);
  t.match(
    await ping(w, '-c', '1', '-M', 'do', '-s', '1472', FAR),
    /1480 bytes from/,
    'not to be fragmented, and it fits',
  );

  t.match(await ping(w, '-c', '1', '-t', '1', FAR), `From ${GATEWAY} icmp_seq=1 Time to live exceeded`);
  t.match(await ping(w, '-c', '1', '-t', '2', FAR), `From ${ROUTER_1} icmp_seq=1 Time to live exceeded`);
  t.match(await ping(w, '-c', '1', '-t', '3', FAR), `From ${ROUTER_2} icmp_seq=1 Time to live exceeded`);
  t.match(await ping(w, '-c', '1', '-t', '4', FAR), /1 received/, 'just far enough');

  t.match(await ping(w, '-c', '1', '-W', '1', '10.99.3.1'), /1 packets transmitted, 0 received, 100%/, 'dead');
  t.match(await ping(w, '-c', '1', '10.99.2.1'), `From ${ROUTER_2} icmp_seq=1 Packet filtered`);
  t.match(await ping(w, '-c', '1', '10.99.1.1'), `From ${ROUTER_2} icmp_seq=1 Destination Host Unreachable`);
  t.match(
    await ping(w, '-c', '1', '-W', '6', '10.81.1.77'),
    `From ${HOST} icmp_seq=1 Destination Host Unreachable`,
    'nobody has it',
  );
  t.match(
    await ping(w, '-c', '1', '10.98.1.1'),
    `From ${GATEWAY} icmp_seq=1 Destination Host Unreachable`,
    'the host has no way',
  );
  t.match(await ping(w, '-c', '1', '10.98.2.1'), `From ${GATEWAY} icmp_seq=1 Packet filtered`);
  t.match(await ping(w, '-c', '1', '10.98.4.1'), `From ${GATEWAY} icmp_seq=1 Destination Net Unreachable`);
  for (const ours of [GATEWAY, HOST_ALIAS]) t.match(await ping(w, '-c', '1', ours), /1 received/, ours);
  t.match(await ping(w, '-c', '1', '192.168.65.77'), /Destination Host Unreachable/, 'an address that no VM has');
});

t.test(
  'ICMP-02 traceroute -I in a guest shows every hop',
  { skip: firstReason(skip, needsProgram('ping', 'traceroute')) },
  async (t) => {
    const w = await RoutedHost.start(t);
    const { stdout } = await w.guest.exec('traceroute', ['-I', '-n', '-w', '3', FAR]);
    const hops = stdout
      .split('\n')
      .slice(1)
      .filter((line) => line !== '');
    t.same(
      hops.map((line) => line.trim().split(/\s+/)[1]),
      [GATEWAY, ROUTER_1, ROUTER_2, FAR],
      stdout,
    );
    for (const line of hops) t.equal(line.split(' ms').length - 1, 3, `each probe is answered: ${line}`);
  },
);

t.test('a narrow path: what fits is told, and what then fits arrives', { skip: skipPing }, async (t) => {
  const w = await RoutedHost.start(t);
  const [, r2] = w.routers;
  const device = r2.deviceTo(FAR);
  r2.ip('link', 'set', device, 'mtu', '1300');
  w.far.ip('link', 'set', w.far.deviceTo('10.81.3.1'), 'mtu', '1300');
  t.match(
    await ping(w, '-c', '1', '-M', 'do', '-s', '1372', FAR),
    `From ${ROUTER_2} icmp_seq=1 Frag needed and DF set (mtu = 1300)`,
  );
  t.match(await ping(w, '-c', '1', '-M', 'dont', '-s', '1372', FAR), /1380 bytes from/, 'in fragments');

  const guest = await w.agent('guest');
  const far = await w.agent('far');
  await far.call('serveEcho', 7007);
  const large = 'x'.repeat(1400);
  const answers: string[] = [];
  for (let i = 0; i < 3; i++) answers.push(await guest.call('udpAsk', 'a', FAR, 7007, large, 1000));
  t.equal(answers.at(-1), large, 'UDP: the host knows the path by now');
  const known = JSON.parse(w.guest.ip('-j', 'route', 'get', FAR))[0] as { metrics?: { mtu?: number }[] };
  const mtu = known.metrics?.find((m) => m.mtu !== undefined)?.mtu;
  t.ok(mtu !== undefined && mtu >= 1280 && mtu <= 1300, `the guest's kernel has heard of it: ${mtu}`);
});

t.test('10,000 echo requests a second start a bounded number of processes', { skip: skipPing }, async (t) => {
  const w = await RoutedHost.start(t);
  // A second VM, as a program of ours: no kernel sends as fast as that for certain.
  const vm = connect(join(w.folder, 'vm.sock'));
  await once(vm, 'connect');
  vm.resume();
  t.teardown(() => vm.destroy());
  let most = 0;
  for (let batch = 0; batch < 30; batch++) {
    const frames = Array.from({ length: 1000 }, (_, i) => echoFrame(`10.81.3.${100 + (i % 100)}`, batch * 1000 + i));
    const next = performance.now() + 100;
    vm.write(Buffer.concat(frames));
    while (performance.now() < next) {
      most = Math.max(most, w.pings());
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }
  let sent = 0;
  while (sent < 30_000) sent = await stat(w, 'ping_requests_total');
  t.ok(most >= 1 && most <= 16, `${most} processes at most`);
  const started = await stat(w, 'ping_processes_started_total');
  t.ok(started >= 16 && started <= 200, `${started} started in all`);
  const dropped = (await stat(w, 'ping_dropped_busy_total')) + (await stat(w, 'ping_dropped_limit_total'));
  t.ok(dropped + (await stat(w, 'ping_dropped_rate_total')) >= sent - started - 64, 'the rest is counted');
  t.match(await ping(w, '-c', '20', '-i', '0.5', '-w', '15', FAR), / [1-9]\d* received/, 'and pings go on');
});

t.test('without a ping for this user the guest is told so, or nothing', { skip: skipPing }, async (t) => {
  const folder = t.testdir({ ping: '#!/bin/sh\necho "ping: socket: Operation not permitted" >&2\nexit 2\n' });
  await Namespace.create(t).exec('chmod', ['+x', `${folder}/ping`]);
  // A ping that says nothing of its version is none either; this one calls itself iputils.
  await Namespace.create(t).exec('sed', ['-i', '2i [ "$1" = -V ] && echo iputils && exit', `${folder}/ping`]);
  const told = await RoutedHost.start(t, { env: { PATH: `${folder}:${process.env.PATH}` } });
  t.match(await ping(told, '-c', '1', FAR), `From ${GATEWAY} icmp_seq=1 Packet filtered`);
  await told.logged(/"event":"ping.none"[^\n]*may not be used by this user/);
  const silent = await RoutedHost.start(t, { args: ['--ping', 'drop'] });
  t.match(await ping(silent, '-c', '1', '-W', '1', FAR), /0 received/);
  t.equal(await stat(silent, 'ping_not_carried_total'), 1);
});

t.test('TCP-SYN-25 connects that fail at the host or on the way fail at once in the guest', { skip }, async (t) => {
  const w = await RoutedHost.start(t);
  const [, r2] = w.routers;
  for (const [i, kind] of ['unreachable', 'prohibit', 'blackhole', 'throw'].entries())
    w.host.ip('route', 'add', kind, `10.98.${i + 1}.0/24`);
  r2.ip('route', 'add', 'unreachable', '10.99.1.0/24');
  r2.ip('route', 'add', 'prohibit', '10.99.2.0/24');
  const guest = await w.agent('guest');
  const rows = [
    ['10.98.1.1', 'EHOSTUNREACH', 'no route to the host'],
    ['10.98.2.1', 'EHOSTUNREACH', 'prohibited here'],
    ['10.98.3.1', 'ENETUNREACH', 'a black hole here'],
    ['10.98.4.1', 'ENETUNREACH', 'no route at all'],
    [FAR, 'ECONNREFUSED', 'nobody listens'],
    ['10.99.1.1', 'EHOSTUNREACH', 'a router says so'],
    ['10.99.2.1', 'EHOSTUNREACH', 'a router forbids it'],
  ] as const;
  for (const [to, expected, why] of rows) {
    const { outcome, ms } = await guest.call('connect', to, 81);
    t.equal(outcome, expected, why);
    t.ok(ms < 900, `${why}: before the guest tries again, ${Math.round(ms)} ms`);
  }
  // Nobody has this address on the link: the kernel gives up after three requests.
  const { outcome, ms } = await guest.call('connect', '10.81.1.77', 81);
  t.equal(outcome, 'EHOSTUNREACH');
  t.ok(ms < 6000, `${Math.round(ms)} ms`);
});

t.test('ICMP-05 datagrams that fail at the host or on the way draw an error in the guest', { skip }, async (t) => {
  const w = await RoutedHost.start(t);
  const [, r2] = w.routers;
  for (const [i, kind] of ['unreachable', 'prohibit', 'blackhole', 'throw'].entries())
    w.host.ip('route', 'add', kind, `10.98.${i + 1}.0/24`);
  r2.ip('route', 'add', 'unreachable', '10.99.1.0/24');
  r2.ip('route', 'add', 'prohibit', '10.99.2.0/24');
  const guest = await w.agent('guest');
  const errors = async (to: string): Promise<number> => {
    const before = (await w.guest.counters()).get('Icmp.InDestUnreachs')!;
    await guest.call('udpAsk', to, to, 9, 'x', 300);
    return (await w.guest.counters()).get('Icmp.InDestUnreachs')! - before;
  };
  for (const to of ['10.98.1.1', '10.98.2.1', '10.98.3.1', '10.98.4.1', FAR, '10.99.1.1', '10.99.2.1'])
    t.equal(await errors(to), 1, `${to}: one error for one datagram`);
  // A flow of its own for each: errors of many flows cost no time afterwards.
  const before = cpuMs(w.pid);
  await new Promise((resolve) => setTimeout(resolve, 1000));
  t.ok(cpuMs(w.pid) - before < 300, `${cpuMs(w.pid) - before} ms of CPU in an idle second`);
});

t.test('a VPN that comes back with another address strands no socket of a guest', { skip }, async (t) => {
  const w = await RoutedHost.start(t);
  const vpn = Namespace.create(t);
  const up = (address: string): string => {
    const { a } = join24(w.host, address, vpn, '10.82.0.9');
    return a;
  };
  const first = up('10.82.0.1');
  const guest = await w.agent('guest');
  const inside = await GuestAgent.start(vpn);
  await inside.call('serveWho', 7007);
  const ask = (text: string, waitMs = 400): Promise<string> =>
    guest.call('udpAsk', 'vpn', '10.82.0.9', 7007, text, waitMs);
  const before = await ask('up');
  t.match(before, /^10\.82\.0\.1 \d+$/);

  w.host.ip('link', 'del', first);
  w.host.ip('route', 'add', 'unreachable', '10.82.0.0/24');
  await ask('down');
  const { outcome, ms } = await guest.call('connect', '10.82.0.9', 7007);
  t.equal(outcome, 'EHOSTUNREACH', 'down: refused');
  t.ok(ms < 900, 'at once');

  w.host.ip('route', 'del', 'unreachable', '10.82.0.0/24');
  up('10.82.0.5');
  let after = '';
  for (let i = 0; i < 10 && !after.startsWith('10.82.0.5'); i++) after = await ask('up again');
  t.match(after, /^10\.82\.0\.5 \d+$/, 'from the new address');
  t.equal(after.split(' ')[1], before.split(' ')[1], 'and the same port');
  t.equal((await guest.call('connect', '10.82.0.9', 7007)).outcome, 'connected');
});

t.test('--outbound-address: the source by destination, for TCP, UDP and ping', { skip: skipPing }, async (t) => {
  const w = await RoutedHost.start(t, {
    args: ['--outbound-address', '10.81.0.0/16=10.81.1.3', '--outbound-address', '10.81.2.0/24=10.81.1.9'],
  });
  await w.logged(/"event":"outbound.missing"/);
  const device = w.host.deviceTo(FAR);
  const guest = await w.agent('guest');
  const missing = await guest.call('connect', FAR, 7007);
  t.equal(missing.outcome, 'ENETUNREACH', 'until it is there');
  w.host.ip('address', 'add', '10.81.1.3/24', 'dev', device);
  const far = await w.agent('far');
  await far.call('serveWho', 7007);
  const { tcp, udp } = await guest.call('askWho', FAR, 7007);
  t.equal(tcp.split(' ')[0], '10.81.1.3');
  t.equal(udp.split(' ')[0], '10.81.1.3');
  t.match(await ping(w, '-c', '1', FAR), /1 received/);
  const more = await guest.call('connect', ROUTER_2, 9);
  t.equal(more.outcome, 'ENETUNREACH', 'the most specific rule counts');
  const host = await w.agent('host');
  await host.call('serveWho', 7008);
  t.match((await guest.call('askWho', HOST_ALIAS, 7008)).tcp, /^127\.0\.0\.1 /, 'the host alias has its own');
  w.host.ip('address', 'del', '10.81.1.3/24', 'dev', device);
  t.equal((await guest.call('connect', FAR, 7007)).outcome, 'ENETUNREACH', 'gone again: told at once');
});

t.test(
  'a network of the host that overlaps the virtual one is told, once, and until it is gone',
  { skip },
  async (t) => {
    const w = await RoutedHost.start(t);
    const client = new ControlClient({ kind: 'unix', path: w.control, from: 'the test' });
    t.teardown(() => client.close());
    const warnings = async (): Promise<readonly string[]> =>
      ((await client.send('GET', '/healthz')).body as HealthAnswer).warnings ?? [];
    const until = async (wanted: number): Promise<readonly string[]> => {
      for (let i = 0; ; i++) {
        const now = await warnings();
        if (now.length === wanted || i > 100) return now;
        await new Promise((resolve) => setTimeout(resolve, 50));
      }
    };
    t.same(await warnings(), []);
    w.host.ip('route', 'add', '192.168.65.128/25', 'via', ROUTER_1);
    const [warning] = await until(1);
    t.match(warning, /192\.168\.65\.0\/24 overlaps 192\.168\.65\.128\/25, a route by w/);
    t.equal((await warnings()).length, 1);
    const status = await w.host.exec('env', [
      '-u',
      'NODE_OPTIONS',
      process.execPath,
      daemonEntry(),
      'status',
      '--control',
      w.control,
    ]);
    t.match(status.stdout, /^warning\tthe VMs' network 192\.168\.65\.0\/24 overlaps 192\.168\.65\.128\/25/m);
    w.host.ip('route', 'del', '192.168.65.128/25');
    t.same(await until(0), []);
    await w.logged(/"event":"network.clash.over"/);
    t.equal(w.log.split('"event":"network.clash"').length - 1, 1, 'logged once');
  },
);

t.test('--network auto takes the first network that the host does not use', { skip }, async (t) => {
  const host = Namespace.create(t);
  const { a } = join24(host, '192.168.65.7', Namespace.create(t), '192.168.65.8');
  host.ip('route', 'add', '192.168.66.0/23', 'dev', a);
  const { stdout } = await host.exec('env', [
    '-u',
    'NODE_OPTIONS',
    process.execPath,
    daemonEntry(),
    'run',
    '--print-config',
    '--network',
    'auto',
  ]);
  t.match(stdout, /^network: 192\.168\.68\.0\/24 # --network auto$/m);
  t.match(stdout, /^gateway: 192\.168\.68\.1 /m);
});
