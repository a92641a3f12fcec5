// /v1 of a running daemon: every resource, its answers held against their own schemas, and every way to ask wrongly.

import { execFile } from 'node:child_process';
import { createSocket } from 'node:dgram';
import { connect } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import t, { type Test } from 'tap';
import * as v from 'valibot';
import { daemonEntry } from '../../scripts/project.ts';
import { apiRoutes } from '../../src/control/api.ts';
import type { ConnectionKeeper } from '../../src/control/connection-limit.ts';
import type { ApiSource } from '../../src/control/resources.ts';
import { type Answer, ControlRig, exchange, freePort, serveHttp } from './rig.ts';

const HTTP_GET = 'GET / HTTP/1.0\r\n\r\n';
const routes = apiRoutes({ version: '0' } as ApiSource, {} as ConnectionKeeper);

/** Fails where a body is not what the document says that the route answers. */
function holds(t: Test, method: string, path: string, answer: Answer): void {
  const route = routes.find(
    (r) => r.method === method && new RegExp(`^${r.path.replace(/:\w+/g, '[^/]+')}$`).test(path),
  );
  const schema = route?.answers[answer.status]?.schema;
  if (schema === undefined) {
    t.fail(`${method} ${path} ${answer.status} has no schema`);
    return;
  }
  const result = v.safeParse(schema, answer.json);
  t.ok(result.success, `${method} ${path}: ${JSON.stringify(result.issues?.map((i) => [v.getDotPath(i), i.message]))}`);
}

function forward(port: number, more: object = {}): object {
  return { listen: { kind: 'tcp', address: '127.0.0.1', port }, target: { kind: 'guest', port: 80 }, ...more };
}

t.test('forwards: create, idempotent by key, list, get by id and key, replace, delete', async (t) => {
  const rig = await ControlRig.start(t);
  const guest = await rig.guest();
  serveHttp(guest, 80, 'published');
  serveHttp(guest, 81, 'elsewhere');
  const made = await rig.ask('POST', '/v1/forwards', {
    body: forward(0, { key: 'web', labels: { app: 'shop' }, owner: 'me' }),
  });
  t.equal(made.status, 201);
  holds(t, 'post', '/forwards', made);
  const port = Number(made.json.bound[0].split(':')[1]);
  t.ok(port > 0, 'port 0 tells the chosen one');
  t.match(await exchange(port, HTTP_GET), /published/);

  const again = await rig.ask('POST', '/v1/forwards', {
    body: forward(0, { key: 'web', labels: { app: 'shop' }, owner: 'me' }),
  });
  t.equal(again.status, 200, 'the same is there already');
  t.equal(again.json.id, made.json.id);
  const other = { ...forward(0, { key: 'web', owner: 'me' }), target: { kind: 'guest', port: 81 } };
  const clash = await rig.ask('POST', '/v1/forwards', { body: other });
  t.match(clash, { status: 409, json: { error: { code: 'ERR_FORWARD_EXISTS', key: 'key' } } });
  t.match(clash.json.error.message, `(of me; id ${made.json.id}; it listens on 127.0.0.1:${port})`, 'and who has it');
  const replaced = await rig.ask('POST', '/v1/forwards?replace=true', { body: other });
  t.equal(replaced.json.spec.target.port, 81);
  t.match(await exchange(port, HTTP_GET), /elsewhere/, 'what listens goes on');

  const taken = await rig.ask('POST', '/v1/forwards', { body: forward(port) });
  t.equal(taken.status, 409);
  t.match(taken.json.error, { code: 'ERR_PORT_IN_USE', key: 'listen.port' });
  t.match(taken.json.error.message, /web/, 'and says who holds it');

  const list = await rig.ask('GET', '/v1/forwards');
  holds(t, 'get', '/forwards', list);
  t.equal(list.json.forwards.length, 1);
  t.ok(list.json.forwards[0].counters.connections >= 2);
  await rig.ask('POST', '/v1/forwards', { body: forward(0, { labels: { app: 'mail' } }) });
  for (const [query, n] of [
    ['owner=me', 1],
    ['owner=you', 0],
    ['label=app', 1],
    ['label=app%3Dmail', 1],
    ['state=listening', 2],
    ['state=failed', 0],
  ] as const)
    t.equal((await rig.ask('GET', `/v1/forwards?${query}`)).json.forwards.length, n, query);
  t.equal((await rig.ask('GET', '/v1/forwards/web')).json.id, made.json.id);
  t.equal((await rig.ask('GET', `/v1/forwards/${made.json.id}`)).json.key, 'web');
  t.match(await rig.ask('DELETE', '/v1/forwards/web'), { status: 204, text: '' });
  t.match(await rig.ask('DELETE', '/v1/forwards/web'), {
    status: 404,
    json: { error: { code: 'ERR_FORWARD_NOT_FOUND', key: 'path.id' } },
  });
  await t.rejects(exchange(port, HTTP_GET), { code: 'ECONNREFUSED' });
});

t.test('forwards: a bulk replace is all or nothing, and of one owner', async (t) => {
  const rig = await ControlRig.start(t);
  await rig.ask('POST', '/v1/forwards', { body: forward(0, { key: 'else', owner: 'b' }) });
  const bulk = (forwards: object[]) => rig.ask('PUT', '/v1/forwards', { body: { owner: 'a', forwards } });
  const first = await bulk([forward(0, { key: '1' }), forward(0, { key: '2' })]);
  t.equal(first.status, 200);
  holds(t, 'put', '/forwards', first);
  const [one] = first.json.forwards;
  const second = await bulk([forward(0, { key: '1' }), forward(0, { key: '3' })]);
  t.equal(second.json.forwards[0].id, one.id, 'what is the same stays');
  const keys = async () =>
    (await rig.ask('GET', '/v1/forwards')).json.forwards.map((f: { key: string }) => f.key).sort();
  t.strictSame(await keys(), ['1', '3', 'else']);
  const { port } = new URL(`http://${one.bound[0]}`);
  const failed = await bulk([forward(0, { key: '4' }), forward(Number(port), { key: '5' })]);
  t.ok(failed.status < 300, 'a port that the replace itself frees is free');
  t.strictSame(await keys(), ['4', '5', 'else']);
  const wrong = await bulk([
    forward(0, { key: '6' }),
    { ...forward(0), listen: { kind: 'tcp', address: '203.0.113.9', port: 1 } },
  ]);
  t.equal(wrong.status, 400);
  t.strictSame(await keys(), ['4', '5', 'else'], 'nothing has changed');
  const bad = await bulk([forward(0), { ...forward(0), listen: { kind: 'tcp', address: 'x', port: 1 } }]);
  t.match(bad, { status: 400, json: { error: { code: 'ERR_VALUE', key: 'forwards[1].listen.address' } } });
  const other = (await rig.ask('GET', '/v1/forwards/else')).json as { id: string; bound: string[] };
  const held = await bulk([forward(0), forward(0, { key: '7' }), forward(Number(other.bound[0]!.split(':')[1]))]);
  t.match(held, { status: 409, json: { error: { code: 'ERR_PORT_IN_USE', key: 'forwards[2].listen.port' } } });
  t.match(held.json.error.message, `${other.bound[0]} is held by the forward else of b (id ${other.id})`);
  const named = await bulk([forward(0, { key: '8' }), forward(0, { key: 'else' })]);
  t.match(named, { status: 409, json: { error: { code: 'ERR_FORWARD_EXISTS', key: 'forwards[1].key' } } });
  t.match(named.json.error.message, `(of b; id ${other.id}; it listens on ${other.bound[0]})`, 'and who has the key');
  const twins = await bulk([forward(0, { key: '9' }), forward(0, { key: '9' })]);
  t.match(twins, { status: 409, json: { error: { key: 'forwards[1].key', message: /number 0 of the list/ } } });
  const stranger = await bulk([forward(0, { owner: 'c' })]);
  t.match(stranger, { status: 400, json: { error: { code: 'ERR_FORWARD_SPEC', key: 'forwards[0].owner' } } });
  const privileged = { kind: 'guest', address: '192.168.65.1', port: 53 };
  const own = await bulk([{ listen: privileged, target: { kind: 'tcp', address: '127.0.0.1', port: 1 } }]);
  t.match(own, { status: 409, json: { error: { code: 'ERR_PORT_IN_USE', key: 'forwards[0].listen.port' } } });
  t.strictSame(await keys(), ['4', '5', 'else'], 'still nothing has changed');
});

t.test('forwards: one with the lease of a connection ends with it', async (t) => {
  const rig = await ControlRig.start(t);
  const socket = connect({ path: rig.socket });
  const body = JSON.stringify(forward(0, { lease: 'connection', key: 'mine' }));
  socket.write(
    `POST /v1/forwards HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`,
  );
  const answer = await new Promise<string>((resolve) =>
    socket.once('data', (chunk: Buffer) => resolve(chunk.toString())),
  );
  t.match(answer, /^HTTP\/1\.1 201 /);
  t.match(answer, /keep-alive: timeout=\d{6,}/i, 'nobody is told to hang up');
  // Longer than an idle connection is kept otherwise.
  await sleep(6500);
  t.equal((await rig.ask('GET', '/v1/forwards/mine')).status, 200, 'idle, and still there');
  socket.destroy();
  await rig.until(
    () => rig.ask('GET', '/v1/forwards/mine'),
    ({ status }) => status === 404,
    'the forward is gone',
  );
});

t.test('flows: listed with filters and live counters, killed', async (t) => {
  const rig = await ControlRig.start(t, ['--publish', '127.0.0.1:0:80']);
  const guest = await rig.guest();
  serveHttp(guest, 80, 'x');
  const inside = await new Promise<{ readonly closed: Promise<string> }>((resolve, reject) => {
    guest.listen(7777, (socket) => {
      const closed = new Promise<string>((done) => {
        socket.on('error', (error: NodeJS.ErrnoException) => done(error.code ?? ''));
        socket.on('close', () => done('close'));
      });
      socket.resume();
      resolve({ closed });
    });
    rig
      .ask('POST', '/v1/forwards', { body: { ...forward(0), target: { kind: 'guest', port: 7777 } } })
      .then(({ json }) => {
        const client = connect(Number(json.bound[0].split(':')[1]), '127.0.0.1', () => client.write('x'.repeat(1000)));
        client.on('error', () => {});
        t.teardown(() => client.destroy());
      }, reject);
  });
  const page = await rig.until(
    () => rig.ask('GET', `/v1/flows?protocol=tcp&guest=${guest.address}:7777`),
    ({ json }) => json.flows[0]?.bytesToGuest === 1000,
    'the flow with its bytes',
  );
  holds(t, 'get', '/flows', page);
  const [flow] = page.json.flows;
  t.match(flow, { protocol: 'tcp', direction: 'inbound', state: 'ESTABLISHED', guest: `${guest.address}:7777`, vm: 1 });
  const count = async (query: string) => (await rig.ask('GET', `/v1/flows?${query}`)).json.total;
  t.equal(await count('state=established'), 1, 'in any case');
  t.equal(await count('state=close-wait'), 0);
  t.equal(await count(`remote=${flow.remote}`), 1);
  t.equal(await count(`remote=${flow.remote.split(':')[0]}`), 1);
  t.equal(await count('remote=8.8.8.8'), 0);
  t.equal(await count('vm=1&protocol=tcp'), 1);
  t.equal(await count('vm=2'), 0);
  const second = await rig.ask('GET', '/v1/flows?protocol=tcp');
  t.equal(second.json.flows[0].id, flow.id, 'a flow keeps its id');
  t.match(await rig.ask('GET', '/v1/flows?offset=1&protocol=tcp'), { json: { total: 1, flows: [] } });

  t.equal((await rig.ask('DELETE', `/v1/flows/${flow.id}`)).status, 204);
  t.equal(await inside.closed, 'ECONNRESET', 'the guest hears of it');
  t.match(await rig.ask('DELETE', `/v1/flows/${flow.id}`), {
    status: 404,
    json: { error: { code: 'ERR_FLOW_NOT_FOUND' } },
  });
  t.equal((await rig.ask('DELETE', '/v1/flows/udp-x')).status, 404);

  const udp = guest.udp();
  udp.send(Buffer.from('x'), '192.168.65.254', await freePort());
  const datagrams = await rig.until(
    () => rig.ask('GET', '/v1/flows?protocol=udp'),
    ({ json }) => json.total === 1,
    'a UDP flow',
  );
  holds(t, 'get', '/flows', datagrams);
  t.equal((await rig.ask('DELETE', `/v1/flows/${datagrams.json.flows[0].id}`)).status, 204);
  t.equal(await count('protocol=udp'), 0);

  const inner = guest.udp(5353);
  inner.onMessage = (message, from) => inner.send(message, from.address, from.port);
  const published = await rig.ask('POST', '/v1/forwards', {
    body: {
      listen: { kind: 'udp', address: '127.0.0.1', port: 0 },
      target: { kind: 'guest', port: 5353 },
      client: 'gateway',
    },
  });
  const client = createSocket('udp4');
  t.teardown(() => client.close());
  const echoed = new Promise((resolve) => client.once('message', resolve));
  client.send('12345', Number(published.json.bound[0].split(':')[1]), '127.0.0.1');
  await echoed;
  const inbound = await rig.ask('GET', '/v1/flows?protocol=udp&remote=192.168.65.1&vm=1');
  holds(t, 'get', '/flows', inbound);
  t.match(inbound.json.flows, [{ direction: 'inbound', vm: 1, bytesToGuest: 5, bytesToHost: 5, state: 'OPEN' }]);
  t.equal((await rig.ask('DELETE', `/v1/flows/${inbound.json.flows[0].id}`)).status, 204);
  t.equal(await count('protocol=udp&remote=192.168.65.1'), 0);
});

t.test('vms: listed, isolated, disconnected', async (t) => {
  const rig = await ControlRig.start(t);
  const guest = await rig.guest({ mac: '52:54:00:00:00:01', hostName: 'alpha' });
  const other = await rig.guest({ mac: '52:54:00:00:00:02', hostName: 'beta' });
  await guest.ping('192.168.65.1');
  const list = await rig.ask('GET', '/v1/vms');
  holds(t, 'get', '/vms', list);
  t.match(list.json.vms, [
    { id: 1, macs: ['52:54:00:00:00:01'], addresses: [guest.address], hostName: 'alpha', isolated: false, mtu: 65_520 },
    { id: 2, macs: ['52:54:00:00:00:02'], addresses: [other.address], hostName: 'beta' },
  ]);
  t.ok(list.json.vms[0].counters.framesFromGuest > 0);
  t.ok((await guest.ping(other.address!)).intact, 'VMs reach each other');
  const isolated = await rig.ask('PATCH', '/v1/vms/1', { body: { isolated: true } });
  holds(t, 'patch', '/vms/1', isolated);
  t.equal(isolated.json.isolated, true);
  await t.rejects(guest.ping(other.address!, { timeoutMs: 300 }));
  await rig.ask('PATCH', '/v1/vms/1', { body: { isolated: false } });
  t.ok((await guest.ping(other.address!)).intact);
  t.equal((await rig.ask('GET', '/v1/vms/2')).json.hostName, 'beta');
  for (const [method, body] of [['GET'], ['DELETE'], ['PATCH', { isolated: true }]] as const)
    t.match(await rig.ask(method, '/v1/vms/9', { body }), {
      status: 404,
      json: { error: { code: 'ERR_VM_NOT_FOUND' } },
    });
  t.equal((await rig.ask('DELETE', '/v1/vms/2')).status, 204);
  t.type(await other.closed, 'string');
  await rig.until(
    () => rig.ask('GET', '/v1/vms'),
    ({ json }) => json.vms.length === 1,
    'one VM left',
  );
});

t.test('leases: listed; one that nobody uses is forgotten', async (t) => {
  const rig = await ControlRig.start(t, ['--lease', '52:54:00:00:00:09=192.168.65.9']);
  const guest = await rig.guest({ hostName: 'gamma' });
  const list = await rig.ask('GET', '/v1/leases');
  holds(t, 'get', '/leases', list);
  t.match(list.json.leases, [{ address: guest.address, mac: guest.mac, hostName: 'gamma', state: 'active', vm: 1 }]);
  const path = `/v1/leases/${guest.address}`;
  t.match(await rig.ask('DELETE', path), { status: 409, json: { error: { code: 'ERR_LEASE_IN_USE' } } });
  await guest.dhcpRelease();
  await rig.until(
    () => rig.ask('GET', '/v1/leases'),
    ({ json }) => json.leases[0]?.state === 'expired',
    'it was released',
  );
  t.equal((await rig.ask('DELETE', path)).status, 204);
  t.match(await rig.ask('DELETE', path), { status: 404, json: { error: { code: 'ERR_LEASE_NOT_FOUND' } } });
  t.match(await rig.ask('DELETE', '/v1/leases/x'), { status: 400, json: { error: { key: 'path.address' } } });
});

t.test('dns: names and zones are answered at once, and outlive kill -9', async (t) => {
  const rig = await ControlRig.start(t);
  const guest = await rig.guest();
  const put = await rig.ask('PUT', '/v1/dns/names/Web.Example.', {
    body: { addresses: ['192.0.2.1', '2001:db8::1'], ttl: 30 },
  });
  t.equal(put.status, 201);
  holds(t, 'put', '/dns/names/x', put);
  const answer = await guest.resolve('web.example');
  t.match(answer.answers, [{ data: '192.0.2.1', ttlSec: 30 }]);
  t.match((await guest.resolve('WEB.example', 'AAAA')).answers, [{ data: '2001:db8::1' }]);
  t.match((await guest.resolve('1.2.0.192.in-addr.arpa', 'PTR')).answers, [{ data: 'web.example' }]);
  t.equal((await rig.ask('PUT', '/v1/dns/names/web.example', { body: { addresses: ['192.0.2.2'] } })).status, 200);
  t.match((await guest.resolve('web.example')).answers, [{ data: '192.0.2.2' }]);
  await rig.ask('POST', '/v1/dns/names', { body: { name: 'web.example', addresses: ['192.0.2.3'] } });
  t.equal((await guest.resolve('web.example')).answers.length, 2);
  t.equal((await rig.ask('DELETE', '/v1/dns/names/web.example?address=192.0.2.2')).status, 204);
  t.match((await guest.resolve('web.example')).answers, [{ data: '192.0.2.3' }]);

  const zone = await rig.ask('PUT', '/v1/dns/zones/corp.test', {
    body: {
      records: [
        { name: 'www', addresses: ['192.0.2.10'] },
        { pattern: '^n\\d+$', addresses: ['192.0.2.11'] },
      ],
      defaultAddress: '192.0.2.99',
    },
  });
  t.equal(zone.status, 201);
  holds(t, 'put', '/dns/zones/x', zone);
  t.match((await guest.resolve('www.corp.test')).answers, [{ data: '192.0.2.10' }]);
  t.match((await guest.resolve('n12.corp.test')).answers, [{ data: '192.0.2.11' }]);
  t.match((await guest.resolve('nx.corp.test')).answers, [{ data: '192.0.2.99' }]);
  const added = await rig.ask('POST', '/v1/dns/zones', {
    body: { name: 'corp.test', records: [{ name: 'www', addresses: ['192.0.2.12'] }] },
  });
  holds(t, 'post', '/dns/zones', added);
  t.match((await guest.resolve('www.corp.test')).answers, [{ data: '192.0.2.12' }], 'added ones come first');
  const info = await rig.ask('GET', '/v1/dns');
  holds(t, 'get', '/dns', info);
  t.equal(info.json.zones[0].records.length, 3);
  const wrong = await rig.ask('PUT', '/v1/dns/zones/a', {
    body: { records: [{ pattern: '(', addresses: ['1.1.1.1'] }] },
  });
  t.match(wrong, { status: 400, json: { error: { code: 'ERR_DNS_PATTERN', key: 'records[0].pattern' } } });
  const both = await rig.ask('PUT', '/v1/dns/zones/a', {
    body: { records: [{ name: 'a', pattern: 'b', addresses: ['1.1.1.1'] }] },
  });
  t.match(both, { status: 400, json: { error: { key: 'records[0]' } } });

  await rig.daemon.stop('SIGKILL');
  const again = await ControlRig.start(t, [], rig.daemon.folder);
  const back = await again.guest();
  t.match((await back.resolve('www.corp.test')).answers, [{ data: '192.0.2.12' }]);
  t.match((await back.resolve('n1.corp.test')).answers, [{ data: '192.0.2.11' }]);
  t.match((await back.resolve('web.example')).answers, [{ data: '192.0.2.3' }]);
  t.equal((await again.ask('DELETE', '/v1/dns/zones/corp.test')).status, 204);
  t.equal((await again.ask('DELETE', '/v1/dns/zones/corp.test')).status, 404);
  t.equal((await again.ask('DELETE', '/v1/dns/names/web.example')).status, 204);
  t.match((await again.ask('GET', '/v1/dns')).json, { names: [], zones: [] });
});

t.test('policy, stats, config, document', async (t) => {
  const rig = await ControlRig.start(t, ['--guest-api', 'gvproxy:token=0123456789abcdef', '--allow-bind', '127.0.0.1']);
  const policy = await rig.ask('GET', '/v1/policy');
  holds(t, 'get', '/policy', policy);
  t.match(policy.json, { network: '192.168.65.0/24', hostAlias: '192.168.65.254', guestApi: 'gvproxy:token' });
  t.equal(policy.json.allowBind.length, 1);
  t.match(policy.json.proxy, { origin: 'none', http: null, ports: [80, 443], problem: null });
  const stats = await rig.ask('GET', '/v1/stats');
  holds(t, 'get', '/stats', stats);
  t.equal(stats.json.pid, rig.daemon.pid);
  t.ok(stats.json.metrics.length > 100);
  const config = await rig.ask('GET', '/v1/config');
  holds(t, 'get', '/config', config);
  t.match(config.json.options.network, { value: '192.168.65.0/24', source: 'default' });
  t.match(config.json.options.control, { source: 'flag', from: '--control' });
  for (const { text } of [policy, config]) t.notMatch(text, '0123456789abcdef', 'secrets stay secret');
  const document = (await rig.ask('GET', '/v1/openapi.json')).json;
  t.equal(document.openapi, '3.1.0');
  for (const { method, path } of routes) {
    const operation = document.paths[`/v1${path.replace(/:(\w+)/g, '{$1}')}`]?.[method];
    t.ok(operation?.summary && operation.responses['400'], `${method} ${path}`);
  }
  const post = document.paths['/v1/forwards'].post;
  t.equal(
    post.requestBody.content['application/json'].schema.additionalProperties,
    false,
    'from the schema that checks',
  );
});

t.test('drain: no new flows, those that run go on, then the daemon ends', async (t) => {
  const rig = await ControlRig.start(t, ['--publish', '127.0.0.1:0:80']);
  const guest = await rig.guest();
  guest.listen(80, (socket) => {
    socket.on('error', () => {});
    socket.on('data', (chunk: Buffer) => socket.write(chunk));
    socket.on('end', () => socket.end());
  });
  const { host } = (rig.daemon.ready.publish as { host: string }[])[0]!;
  const port = Number(host.split(':')[1]);
  const client = connect(port, '127.0.0.1');
  const echo = (text: string): Promise<string> =>
    new Promise((resolve) => {
      client.once('data', (chunk: Buffer) => resolve(chunk.toString()));
      client.write(text);
    });
  t.equal(await echo('before'), 'before');
  t.match(await rig.ask('POST', '/v1/drain', { body: { timeoutSeconds: 30 } }), {
    status: 202,
    json: { status: 'draining' },
  });
  t.match(await rig.ask('GET', '/healthz'), {
    status: 200,
    json: { status: 'draining', reason: /ends when the last TCP flow has ended, in [1-3]\d s at the latest/ },
  });
  const status = [daemonEntry(), 'status', '--control', rig.socket];
  const { stdout } = await promisify(execFile)(process.execPath, status, { env: { ...process.env, NODE_OPTIONS: '' } });
  t.match(stdout, /^status\tdraining: nothing new is taken/, 'and so does the command');
  await t.rejects(exchange(port, 'x'), { code: 'ECONNREFUSED' });
  await t.rejects(guest.connect('192.168.65.254', port), { code: 'ECONNREFUSED' });
  t.equal(await echo('after'), 'after', 'what runs goes on');
  t.match(await rig.ask('POST', '/v1/forwards', { body: forward(0) }), {
    status: 503,
    json: { error: { code: 'ERR_STOPPING' } },
  });
  client.end();
  t.strictSame(await rig.daemon.exited, { code: 0, signal: null });
});

t.test('shutdown ends the daemon, the answer comes first', async (t) => {
  const rig = await ControlRig.start(t);
  t.match(await rig.ask('POST', '/v1/shutdown'), { status: 202, json: { status: 'stopping' } });
  t.strictSame(await rig.daemon.exited, { code: 0, signal: null });
});
