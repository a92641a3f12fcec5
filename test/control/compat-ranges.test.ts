// Ranges and forwards of others in the compatible APIs: every port is an entry of its own, one of a range does not end the others, and what
// one API lists the others can end.

import { connect } from 'node:net';
import t from 'tap';
import { ask, ControlRig, freePort } from './rig.ts';

const GUEST = '192.168.65.9';
const APIS = ['--api', 'gvproxy:gv.sock', '--api', 'slirp4netns:slirp.sock', '--api', 'vpnkit:vpnkit.sock'];

/** Five ports in a row that were free a moment ago. */
async function freeRange(rig: ControlRig): Promise<{ first: number; id: string; key: string }> {
  for (let attempt = 0; attempt < 20; attempt++) {
    const first = Math.min(await freePort(), 65_000);
    const { status, json } = await rig.ask('POST', '/v1/forwards', {
      body: {
        listen: { kind: 'tcp', address: '127.0.0.1', port: first, count: 5 },
        target: { kind: 'guest', guest: GUEST, port: 8000 },
      },
    });
    if (status === 201) return { first, id: json.id, key: json.key };
  }
  throw new Error('no five free ports in a row');
}

function slirp(path: string, request: object): Promise<{ return?: Record<string, unknown>; error?: { desc: string } }> {
  return new Promise((resolve, reject) => {
    const socket = connect({ path, allowHalfOpen: true }, () => socket.end(JSON.stringify(request)));
    let text = '';
    socket.on('data', (chunk: Buffer) => {
      text += chunk.toString();
    });
    socket.on('error', reject);
    socket.on('end', () => resolve(JSON.parse(text)));
  });
}

t.test('a range is listed port by port, and ends as a whole', async (t) => {
  const rig = await ControlRig.start(t, APIS);
  const { first, id, key } = await freeRange(rig);
  const ports = [0, 1, 2, 3, 4];
  const stillThere = async (): Promise<void> => {
    t.equal((await rig.ask('GET', `/v1/forwards/${id}`)).json.bound.length, 5, 'all of it still listens');
  };

  const gv = rig.path('gv.sock');
  t.strictSame(
    (await ask(gv, 'GET', '/services/forwarder/all')).json,
    ports.map((i) => ({ local: `127.0.0.1:${first + i}`, remote: `${GUEST}:${8000 + i}`, protocol: 'tcp' })),
  );
  const unexpose = await ask(gv, 'POST', '/services/forwarder/unexpose', {
    raw: JSON.stringify({ local: `127.0.0.1:${first + 2}` }),
  });
  t.match(unexpose, { status: 500, text: `it is a port of the range ${key} (id ${id}), which ends as a whole\n` });
  await stillThere();
  const expose = await ask(gv, 'POST', '/services/forwarder/expose', {
    raw: JSON.stringify({ local: `127.0.0.1:${first + 4}`, remote: `${GUEST}:1` }),
  });
  t.match(expose, { status: 500, text: `proxy already running for tcp on 127.0.0.1:${first + 4}\n` });

  const sl = rig.path('slirp.sock');
  const listed = (await slirp(sl, { execute: 'list_hostfwd' })).return?.entries as { id: number }[];
  t.match(
    listed,
    ports.map((i) => ({
      proto: 'tcp',
      host_addr: '127.0.0.1',
      host_port: first + i,
      guest_addr: GUEST,
      guest_port: 8000 + i,
    })),
  );
  t.equal(new Set(listed.map((entry) => entry.id)).size, 5, 'a number each');
  t.strictSame((await slirp(sl, { execute: 'list_hostfwd' })).return?.entries, listed, 'that stays');
  const removed = await slirp(sl, { execute: 'remove_hostfwd', arguments: { id: listed[3]!.id } });
  t.match(removed.error?.desc, /^bad request: remove_hostfwd: it is a port of the range /);
  await stillThere();

  const vk = rig.path('vpnkit.sock');
  const list = (await ask(vk, 'GET', '/forwards/list')).json;
  t.match(
    list,
    ports.map((i) => ({
      proto: 'tcp',
      out_ip: '127.0.0.1',
      out_port: first + i,
      in_ip: GUEST,
      in_port: 8000 + i,
    })),
  );
  const ended = await ask(vk, 'DELETE', '/forwards/unexpose/port', { raw: JSON.stringify(list[1]) });
  t.match(ended, { status: 400, json: { message: /is a port of the range/ } });
  await stillThere();

  t.equal((await rig.ask('DELETE', `/v1/forwards/${encodeURIComponent(key)}`)).status, 204);
  t.equal((await ask(gv, 'GET', '/services/forwarder/all')).text, '[]\n');
});

t.test('what others have made is ended by each API as it is listed there', async (t) => {
  const rig = await ControlRig.start(t, APIS);
  const make = async (listen: object): Promise<void> => {
    const target = { kind: 'guest', guest: GUEST, port: 80 };
    // A key and labels of its own, which mean nothing to these protocols.
    const body = { key: 'web', labels: { local: 'x', remote: 'y', annotation: 'z' }, listen, target };
    t.equal((await rig.ask('POST', '/v1/forwards', { body })).status, 201);
  };
  const gone = async (by: string): Promise<void> => {
    t.strictSame((await rig.ask('GET', '/v1/forwards')).json.forwards, [], by);
  };
  const tcp = { kind: 'tcp', address: '127.0.0.1', port: 0 };
  const gv = rig.path('gv.sock');
  const vk = rig.path('vpnkit.sock');
  const sl = rig.path('slirp.sock');

  for (const listen of [tcp, { ...tcp, kind: 'udp' }, { kind: 'unix', path: rig.path('w.sock') }]) {
    await make(listen);
    const [entry] = (await ask(gv, 'GET', '/services/forwarder/all')).json;
    t.equal(entry.remote, `${listen.kind === 'unix' ? 'tcp://' : ''}${GUEST}:80`);
    const raw = JSON.stringify(entry);
    t.match(await ask(gv, 'POST', '/services/forwarder/expose', { raw }), {
      status: 500,
      text: `proxy already running for ${listen.kind} on ${entry.local}\n`,
    });
    t.equal((await ask(gv, 'POST', '/services/forwarder/unexpose', { raw })).status, 200);
    await gone(`gvproxy, ${listen.kind}`);

    await make(listen);
    const [port] = (await ask(vk, 'GET', '/forwards/list')).json;
    t.equal(port.annotation, '');
    t.equal((await ask(vk, 'DELETE', '/forwards/unexpose/port', { raw: JSON.stringify(port) })).status, 200);
    await gone(`vpnkit, ${listen.kind}`);

    if (listen.kind === 'unix') continue;
    await make(listen);
    const entries = (await slirp(sl, { execute: 'list_hostfwd' })).return?.entries as { id: number }[];
    t.strictSame(await slirp(sl, { execute: 'remove_hostfwd', arguments: { id: entries[0]?.id } }), { return: {} });
    await gone(`slirp4netns, ${listen.kind}`);
  }
});

t.test('gvproxy: every address is one, whether written 0.0.0.0, [::] or not at all', async (t) => {
  const rig = await ControlRig.start(t, APIS);
  const gv = rig.path('gv.sock');
  const port = await freePort();
  const post = (what: string, local: string) =>
    ask(gv, 'POST', `/services/forwarder/${what}`, { raw: JSON.stringify({ local, remote: `${GUEST}:80` }) });
  t.equal((await post('expose', `:${port}`)).status, 200);
  for (const local of [`:${port}`, `0.0.0.0:${port}`, `[::]:${port}`, `127.0.0.1:${port}`, `localhost:${port}`])
    t.match(await post('expose', local), { status: 500, text: `proxy already running for tcp on ${local}\n` });
  t.match(await post('unexpose', `127.0.0.1:${port}`), { status: 500, text: 'proxy not found\n' });
  t.equal((await post('unexpose', `[::]:${port}`)).status, 200);
  t.equal((await post('expose', `localhost:${port}`)).status, 200, 'a name that Go would ask the resolver for');
  t.match((await ask(gv, 'GET', '/services/forwarder/all')).json, [{ local: `localhost:${port}` }]);
  t.equal((await rig.ask('GET', '/v1/forwards')).json.forwards[0].bound[0], `127.0.0.1:${port}`);
});

t.test('vpnkit: a port is listed as it was asked for, and an annotation does not make it another', async (t) => {
  const rig = await ControlRig.start(t, APIS);
  const vk = rig.path('vpnkit.sock');
  const port = { proto: 'udp', out_ip: '', out_port: 0, in_ip: '127.0.0.1', in_port: 53, annotation: 'dns' };
  const call = (method: string, what: string, body: object) =>
    ask(vk, method, `/forwards/${what}/port`, { raw: JSON.stringify(body) });
  t.equal((await call('PUT', 'expose', port)).status, 200);
  t.equal((await call('PUT', 'expose', { ...port, annotation: 'other' })).status, 200);
  const list = (await ask(vk, 'GET', '/forwards/list')).json;
  t.strictSame(list, [{ ...port, out_path: '', in_path: '', out_port: list[0].out_port }]);
  t.ok(list[0].out_port > 0, 'the real port');
  t.equal((await call('DELETE', 'unexpose', list[0])).status, 200, 'ended as it is listed');
  t.equal((await ask(vk, 'GET', '/forwards/list')).text, 'null\n');
});
