// Options of names, and a daemon that follows them: rules by domain, explanations by route and command, policy, sleep of the host.

import { execFile } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as packet from 'dns-packet';
import t, { type Test } from 'tap';
import { daemonEntry } from '../../scripts/project.ts';
import { explanationText } from '../../src/daemon/client-explain.ts';
import { loadConfig } from '../../src/daemon/config.ts';
import { formatDnsOption, parseDnsOption, parseTimesync } from '../../src/daemon/dns-option.ts';
import type { Log } from '../../src/daemon/log.ts';
import { Names } from '../../src/daemon/names.ts';
import { NetworkEvents } from '../../src/daemon/network-events.ts';
import { serverText } from '../../src/dns/resolv-conf.ts';
import type { DnsService } from '../../src/forwarder/dns-service.ts';
import { ControlRig } from '../control/rig.ts';
import { response } from '../dns/rig.ts';
import { WireServer } from '../forwarder/dns-rig.ts';
import { FakeHypervisor } from '../helpers/hybrid-vsock.ts';
import { ManualClock } from '../helpers/manual-clock.ts';

/** A log that nobody reads. */
function quiet(): Log {
  const none = (): void => {};
  const log = { trace: none, debug: none, info: none, warn: none, error: none, fatal: none };
  return { ...log, child: () => quiet(), isLevelEnabled: () => false } as unknown as Log;
}

const given = (name: string, texts: string[], kind: 'flag' | 'env' = 'flag') =>
  new Map([[name, { texts, source: { kind, label: `--${name}` } }]]) as never;
const load = (name: string, ...texts: string[]) =>
  loadConfig({ flags: given(name, texts), env: {}, uid: 1000, vmOptional: true });

t.test('--dns: servers, domains and files; values of one domain add up; its text is read back', async (t) => {
  const { config, entries } = await load(
    'dns',
    '10.0.0.1',
    'Corp.Example=10.8.0.1, [2001:db8::1]:5353',
    'corp.example=10.8.0.2:53',
    '.=10.0.0.2',
    '/no/such/file',
    '@here=there',
    './x',
    '[::1]:5353',
  );
  t.same(
    config.dns.map((e) => `${e.address} ${e.port}`),
    ['10.0.0.1 53', '10.0.0.2 53', '::1 5353'],
  );
  t.same(
    config.dnsRules.map((r) => [r.domain, r.servers.map(serverText)]),
    [['corp.example', ['10.8.0.1:53', '[2001:db8::1]:5353', '10.8.0.2:53']]],
  );
  t.same(config.dnsFiles, ['/no/such/file', 'here=there', './x']);
  const texts = entries.find((e) => e.name === 'dns')!.texts;
  t.same(texts, [
    '10.0.0.1:53',
    'corp.example=10.8.0.1:53,[2001:db8::1]:5353',
    'corp.example=10.8.0.2:53',
    '.=10.0.0.2:53',
    '/no/such/file',
    '@here=there',
    './x',
    '[::1]:5353',
  ]);
  for (const text of texts) t.equal(formatDnsOption(parseDnsOption(text)), text);
  const env = await loadConfig({
    flags: new Map(),
    env: { ISTHMUS_DNS: 'a.b=10.0.0.1,a.b=10.0.0.2,10.0.0.3' },
    uid: 0,
    vmOptional: true,
  });
  t.same(env.config.dnsRules[0]!.servers.map(serverText), ['10.0.0.1:53', '10.0.0.2:53']);
});

t.test('--dns and --timesync: what is wrong is said in one line, with what would be right', async (t) => {
  const dir = t.testdir({ bad: 'nameserver 10.0.0.1\nzone\n' });
  const wrong: [string, string, RegExp][] = [
    ['dns', 'dns.example', /^dns \(--dns\): "dns.example" is a name; expected ADDRESS\[:PORT\], DOMAIN=/],
    ['dns', 'corp.example=', /has no server for corp.example; expected corp.example=ADDRESS/],
    ['dns', 'corp.example=10.0.0.1,,10.0.0.2', /has no server for corp.example/],
    ['dns', 'corp.example=dns.example', /is a name/],
    ['dns', 'corp.example=10.0.0.1:0', /port/],
    ['dns', 'a..b=10.0.0.1', /is not a DNS name/],
    ['dns', '=10.0.0.1', /is not a DNS name/],
    ['dns', '@', /is empty/],
    ['dns', '0.0.0.0', /is not a server address/],
    ['dns', join(dir, 'bad'), /bad" line 2 is "zone"; expected zone DOMAIN/],
    ['dns', '/dev/null', /is no regular file; expected a resolver file/],
    ['dns', dir, /is a directory; expected a readable file/],
    ['timesync', '/run/vsock:1', /is not vsock:PATH:PORT; expected vsock:PATH:PORT or/],
    ['timesync', 'vsock:run:1', /is not vsock:PATH:PORT/],
    ['timesync', 'vsock:/run/v:0', /has "0" as its vsock port/],
    ['timesync', 'vsock:/run/v:x', /has "x" as its vsock port/],
    ['timesync', 'vsock:/run/v:4294967295', /vsock port/],
  ];
  for (const [name, text, message] of wrong) {
    const error: Error = await load(name, text).then(
      () => new Error('taken'),
      (e: Error) => e,
    );
    t.match(error.message, message, text);
    t.notMatch(error.message, /\n/);
  }
  t.same(parseTimesync('vsock-hyperkit:/run/vm:0xf3a4'), {
    kind: 'vsock',
    path: '/run/vm',
    port: 62_372,
    style: 'hyperkit',
  });
});

function isthmus(args: readonly string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  const env = { ...process.env, NODE_OPTIONS: '' };
  return new Promise((resolve) => {
    execFile(process.execPath, [daemonEntry(), ...args], { env }, (error, stdout, stderr) => {
      resolve({ code: error === null ? 0 : Number(error.code), stdout, stderr });
    });
  });
}

async function wire(t: Test, address: string): Promise<WireServer> {
  const server = await new WireServer((q) => {
    const name = packet.decode(q).questions?.[0]?.name ?? '';
    return response(q, { answers: [{ type: 'A', name, ttl: 300, data: address }] });
  }).listen();
  t.teardown(() => server.close());
  return server;
}

t.test('a daemon with rules: guests are answered by them, and explain, policy and status say so', async (t) => {
  const [home, vpn] = [await wire(t, '1.1.1.1'), await wire(t, '2.2.2.2')];
  const dir = t.testdir({ hosts: '10.1.2.3 db.lan\n' });
  const file = join(dir, 'vpn', 'dns.conf');
  const rig = await ControlRig.start(t, [
    '--dns',
    `127.0.0.1:${home.port}`,
    '--dns',
    file,
    '--dns',
    `fixed.example=127.0.0.1:${vpn.port}`,
    '--hosts',
    join(dir, 'hosts'),
  ]);
  const guest = await rig.guest();
  const resolve = async (name: string) => (await guest.resolve(name)).answers.map((a) => a.data);
  const why = async (query: string) => (await rig.ask('GET', `/v1/dns/explain?${query}`)).json;
  t.same(await resolve('a.corp.example'), ['1.1.1.1']);
  t.same(await resolve('a.fixed.example'), ['2.2.2.2']);
  mkdirSync(join(dir, 'vpn'));
  writeFileSync(file, `nameserver 127.0.0.1#${vpn.port}\nzone corp.example\nsearch corp.example lab.example\n`);
  t.same(await resolve('a.corp.example'), ['2.2.2.2'], 'the next question, though the other answer was good for 300 s');

  const late = await rig.guest();
  t.same(late.lease?.search, ['corp.example', 'lab.example'], 'the search list of the file is told by DHCP');

  const corp = await why('name=A.corp.example');
  t.match(corp, {
    name: 'a.corp.example',
    type: 'A',
    source: 'upstream',
    route: { domain: 'corp.example', from: file, thorough: true },
    asks: [`127.0.0.1:${vpn.port}`],
    cached: [{ rcode: 'NOERROR', records: 1, flags: ['edns'] }],
  });
  t.ok(corp.cached[0].ttlSeconds > 290);
  t.match(corp.route.servers[0], { health: 'healthy', answered: 2 });
  t.match(await why('name=db.lan'), {
    source: 'hosts-file',
    rule: join(dir, 'hosts'),
    answer: { addresses: ['10.1.2.3'] },
  });
  t.match(await why('name=192.168.65.1'), {
    type: 'PTR',
    source: 'gateway',
    answer: { names: ['gateway.isthmus.internal'] },
  });
  t.match(await why('name=host.docker.internal&type=aaaa'), {
    type: 'AAAA',
    answer: { rcode: 'NOERROR', addresses: [] },
  });
  for (const [query, key] of [
    ['name=a..b', 'query.name'],
    ['name=a&type=NONSENSE', 'query.type'],
  ]) {
    const refused = await rig.ask('GET', `/v1/dns/explain?${query}`);
    t.match(refused, { status: 400, json: { error: { code: 'ERR_DNS_QUESTION', key } } });
  }
  t.match(await rig.ask('GET', '/v1/dns/explain'), { status: 400, json: { error: { code: 'ERR_VALUE' } } });
  const { routes } = (await rig.ask('GET', '/v1/policy')).json.dns;
  t.same(
    routes.map((r: { domain: string; from: string }) => [r.domain, r.from]),
    [
      ['fixed.example', '--dns'],
      ['corp.example', file],
      ['.', '--dns'],
    ],
  );

  const run = (...args: string[]) => isthmus(['dns', ...args, '--control', rig.socket]);
  const text = await run('explain', 'a.corp.example');
  t.equal(text.code, 0, text.stderr);
  t.match(text.stdout, /^a\.corp\.example A\ndecided by {2}upstream: names at and below corp\.example\n/);
  t.match(
    text.stdout,
    new RegExp(`^server {6}127\\.0\\.0\\.1:${vpn.port} \\(healthy, [\\d.]+ ms, 2 of 2 answered\\)$`, 'm'),
  );
  t.match(text.stdout, /^cached {6}NOERROR, 1 record, \d+s left for questions with edns$/m);
  t.match(JSON.parse((await run('explain', 'db.lan', '--type', 'TXT', '--json')).stdout), {
    type: 'TXT',
    source: 'hosts-file',
    answer: { rcode: 'NOERROR', addresses: [] },
  });
  t.match(await run('explain', 'a..b'), { code: 65, stderr: /^isthmus: .*no domain name/ });
  t.match(await run('explain'), { code: 64, stderr: /expected one NAME/ });
});

t.test('an explanation as text: every kind, and nothing that moves the cursor', (t) => {
  const base = { name: 'x\u001b[2J', type: 'A', rule: 'r', answer: null, route: null, asks: [], cached: [] };
  const dead = explanationText({ ...base, source: 'upstream' });
  t.match(dead, /^asks {8}nobody: SERVFAIL$/m);
  t.notOk(dead.includes('\u001b'));
  const none = { rcode: 'NXDOMAIN', addresses: [], names: [], ttlSeconds: 1 };
  t.match(explanationText({ ...base, source: 'own-domain', answer: none }), /^answer {6}NXDOMAIN, no such name$/m);
  const nodata = { ...none, rcode: 'NOERROR' };
  t.match(explanationText({ ...base, source: 'gateway', answer: nodata }), /NODATA/);
  const server = {
    server: '1.1.1.1:53',
    order: 2,
    timeoutMs: 2000,
    health: 'suspect',
    rttMs: null,
    asked: 3,
    answered: 1,
  } as const;
  const route = { domain: '.', from: '/f', servers: [server], hostResolver: 'last', thorough: true } as const;
  const whole = explanationText({ ...base, source: 'upstream', route, asks: ['1.1.1.1:53', 'host'] });
  t.match(whole, /^server {6}1\.1\.1\.1:53 \(suspect, 1 of 3 answered, order 2, waited for 2s\)$/m);
  t.match(whole, /^asks {8}1\.1\.1\.1:53, then host$/m);
  t.end();
});

t.test('the host wakes: DNS starts afresh, the event says how long, guests set their clocks', async (t) => {
  // Not testdir: a socket's path has 107 bytes at most.
  const dir = mkdtempSync(join(tmpdir(), 'names-'));
  t.teardown(() => rmSync(dir, { recursive: true, force: true }));
  const path = join(dir, 'v.sock');
  const hypervisor = await FakeHypervisor.firecracker(t, path);
  const told = new Promise<void>((resolve) =>
    hypervisor.services.set(62_372, (socket) => {
      socket.on('close', resolve);
      socket.end();
    }),
  );
  const { config } = await load('timesync', `vsock:${path}:62372`);
  const clock = new ManualClock();
  let wall = 1_000_000;
  const seen: unknown[] = [];
  const dns = { search: ['lan'], refresh: () => seen.push('refresh') } as unknown as DnsService;
  const names = new Names({
    config,
    clock,
    log: quiet(),
    dns: () => dns,
    publish: (type, data) => seen.push([type, data]),
    onSearch: () => {},
    wall: () => wall,
    platform: 'linux',
  });
  t.equal(names.dnsOptions().scoped, undefined);
  wall += 7_200_400;
  clock.advance(400);
  names.dnsOptions().onQuery?.(clock.now());
  t.same(seen, [['host.wake', { sleptSeconds: 7200 }], 'refresh'], 'before the question is answered');
  await told;
  names.look(clock.now());
  t.equal(seen.length, 2, 'once');
  t.equal(names.stats.wakes, 1);
  t.same(names.search(), ['lan']);
  names.close();
});

t.test('a change of servers is an event, with those of domains where there are any', (t) => {
  const events = new NetworkEvents();
  const seen: unknown[] = [];
  events.hub.listen(({ type, data }) => seen.push([type, data]));
  events.dns('dns.servers.changed', { servers: ['1.1.1.1:53'] });
  events.dns('dns.servers.changed', { servers: [], domains: { 'corp.example': ['10.8.0.1:53'] } });
  events.dns('dns.file.read', { path: '/f' });
  t.same(seen, [
    ['dns.servers', { servers: ['1.1.1.1:53'] }],
    ['dns.servers', { servers: [], domains: { 'corp.example': ['10.8.0.1:53'] } }],
  ]);
  events.close();
  t.end();
});

t.test('the platform’s resolvers are followed, unless the operator has named a resolv.conf', async (t) => {
  const make = async (platform: NodeJS.Platform, ...conf: string[]) => {
    const file = join(t.testdir({ conf: '' }), 'conf');
    const { config } = await (conf.length === 0 ? load('mtu', '1500') : load('resolv-conf', file));
    const options = { clock: new ManualClock(), log: quiet(), publish: () => {}, onSearch: () => {}, wall: () => 0 };
    return new Names({ config, dns: () => ({}) as DnsService, platform, ...options }).dnsOptions();
  };
  const [darwin, linux] = [await make('darwin'), await make('linux')];
  const [ownDarwin, ownLinux] = [await make('darwin', 'own'), await make('linux', 'own')];
  t.match(darwin.scoped, { folder: '/etc/resolver', configuration: Function });
  t.equal(ownDarwin.scoped, undefined);
  t.equal(linux.scoped, undefined);
  // Whether the host's own resolver is asked when no server answers: always, by this file, never.
  t.equal(darwin.nsswitchPath, undefined);
  t.equal(linux.nsswitchPath, '/etc/nsswitch.conf');
  t.same([ownDarwin.nsswitchPath, ownLinux.nsswitchPath], ['', '']);
  t.same([darwin.behind, linux.behind?.[0]], [[], '/run/systemd/resolve/resolv.conf']);
});
