// gvproxy's own end-to-end cases against --api gvproxy, as a black box: port forwarding, DNS, DHCP, tunnel, and the API inside the guest.

import { createSocket } from 'node:dgram';
import { chmodSync, existsSync, lstatSync } from 'node:fs';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import ssh2, { type ParsedKey } from 'ssh2';
import t, { type Test } from 'tap';
import type { EmbeddedGuest } from '../../src/guest/embedded-guest.ts';
import { ask, ControlRig, exchange, freePort, serveHttp } from './rig.ts';

const { Server, utils } = ssh2;
const NETWORK = ['--network', '192.168.127.0/24'];
const MAC = '5a:94:ef:e4:0c:ee';
const GUEST = '192.168.127.2';
const HTTP_GET = 'GET / HTTP/1.0\r\n\r\n';

async function started(test: Test, args: readonly string[] = []): Promise<{ rig: ControlRig; api: string }> {
  const lease = ['--lease', `${MAC}=${GUEST}`];
  const rig = await ControlRig.start(test, [...NETWORK, ...lease, '--api', 'gvproxy:gv.sock', ...args]);
  return { rig, api: rig.path('gv.sock') };
}

/** A request inside the guest, to the gateway's port 80. */
async function askInside(
  guest: EmbeddedGuest,
  method: string,
  path: string,
  body?: object,
  headers = '',
): Promise<string> {
  const socket = await guest.connect('192.168.127.1', 80);
  const text = body === undefined ? '' : JSON.stringify(body);
  socket.write(
    `${method} ${path} HTTP/1.1\r\nHost: gateway.containers.internal\r\n${headers}Content-Length: ${text.length}\r\n\r\n${text}`,
  );
  let answer = '';
  for await (const chunk of socket) answer += String(chunk);
  socket.destroy();
  return answer;
}

t.test('port forwarding: TCP exposed, used, listed, unexposed', async (t) => {
  const { rig, api } = await started(t);
  t.equal(lstatSync(api).mode & 0o777, 0o600);
  const guest = await rig.guest({ mac: MAC });
  t.equal(guest.address, GUEST);
  serveHttp(guest, 8080, 'hello');
  const port = await freePort();
  const local = `127.0.0.1:${port}`;

  const empty = await ask(api, 'GET', '/services/forwarder/all');
  t.equal(empty.text, '[]\n');
  t.equal(empty.headers['content-type'], 'text/plain; charset=utf-8');

  const made = await ask(api, 'POST', '/services/forwarder/expose', {
    raw: JSON.stringify({ local, remote: `${GUEST}:8080` }),
  });
  t.match(made, { status: 200, text: '' });
  t.match(await exchange(port, HTTP_GET), /200 OK.*hello/s);
  const listed = await ask(api, 'GET', '/services/forwarder/all');
  t.equal(listed.text, `${JSON.stringify([{ local, remote: `${GUEST}:8080`, protocol: 'tcp' }])}\n`);

  const again = await ask(api, 'POST', '/services/forwarder/expose', {
    raw: JSON.stringify({ local, remote: `${GUEST}:8080` }),
  });
  t.equal(again.status, 500);
  t.equal(again.text, `proxy already running for tcp on ${local}\n`);
  t.equal(again.headers['x-content-type-options'], 'nosniff');
  t.equal(again.headers['content-type'], 'text/plain; charset=utf-8');

  t.match(
    await ask(api, 'POST', '/services/forwarder/unexpose', {
      raw: JSON.stringify({ local, protocol: 'tcp', extra: 1 }),
    }),
    {
      status: 200,
      text: '',
    },
  );
  await t.rejects(exchange(port, HTTP_GET), { code: 'ECONNREFUSED' });
  const gone = await ask(api, 'POST', '/services/forwarder/unexpose', { raw: JSON.stringify({ local }) });
  t.match(gone, { status: 500, text: 'proxy not found\n' });
});

t.test('port forwarding: UDP', async (t) => {
  const { rig, api } = await started(t);
  const guest = await rig.guest({ mac: MAC });
  const inside = guest.udp(53);
  inside.onMessage = (message, from) => inside.send(Buffer.from(`echo ${message}`), from.address, from.port);
  const port = await freePort();
  const body = { local: `:${port}`, remote: `${GUEST}:53`, protocol: 'udp' };
  t.equal((await ask(api, 'POST', '/services/forwarder/expose', { raw: JSON.stringify(body) })).status, 200);
  const socket = createSocket('udp4');
  t.teardown(() => socket.close());
  const answer = new Promise<string>((resolve) => socket.once('message', (m) => resolve(m.toString())));
  socket.send('x', port, '127.0.0.1');
  t.equal(await answer, 'echo x');
  t.match((await ask(api, 'GET', '/services/forwarder/all')).json, [{ local: `:${port}`, protocol: 'udp' }]);
  t.equal((await ask(api, 'POST', '/services/forwarder/unexpose', { raw: JSON.stringify(body) })).status, 200);
});

t.test('port forwarding: a unix socket of the host', async (t) => {
  const { rig, api } = await started(t);
  const guest = await rig.guest({ mac: MAC });
  serveHttp(guest, 8080, 'over unix');
  const local = rig.path('out.sock');
  const body = { local, remote: `tcp://${GUEST}:8080`, protocol: 'unix' };
  t.equal((await ask(api, 'POST', '/services/forwarder/expose', { raw: JSON.stringify(body) })).status, 200);
  t.ok(existsSync(local), 'the socket appears');
  t.match(await ask(local, 'GET', '/'), { status: 200, text: 'over unix' });
  const again = await ask(api, 'POST', '/services/forwarder/expose', { raw: JSON.stringify(body) });
  t.match(again.text, /proxy already running/);
  t.match(
    await ask(api, 'POST', '/services/forwarder/unexpose', { raw: JSON.stringify({ local, protocol: 'unix' }) }),
    {
      status: 200,
      text: '',
    },
  );
  t.notOk(existsSync(local));
});

t.test('port forwarding: a unix socket of the guest, through SSH', async (t) => {
  const { rig, api } = await started(t);
  const guest = await rig.guest({ mac: MAC });
  const keys = utils.generateKeyPairSync('ed25519');
  const stranger = utils.generateKeyPairSync('ed25519');
  const folder = t.testdir({ key: keys.private, other: stranger.private });
  chmodSync(`${folder}/key`, 0o644);
  chmodSync(`${folder}/other`, 0o644);
  const allowed = utils.parseKey(keys.public) as ParsedKey;
  const users: string[] = [];
  // The VM's sshd, with a podman behind a unix socket.
  const sshd = new Server({ hostKeys: [utils.generateKeyPairSync('ed25519').private] }, (connection) => {
    connection.on('error', () => {});
    connection.on('authentication', (context) => {
      const key = context.method === 'publickey' ? context.key : undefined;
      users.push(context.username);
      if (key?.data.equals(allowed.getPublicSSH())) context.accept();
      else context.reject(['publickey']);
    });
    connection.on('openssh.streamlocal', (accept, reject, info) => {
      if (info.socketPath !== '/run/podman/podman.sock') {
        reject();
        return;
      }
      const stream = accept();
      stream.once('data', () => stream.end('HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nOK'));
    });
  });
  guest.listen(22, (socket) => {
    socket.on('error', () => {});
    sshd.injectSocket(socket as unknown as Socket);
  });
  const remote = (path: string, key: string): string => `ssh-tunnel://core@${GUEST}:22${path}?key=${folder}/${key}`;
  const expose = (local: string, to: string) =>
    ask(api, 'POST', '/services/forwarder/expose', { raw: JSON.stringify({ local, remote: to, protocol: 'unix' }) });
  const local = rig.path('podman.sock');
  const url = remote('/run/podman/podman.sock', 'key');
  t.match(await expose(local, url), { status: 200, text: '' });
  t.equal(lstatSync(local).mode & 0o777, 0o600);
  t.match(await ask(local, 'GET', '/_ping'), { status: 200, text: 'OK' });
  t.match(await ask(local, 'GET', '/_ping'), { status: 200, text: 'OK' }, 'over the same SSH connection');
  t.equal(new Set(users).size, 1);
  t.equal(users[0], 'core');
  t.match(await expose(local, url), { status: 500, text: `proxy already running for unix on ${local}\n` });
  t.match((await ask(api, 'GET', '/services/forwarder/all')).json, [{ local, remote: url, protocol: 'unix' }]);
  t.match(
    await ask(api, 'POST', '/services/forwarder/unexpose', { raw: JSON.stringify({ local, protocol: 'unix' }) }),
    {
      status: 200,
      text: '',
    },
  );
  t.notOk(existsSync(local));
  t.match(await expose(local, remote('/run/podman/podman.sock', 'none')), { status: 500, text: /no such file/ });
  await expose(local, remote('/run/podman/podman.sock', 'other'));
  await t.rejects(ask(local, 'GET', '/_ping'), 'another key opens nothing');
  await expose(rig.path('2.sock'), remote('/elsewhere', 'key'));
  await t.rejects(ask(rig.path('2.sock'), 'GET', '/_ping'), 'nor is there another socket');
});

t.test('port forwarding: the host under its names', async (t) => {
  const { rig } = await started(t);
  const guest = await rig.guest({ mac: MAC });
  const server = createServer((socket) => {
    socket.on('error', () => {});
    socket.end('from the host');
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.teardown(() => server.close());
  for (const name of ['host.containers.internal', 'host.docker.internal']) {
    const address = (await guest.resolve(name)).answers[0]?.data as string;
    const socket = await guest.connect(address, (server.address() as AddressInfo).port);
    let text = '';
    for await (const chunk of socket) text += String(chunk);
    socket.destroy();
    t.equal(text, 'from the host', name);
  }
});

t.test('error texts and statuses', async (t) => {
  const { api } = await started(t);
  const expose = (raw: string, method = 'POST') => ask(api, method, '/services/forwarder/expose', { raw });
  const body = (more: object) => JSON.stringify({ local: '127.0.0.1:0', remote: `${GUEST}:80`, ...more });
  const cases: [string, number, string][] = [
    ['', 400, 'EOF\n'],
    ['{"local":', 400, 'unexpected EOF\n'],
    ['zzz', 400, "invalid character 'z' looking for beginning of value\n"],
    [
      body({ local: 1 }),
      400,
      'json: cannot unmarshal number into Go struct field ExposeRequest.local of type string\n',
    ],
    [body({ remote: ':80' }), 400, 'address @: missing port in address\n'],
    [body({ remote: 'nonsense' }), 400, 'address nonsense: missing port in address\n'],
    [body({ protocol: 'sctp' }), 500, 'unknown protocol sctp\n'],
    [body({ protocol: 'npipe' }), 500, 'named pipes are not supported by this platform\n'],
    [
      body({ protocol: 'unix', remote: 'http://x' }),
      500,
      'remote protocol for unix forwarder is not implemented: http\n',
    ],
    [
      body({ protocol: 'unix', remote: 'ssh-tunnel://root@x:22' }),
      500,
      'remote uri must contain a path to a socket file\n',
    ],
    [body({ protocol: 'unix', remote: 'ssh-tunnel://root@x:22/a' }), 500, 'key not provided for unix-ssh connection\n'],
    [
      body({ protocol: 'unix', remote: 'ssh-tunnel://root@x:22/%zz?key=/k' }),
      400,
      'parse "ssh-tunnel://root@x:22/%zz?key=/k": invalid URL escape "%zz"\n',
    ],
    [body({ remote: '8.8.8.8:80' }), 400, 'remote is 8.8.8.8, which is not inside the network 192.168.127.0/24\n'],
    [body({ local: '203.0.113.7:1234' }), 500, 'listen tcp 203.0.113.7:1234: bind: cannot assign requested address\n'],
  ];
  for (const [raw, status, text] of cases) t.match(await expose(raw), { status, text }, raw);
  t.match(await expose(body({}), 'GET'), { status: 400, text: 'post only\n' });
  t.match(await ask(api, 'GET', '/services/nothing'), { status: 404, text: '404 page not found\n' });
  t.match(await ask(api, 'PUT', '/services/forwarder/all'), { status: 200, text: '[]\n' }, 'any method reads');
  const upper = await expose(JSON.stringify({ LOCAL: '127.0.0.1:0', Remote: `${GUEST}:80`, PROTOCOL: 'tcp' }));
  t.equal(upper.status, 200, 'keys match in any case');
});

t.test('a port that another program holds', async (t) => {
  const { rig, api } = await started(t);
  const other = await ControlRig.start(t, ['--publish', '127.0.0.1:0:80']);
  const { host } = (other.daemon.ready.publish as { host: string }[])[0]!;
  const answer = await ask(api, 'POST', '/services/forwarder/expose', {
    raw: JSON.stringify({ local: host, remote: `${GUEST}:80` }),
  });
  t.match(answer, { status: 500, text: `listen tcp ${host}: bind: address already in use\n` });
  t.equal((await rig.ask('GET', '/v1/forwards')).json.forwards.length, 0);
});

t.test('one table: what the control API makes is listed and unexposed here, and the other way round', async (t) => {
  const { rig, api } = await started(t);
  const port = await freePort();
  const spec = {
    listen: { kind: 'tcp', address: '127.0.0.1', port },
    target: { kind: 'guest', guest: GUEST, port: 80 },
  };
  t.equal((await rig.ask('POST', '/v1/forwards', { body: spec })).status, 201);
  t.match((await ask(api, 'GET', '/services/forwarder/all')).json, [
    { local: `127.0.0.1:${port}`, remote: `${GUEST}:80` },
  ]);
  const local = `127.0.0.1:${port}`;
  const again = await ask(api, 'POST', '/services/forwarder/expose', {
    raw: JSON.stringify({ local, remote: `${GUEST}:80` }),
  });
  t.equal(again.text, `proxy already running for tcp on ${local}\n`);
  t.equal((await ask(api, 'POST', '/services/forwarder/unexpose', { raw: JSON.stringify({ local }) })).status, 200);
  t.equal((await rig.ask('GET', '/v1/forwards')).json.forwards.length, 0);
  await ask(api, 'POST', '/services/forwarder/expose', { raw: JSON.stringify({ local, remote: `${GUEST}:80` }) });
  t.match((await rig.ask('GET', '/v1/forwards')).json.forwards, [{ spec: { owner: 'gvproxy' } }]);
});

t.test('DHCP: the leases of gateway, reservation and guest', async (t) => {
  const { rig, api } = await started(t, ['--gateway-mac', '5A-94-ef-e4-0c-dd']);
  await rig.guest({ mac: MAC });
  await rig.guest({ mac: '5a:94:ef:e4:0c:ef' });
  for (const path of ['/services/dhcp/leases', '/leases']) {
    const { json } = await ask(api, 'GET', path);
    t.equal(json['192.168.127.1'], '5a:94:ef:e4:0c:dd');
    t.equal(json[GUEST], MAC);
    t.ok(Object.values(json).includes('5a:94:ef:e4:0c:ef'));
  }
  const cam = (await ask(api, 'GET', '/cam')).json;
  t.strictSame(Object.keys(cam).sort(), [MAC, '5a:94:ef:e4:0c:ef']);
  const stats = (await ask(api, 'GET', '/stats')).json;
  t.ok(stats.BytesReceived > 0 && stats.BytesSent > 0);
  t.type(stats.TCP.ForwardMaxInFlightDrop, 'number');
});

t.test('DNS: built-in names, zones added while it runs, newest record first, order of zones', async (t) => {
  const { rig, api } = await started(t);
  const guest = await rig.guest({ mac: MAC });
  const resolve = async (name: string): Promise<string | undefined> => {
    const { answers } = await guest.resolve(name);
    return answers[0]?.data as string | undefined;
  };
  const add = (zone: object) => ask(api, 'POST', '/services/dns/add', { raw: JSON.stringify(zone) });
  t.equal(await resolve('gateway.containers.internal'), '192.168.127.1');
  t.equal(await resolve('host.containers.internal'), '192.168.127.254');
  t.match((await ask(api, 'GET', '/services/dns/all')).json, [
    {
      Name: 'containers.internal.',
      Records: [
        { Name: 'gateway', IP: '192.168.127.1' },
        { Name: 'host', IP: '192.168.127.254' },
      ],
      DefaultIP: '',
    },
    { Name: 'docker.internal.' },
  ]);

  t.match(await add({ Name: 'dynamic.internal.', Records: [{ Name: 'test', IP: '192.168.127.254' }] }), {
    status: 200,
    text: '',
  });
  t.equal(await resolve('test.dynamic.internal'), '192.168.127.254');
  t.equal(await resolve('TEST.Dynamic.Internal'), '192.168.127.254', 'in any case');
  await add({ name: 'dynamic.internal.', records: [{ name: 'test', ip: '192.168.127.253' }] });
  t.equal(await resolve('test.dynamic.internal'), '192.168.127.253');

  await add({ Name: 'dynamic.testing.', DefaultIP: GUEST });
  await add({ Name: 'testing.', Records: [{ Name: 'host', IP: '192.168.127.254' }] });
  await add({ Name: 'testing.', Records: [{ Name: 'gateway', IP: '192.168.127.1' }] });
  t.equal(await resolve('anything.dynamic.testing'), GUEST);
  t.equal(await resolve('gateway.testing'), '192.168.127.1');
  t.equal(await resolve('host.testing'), '192.168.127.254');
  t.equal((await guest.resolve('nobody.testing')).rcode, 3, 'a zone answers for all below it');

  await add({ Name: 'crc.testing.', Records: [{ Regexp: 'crc-(.*?)-master-0', IP: '192.168.126.11' }] });
  t.equal(await resolve('crc-abc-master-0.crc.testing'), '192.168.126.11');
  const listed = (await ask(api, 'GET', '/services/dns/all')).json as { Name: string; Records: unknown }[];
  t.match(
    listed.find((zone) => zone.Name === 'dynamic.testing.'),
    { Records: null, DefaultIP: GUEST },
  );
  t.match(
    listed.find((zone) => zone.Name === 'crc.testing.'),
    { Records: [{ Regexp: 'crc-(.*?)-master-0', IP: '192.168.126.11' }] },
  );
  t.match(await add({ Name: 'x.', Records: [{ Name: 'y', IP: 'zzz' }] }), {
    status: 400,
    text: 'invalid IP address: zzz\n',
  });
});

t.test('tunnel: OK comes first, then the bytes of a port of the guest', async (t) => {
  const { rig, api } = await started(t);
  const guest = await rig.guest({ mac: MAC });
  serveHttp(guest, 8080, 'tunnelled');
  const through = (query: string, behind: string): Promise<string> =>
    new Promise((resolve, reject) => {
      const socket = connect({ path: api });
      let text = '';
      socket.on('data', (chunk: Buffer) => {
        text += chunk.toString();
      });
      socket.on('error', reject);
      socket.on('close', () => resolve(text));
      socket.write(`POST /tunnel?${query} HTTP/1.1\r\nHost: \r\nContent-Length: 0\r\n\r\n${behind}`);
    });
  t.match(
    await through(`ip=${GUEST}&port=8080`, HTTP_GET),
    /^OKHTTP\/1\.1 200 OK.*tunnelled$/s,
    'bytes right behind the head count',
  );
  t.equal(await through(`ip=${GUEST}&port=8081`, ''), 'OK', 'a refused port is an end after OK');
  t.match(await through('port=8080', ''), /^HTTP\/1\.1 500 .*\r\n\r\nip is mandatory\n$/s);
  t.match(await through(`ip=${GUEST}&port=x`, ''), /strconv\.Atoi: parsing "x": invalid syntax/);
});

t.test('inside the guest: off by default', async (t) => {
  const { rig } = await started(t);
  const guest = await rig.guest({ mac: MAC });
  await t.rejects(guest.connect('192.168.127.1', 80), { code: 'ECONNREFUSED' });
});

t.test('inside the guest: a port of the caller is exposed and unexposed', async (t) => {
  const { rig, api } = await started(t, ['--guest-api', 'gvproxy']);
  const guest = await rig.guest({ mac: MAC });
  const other = await rig.guest({ mac: '5a:94:ef:e4:0c:ef' });
  serveHttp(guest, 8080, 'from inside');
  const port = await freePort();
  const local = `:${port}`;
  t.match(await askInside(guest, 'POST', '/services/forwarder/expose', { local, remote: ':8080' }), /^HTTP\/1\.1 200 /);
  t.match(await exchange(port, HTTP_GET), /from inside/);
  t.match((await ask(api, 'GET', '/services/forwarder/all')).json, [{ local, remote: `${GUEST}:8080` }]);
  t.match(await askInside(guest, 'GET', '/services/forwarder/all'), new RegExp(`"local":"${local}"`));
  t.match(
    await askInside(other, 'GET', '/services/forwarder/all'),
    /\r\n\r\n\[\]\n$/,
    'another guest sees its own only',
  );
  t.match(
    await askInside(other, 'POST', '/services/forwarder/unexpose', { local }),
    /proxy not found/,
    'nor ends what is not its own',
  );
  t.match(await askInside(guest, 'GET', '/services/dns/all'), /^HTTP\/1\.1 404 .*404 page not found/s);
  t.match(
    await askInside(guest, 'POST', '/services/forwarder/expose', { local: ':0', remote: `${other.address}:22` }),
    /^HTTP\/1\.1 400 /,
    'nor publishes ports of others',
  );
  const unix = { local: rig.path('evil.sock'), remote: `tcp://${GUEST}:1`, protocol: 'unix' };
  t.match(await askInside(guest, 'POST', '/services/forwarder/expose', unix), /^HTTP\/1\.1 500 /);
  t.notOk(existsSync(unix.local), 'nor makes files on the host');
  const garbage = await guest.connect('192.168.127.1', 80);
  garbage.on('error', () => {});
  garbage.end(Buffer.alloc(4096, 0xee));
  await new Promise((resolve) => garbage.resume().once('close', resolve));
  t.match(await askInside(guest, 'POST', '/services/forwarder/unexpose', { local }), /^HTTP\/1\.1 200 /);
  await t.rejects(exchange(port, HTTP_GET), { code: 'ECONNREFUSED' });
});

t.test('inside the guest: with a token, or an allow-list', async (t) => {
  const { rig } = await started(t, ['--guest-api', 'gvproxy:token=0123456789abcdef;allow=192.168.127.2/32']);
  const guest = await rig.guest({ mac: MAC });
  const other = await rig.guest({ mac: '5a:94:ef:e4:0c:ef' });
  await t.rejects(other.connect('192.168.127.1', 80), { code: 'ECONNREFUSED' });
  t.match(await askInside(guest, 'GET', '/services/forwarder/all'), /^HTTP\/1\.1 401 /);
  const wrong = 'Authorization: Bearer 0123456789abcdeF\r\n';
  t.match(await askInside(guest, 'GET', '/services/forwarder/all', undefined, wrong), /^HTTP\/1\.1 401 /);
  const right = 'Authorization: Bearer 0123456789abcdef\r\n';
  t.match(await askInside(guest, 'GET', '/services/forwarder/all', undefined, right), /^HTTP\/1\.1 200 /);
});
