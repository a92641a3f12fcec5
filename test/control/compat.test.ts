// slirp4netns' API socket and vpnkit-forwarder's HTTP API, driven by what their own clients send.

import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import t from 'tap';
import { needsProgram } from '../helpers/requirements.ts';
import { ask, ControlRig, exchange, freePort, serveHttp } from './rig.ts';

const HTTP_GET = 'GET / HTTP/1.0\r\n\r\n';

/** What slirp4netns' own api client does: connect, write one JSON object, half-close, read to the end. */
function slirp(path: string, request: string): Promise<unknown> {
  return new Promise((resolve, reject) => {
    const socket = connect({ path, allowHalfOpen: true }, () => socket.end(request));
    let text = '';
    socket.on('data', (chunk: Buffer) => {
      text += chunk.toString();
    });
    socket.on('error', reject);
    socket.on('end', () => resolve(JSON.parse(text)));
  });
}

t.test('slirp4netns: add, list, remove', async (t) => {
  const rig = await ControlRig.start(t, ['--api', 'slirp4netns:slirp.sock']);
  const api = rig.path('slirp.sock');
  const call = (execute: string, args?: object) =>
    slirp(api, JSON.stringify(args === undefined ? { execute } : { execute, arguments: args }));
  const guest = await rig.guest();
  serveHttp(guest, 80, 'slirped');
  t.strictSame(await call('list_hostfwd'), { return: { entries: [] } });
  const port = await freePort();
  const wanted = { proto: 'tcp', host_addr: '127.0.0.1', host_port: port, guest_addr: guest.address, guest_port: 80 };
  t.strictSame(await call('add_hostfwd', wanted), { return: { id: 1 } });
  t.match(await exchange(port, HTTP_GET), /slirped/);
  t.strictSame(await call('list_hostfwd'), { return: { entries: [{ id: 1, ...wanted }] } });
  t.strictSame(
    await call('add_hostfwd', { ...wanted, guest_port: 81 }),
    { error: { desc: 'bad request: add_hostfwd: slirp_add_hostfwd failed' } },
    'the port is taken',
  );
  const udp = { proto: 'udp4', host_port: await freePort(), guest_port: 53 };
  t.strictSame(await call('add_hostfwd', udp), { return: { id: 2 } }, 'defaults: every host address, the only VM');
  t.match(await call('list_hostfwd'), {
    return: { entries: [{ id: 1 }, { id: 2, proto: 'udp', host_addr: '0.0.0.0' }] },
  });
  t.strictSame(await call('remove_hostfwd', { id: 1 }), { return: {} });
  await t.rejects(exchange(port, HTTP_GET), { code: 'ECONNREFUSED' });
  t.match(await call('remove_hostfwd', { id: 1 }), { error: { desc: /^bad request: remove_hostfwd/ } });
  t.match((await rig.ask('GET', '/v1/forwards')).json.forwards, [{ spec: { owner: 'slirp4netns' } }], 'one table');
});

t.test('slirp4netns: mistakes', async (t) => {
  const rig = await ControlRig.start(t, ['--api', 'slirp4netns:slirp.sock']);
  const api = rig.path('slirp.sock');
  const good = { proto: 'tcp', host_port: 1234, guest_port: 80 };
  const add = (more: object) => JSON.stringify({ execute: 'add_hostfwd', arguments: { ...good, ...more } });
  const cases: [string, RegExp][] = [
    ['nonsense', /^bad request: cannot parse JSON$/],
    ['{}', /^bad request: no execute found$/],
    ['{"execute":"fly"}', /^bad request: unknown execute$/],
    [add({ proto: 'sctp' }), /^bad request: add_hostfwd: bad arguments\.proto$/],
    [add({ host_addr: '::1' }), /bad arguments\.host_addr$/],
    [add({ host_port: 0 }), /bad arguments\.host_port$/],
    [add({ guest_addr: 'me' }), /bad arguments\.guest_addr$/],
    [add({ guest_port: 65_536 }), /bad arguments\.guest_port$/],
    [add({ guest_addr: '8.8.8.8' }), /slirp_add_hostfwd failed$/],
    ['{"execute":"remove_hostfwd","arguments":{"id":"1"}}', /bad arguments\.id$/],
    [JSON.stringify({ execute: 'x'.repeat(5000) }), /^bad request: too large message$/],
  ];
  for (const [request, desc] of cases) t.match(await slirp(api, request), { error: { desc } }, request.slice(0, 60));
});

t.test('vpnkit: expose, list, unexpose, by curl', { skip: needsProgram('curl') }, async (t) => {
  const rig = await ControlRig.start(t, ['--api', 'vpnkit:vpnkit.sock']);
  const api = rig.path('vpnkit.sock');
  const curl = (method: string, path: string, body?: object): string =>
    execFileSync(
      'curl',
      [
        ...['-sS', '--unix-socket', api, '-X', method, '-w', ' %{http_code}'],
        ...(body === undefined ? [] : ['-d', JSON.stringify(body)]),
        `http://localhost${path}`,
      ],
      { encoding: 'utf8' },
    );
  const guest = await rig.guest();
  serveHttp(guest, 80, 'vpnkitted');
  t.equal(curl('GET', '/forwards/list'), 'null\n 200');
  const port = { proto: 'tcp', out_ip: '127.0.0.1', out_port: 0, in_ip: guest.address, in_port: 80, annotation: 'web' };
  t.equal(curl('PUT', '/forwards/expose/port', port), ' 200');
  t.equal(curl('POST', '/forwards/expose/port', port), ' 200', 'the same again is no error');
  const listed = (await ask(api, 'GET', '/forwards/list')).json;
  t.equal(listed.length, 1);
  t.ok(listed[0].out_port > 0, 'port 0 is resolved in the list');
  t.match(listed[0], { proto: 'tcp', out_ip: '127.0.0.1', in_ip: guest.address, in_port: 80, annotation: 'web' });
  t.match(await exchange(listed[0].out_port, HTTP_GET), /vpnkitted/);
  t.match(curl('GET', '/forwards/dump'), /listening/);
  t.equal(curl('DELETE', '/forwards/unexpose/port', port), ' 200');
  t.equal(curl('DELETE', '/forwards/unexpose/port', port), ' 200', 'nor is its end');
  t.equal(curl('GET', '/forwards/list'), 'null\n 200');

  const path = rig.path('made/for/it.sock');
  const pipe = { proto: 'unix', out_path: path, in_ip: guest.address, in_port: 80 };
  t.equal(curl('PUT', '/forwards/expose/pipe', pipe), ' 200');
  t.ok(existsSync(path), 'its folder was made');
  t.match(await ask(path, 'GET', '/'), { text: 'vpnkitted' });
  t.equal(curl('POST', '/forwards/unexpose/pipe', pipe), ' 200');
  t.notOk(existsSync(path));
});

t.test('vpnkit: errors are 400 with a message', async (t) => {
  const rig = await ControlRig.start(t, ['--api', 'vpnkit:vpnkit.sock', '--publish', '127.0.0.1:0:80']);
  const api = rig.path('vpnkit.sock');
  const { host } = (rig.daemon.ready.publish as { host: string }[])[0]!;
  const taken = { proto: 'tcp', out_ip: '127.0.0.1', out_port: Number(host.split(':')[1]), in_ip: '', in_port: 81 };
  const expose = (raw: string) => ask(api, 'PUT', '/forwards/expose/port', { raw });
  const answer = await expose(JSON.stringify(taken));
  t.equal(answer.status, 400);
  t.match(answer.json.message, /in use|taken|held/);
  t.match(await expose('{'), { status: 400, json: { message: /JSON/ } });
  t.match(await expose(JSON.stringify({ ...taken, proto: 'icmp' })), { status: 400, json: { message: /proto/ } });
  t.match(await expose(JSON.stringify({ ...taken, in_port: 0 })), { status: 400, json: { message: /in_port/ } });
  t.match(await expose(JSON.stringify({ ...taken, in_path: '/x' })), { status: 400, json: { message: /agent/ } });
  // Node's recursive mkdir never comes back from /proc, and the daemon with it.
  for (const out_path of ['/proc/nope/x.sock', '/dev/null/x.sock', `${rig.daemon.controlSocket}/x.sock`, 'here/x.sock'])
    t.match(await expose(JSON.stringify({ proto: 'unix', out_path, in_port: 1 })), {
      status: 400,
      json: { message: /^out_path/ },
    });
  t.notOk(existsSync(rig.path('here')), 'nor is a folder made for what is refused');
  t.equal((await ask(api, 'GET', '/forwards/expose/port')).status, 405);
  t.equal((await ask(api, 'GET', '/nothing')).status, 404);
});

t.test('slow and rude clients of the other protocols are ended, and others do not wait', async (t) => {
  const apis = ['--api', 'gvproxy:gv.sock', '--api', 'slirp4netns:slirp.sock', '--api', 'vpnkit:vpnkit.sock'];
  const rig = await ControlRig.start(t, apis);
  /** Sends what it has and then a byte every half second; resolves when it is cut off. */
  const trickle = (name: string, text: string): Promise<string> =>
    new Promise((resolve) => {
      const socket = connect({ path: rig.path(name), allowHalfOpen: true }, () => socket.write(text));
      const timer = setInterval(() => socket.write(' '), 500);
      let answer = '';
      socket.on('data', (chunk: Buffer) => {
        answer += chunk.toString();
      });
      socket.on('error', () => {});
      socket.on('end', () => socket.destroy());
      socket.on('close', () => {
        clearInterval(timer);
        resolve(answer);
      });
    });
  const post = (path: string) => `POST ${path} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{`;
  const slow = [
    trickle('gv.sock', 'POST /services'),
    trickle('gv.sock', post('/services/forwarder/expose')),
    trickle('slirp.sock', '{"execute":'),
    trickle('vpnkit.sock', 'PUT /forw'),
    trickle('vpnkit.sock', post('/forwards/expose/port')),
  ];
  t.equal((await ask(rig.path('gv.sock'), 'GET', '/services/forwarder/all')).text, '[]\n');
  t.equal((await ask(rig.path('vpnkit.sock'), 'GET', '/forwards/list')).text, 'null\n');
  t.match(await slirp(rig.path('slirp.sock'), '{"execute":"list_hostfwd"}'), { return: { entries: [] } });
  t.match(await trickle('gv.sock', 'rubbish\r\n\r\n'), /^HTTP\/1\.1 400 Bad Request\r\n.*400 Bad Request$/s);
  t.match(await trickle('vpnkit.sock', 'rubbish\r\n\r\n'), /^HTTP\/1\.1 400 .*"message"/s);
  const begun = performance.now();
  await Promise.all(slow);
  t.ok(performance.now() - begun < 15_000, 'none is kept for longer than a request may take');
});

t.test('a crowd that asks nothing locks nobody out of the other protocols', { timeout: 60_000 }, async (t) => {
  const apis = ['--api', 'gvproxy:gv.sock', '--api', 'slirp4netns:slirp.sock', '--api', 'vpnkit:vpnkit.sock'];
  const rig = await ControlRig.start(t, apis);
  const guest = await rig.guest();
  guest.listen(7, (socket) => {
    socket.on('error', () => {});
    socket.on('data', (chunk: Buffer) => socket.write(chunk));
  });
  const crowd: Socket[] = [];
  t.teardown(() => {
    for (const socket of crowd) socket.destroy();
  });
  const connected = (name: string, first: string): Promise<Socket> =>
    new Promise((resolve, reject) => {
      const socket = connect({ path: rig.path(name), allowHalfOpen: true }, () => {
        socket.write(first);
        resolve(socket);
      });
      socket.once('error', reject);
      socket.on('error', () => {});
      crowd.push(socket);
    });
  const tunnel = await connected('gv.sock', `POST /tunnel?ip=${guest.address}&port=7 HTTP/1.1\r\nHost: x\r\n\r\n`);
  const said = (): Promise<string> => new Promise((resolve) => tunnel.once('data', (d: Buffer) => resolve(String(d))));
  t.equal(await said(), 'OK');
  const descriptors = rig.daemon.fdCount();
  for (const name of ['gv.sock', 'slirp.sock', 'vpnkit.sock'])
    for (let i = 0; i < 1000; i++) await connected(name, i % 2 === 0 ? '' : 'G');
  t.equal((await ask(rig.path('gv.sock'), 'GET', '/services/forwarder/all')).text, '[]\n');
  t.equal((await ask(rig.path('vpnkit.sock'), 'GET', '/forwards/list')).text, 'null\n');
  t.match(await slirp(rig.path('slirp.sock'), '{"execute":"list_hostfwd"}'), { return: { entries: [] } });
  t.ok(rig.daemon.fdCount() - descriptors < 3 * 256 + 16, 'and the crowd is bounded');
  tunnel.write('still here');
  t.equal(await said(), 'still here', 'who is at work is not touched');
});
