// Forwards over hypervisors' hybrid vsock, by stand-ins for them, and those from guests to sockets of the host.

import { once } from 'node:events';
import { mkdirSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import t from 'tap';
import type { ForwardSpec } from '../../src/forwarder/forward-spec.ts';
import { codeOf, GATEWAY, HOST, Rig, readAll } from '../guest/rig.ts';
import { FakeHypervisor } from '../helpers/hybrid-vsock.ts';
import { add, at, BIG, echo, exchange, hash, listen, loopback, refusal, shortDir } from './forward-rig.ts';

t.test('to a vsock port: Firecracker and cloud-hypervisor', async (t) => {
  const rig = await Rig.start(t);
  const path = join(shortDir(t), 'vsock');
  const vm = await FakeHypervisor.firecracker(t, path);
  vm.services.set(1024, (socket) => {
    // A guest that speaks at once: its first bytes come right behind the answer.
    socket.write('hello ');
    socket.pipe(socket);
  });
  const forward = await add(rig, { listen: loopback(0), target: { kind: 'vsock', path, port: 1024 } });
  t.equal(String(await exchange(at(forward), 'x')), 'hello x');
  t.same(vm.said, ['CONNECT 1024']);
  const answer = await exchange(at(forward), BIG);
  t.equal(hash(answer.subarray(6)), hash(BIG));
  const closed = await add(rig, { listen: loopback(0), target: { kind: 'vsock', path, port: 7 } });
  t.equal(await codeOf(exchange(at(closed), 'x')), 'ECONNRESET', 'nobody listens in the guest');
  vm.answer = (socket) => socket.end('ERROR no\n');
  t.equal(await codeOf(exchange(at(forward), 'x')), 'ECONNRESET', 'not what a vsock says');
  vm.answer = (socket) => socket.write('x'.repeat(5000));
  t.equal(await codeOf(exchange(at(forward), 'x')), 'ECONNRESET', 'an answer without end');
  vm.answer = undefined;
  const none = await add(rig, { listen: loopback(0), target: { kind: 'vsock', path: `${path}2`, port: 7 } });
  t.equal(await codeOf(exchange(at(none), 'x')), 'ECONNRESET', 'the VM is not there');
  const proxied = await add(rig, {
    listen: loopback(0),
    target: { kind: 'vsock', path, port: 1024 },
    client: 'proxy-protocol-v1',
  });
  t.match(String(await exchange(at(proxied), 'x')), /^hello PROXY TCP4 127\.0\.0\.1 127\.0\.0\.1 \d+ \d+\r\nx$/);

  const unix = join(shortDir(t), 'u.sock');
  await add(rig, { listen: { kind: 'unix', path: unix }, target: { kind: 'vsock', path, port: 1024 } });
  t.equal(String(await exchange({ path: unix }, 'y')), 'hello y', 'from a unix socket');

  vm.services.set(5, (socket) => socket.once('data', () => socket.destroy()));
  const cut = await add(rig, { listen: loopback(0), target: { kind: 'vsock', path, port: 5 } });
  const client = connect(at(cut));
  client.on('error', () => {});
  client.write('x');
  await once(client, 'close');
  t.pass('a guest that goes takes its client along');
  await rig.until(
    () => rig.network.forwards.list().every((f) => f.counters.active === 0) && vm.sockets.size === 0,
    'nothing is left',
  );
  t.match(rig.network.forwards.get(forward.id)!.counters, { connections: 4, refused: 2 });
  t.equal(rig.network.forwards.get(forward.id)!.counters.bytesToTarget >= BIG.length, true);
});

t.test('to a vsock port: HyperKit', async (t) => {
  const rig = await Rig.start(t);
  const path = shortDir(t);
  const vm = await FakeHypervisor.hyperkit(t, path, 3);
  vm.services.set(0xf3a5, echo);
  const target = { kind: 'vsock', path, port: 0xf3a5, style: 'hyperkit' } as const;
  const forward = await add(rig, { listen: loopback(0), target });
  t.equal(hash(await exchange(at(forward), BIG)), hash(BIG));
  t.same(vm.said, ['00000003.0000f3a5']);
  await add(rig, { key: 'other', listen: loopback(0), target: { ...target, cid: 77 } }).then((f) =>
    exchange(at(f), '').catch(() => {}),
  );
  t.equal(vm.said[1], '0000004d.0000f3a5');
});

t.test(
  'from guests: a port of the gateway, of the host alias and of an address that no VM has, to sockets of the host',
  async (t) => {
    const rig = await Rig.start(t);
    const dir = shortDir(t);
    const path = join(dir, 'engine.sock');
    await listen(t, { path }, echo);
    const tcp = await listen(t, { host: '127.0.0.1', port: 0 }, echo);
    const { port } = tcp.address() as { port: number };
    const guest = await rig.guest();
    const gateway = await add(rig, {
      listen: { kind: 'guest', address: GATEWAY, port: 2375 },
      target: { kind: 'unix', path },
    });
    t.same(gateway.bound, [`${GATEWAY}:2375`]);
    const ask = async (address: string, to: number, body: Buffer | string = 'hi'): Promise<Buffer> => {
      const socket = await guest.connect(address, to);
      socket.end(body);
      return readAll(socket);
    };
    t.equal(hash(await ask(GATEWAY, 2375, BIG)), hash(BIG));
    await add(rig, { listen: { kind: 'guest', address: HOST, port: 9 }, target: { kind: 'unix', path } });
    t.equal(String(await ask(HOST, 9)), 'hi', 'the host alias: this port of it is not the loopback');

    const virtual = '192.168.65.200';
    const a = await add(rig, {
      listen: { kind: 'guest', address: virtual, port: 80, count: 2 },
      target: { kind: 'tcp', address: '127.0.0.1', port },
    });
    t.equal(hash(await ask(virtual, 80, BIG)), hash(BIG));
    t.equal(await codeOf(guest.connect(virtual, 82)), 'ECONNREFUSED', 'no such port of it');
    const b = await add(rig, {
      listen: { kind: 'guest', address: virtual, port: 443 },
      target: { kind: 'unix', path: join(dir, 'none') },
    });
    t.equal(await codeOf(guest.connect(virtual, 443)), 'ECONNREFUSED', 'nobody listens on the host');
    t.match(rig.network.forwards.get(b.id)?.counters, { connections: 1, refused: 1 });

    const busy = await guest.connect(virtual, 80);
    t.equal(await rig.network.forwards.remove(a.id), true);
    t.equal(await codeOf(guest.connect(virtual, 80)), 'ECONNREFUSED', 'withdrawn, and the address still serves 443');
    busy.end('still here');
    t.equal(String(await readAll(busy)), 'still here', 'what runs goes on');
    await rig.network.forwards.remove(b.id);
    t.equal(await codeOf(guest.connect(virtual, 80)), 'EHOSTUNREACH', 'nobody has the address any more');
    await rig.until(() => rig.metric('tcp_flows') === 0 && rig.metric('tcp_host_sockets') === 0, 'nothing is left');
  },
);

t.test('a guest-facing address is nobody else’s: not a VM’s, and no VM gets it', async (t) => {
  const rig = await Rig.start(t, ['--lease', '52:54:00:00:00:77=192.168.65.77']);
  const target = { kind: 'tcp', address: '127.0.0.1', port: 1 } as const;
  const make = (address: string, port = 80): ForwardSpec => ({ listen: { kind: 'guest', address, port }, target });
  const first = await add(rig, make('192.168.65.3'));
  const guest = await rig.guest();
  t.equal(guest.address, '192.168.65.4', 'the pool goes round it');
  t.match(await refusal(rig, make(guest.address!)), { code: 'ERR_ADDRESS_TAKEN', status: 409 });
  t.match(await refusal(rig, make('192.168.65.77')), { code: 'ERR_ADDRESS_TAKEN' }, 'one that a VM is to have');
  const squatter = await rig.plug();
  squatter.configure({ address: '192.168.65.3', prefix: 24, router: GATEWAY });
  await t.rejects(squatter.ping(GATEWAY, { timeoutMs: 200 }), 'a VM that takes it is not heard');
  t.ok(rig.drops('Ip4Martian') + rig.drops('ArpMalformed') > 0);
  t.match(await refusal(rig, make(GATEWAY, 53)), { code: 'ERR_PORT_IN_USE', message: 'DNS server' });
  for (const port of [80, 3128]) await rig.network.forwards.remove((await add(rig, make(GATEWAY, port))).id);
  for (const address of ['10.0.0.1', '192.168.65.0', '192.168.65.255', '127.0.0.1', '::1', '224.0.0.1'])
    t.match(await refusal(rig, make(address)), { code: 'ERR_FORWARD_SPEC', field: 'listen.address' }, address);
  const held = await refusal(rig, { ...make('192.168.65.3'), key: 'again' });
  t.equal(held.holder?.id, first.id);
  await rig.network.forwards.remove(first.id);
  t.equal((await rig.guest()).address, '192.168.65.3', 'and it is free again');
});

t.test('a guest-facing port is not put in front of a service of the gateway', async (t) => {
  const rig = await Rig.start(t, ['--guest-api', 'gvproxy', '--proxy-listen', '3333']);
  const target = { kind: 'tcp', address: '127.0.0.1', port: 1 } as const;
  const make = (address: string, port: number, count = 1): ForwardSpec => ({
    listen: { kind: 'guest', address, port, count },
    target,
  });
  for (const [port, count, what] of [
    [53, 1, '192.168.65.1:53 is isthmus.s own DNS server'],
    [80, 1, '192.168.65.1:80 is isthmus.s own API for guests'],
    [70, 20, '192.168.65.1:80 is isthmus.s own API for guests'],
    [3333, 1, '192.168.65.1:3333 is isthmus.s own HTTP proxy'],
  ] as const) {
    t.match(await refusal(rig, make(GATEWAY, port, count)), {
      code: 'ERR_PORT_IN_USE',
      status: 409,
      field: 'listen.port',
      message: new RegExp(what),
    });
  }
  for (const [address, port] of [
    [GATEWAY, 81],
    [HOST, 53],
    ['192.168.65.200', 80],
  ] as const)
    t.equal((await add(rig, make(address, port))).state, 'listening', `${address}:${port} has no service`);
});

t.test('from guests by vsock: listeners where the hypervisor will look, to sockets of the host', async (t) => {
  const rig = await Rig.start(t);
  const dir = shortDir(t);
  const path = join(dir, 'agent.sock');
  await listen(t, { path }, echo);
  const tcp = await listen(t, { host: '127.0.0.1', port: 0 }, echo);
  const { port } = tcp.address() as { port: number };
  const firecracker = await add(rig, {
    listen: { kind: 'vsock', path: join(dir, 'v'), port: 52 },
    target: { kind: 'unix', path },
  });
  t.same(firecracker.bound, [join(dir, 'v_52')]);
  t.equal(hash(await exchange({ path: join(dir, 'v_52') }, BIG)), hash(BIG));
  mkdirSync(join(dir, 'hk'));
  const hyperkit = await add(rig, {
    listen: { kind: 'vsock', path: join(dir, 'hk'), port: 2376, style: 'hyperkit' },
    target: { kind: 'tcp', address: '127.0.0.1', port },
  });
  const bound = join(dir, 'hk', '00000002.00000948');
  t.same(hyperkit.bound, [bound]);
  t.equal(hash(await exchange({ path: bound }, BIG)), hash(BIG));
  const dead = await add(rig, {
    listen: { kind: 'vsock', path: join(dir, 'v'), port: 53 },
    target: { kind: 'unix', path: join(dir, 'none') },
  });
  t.not(await codeOf(exchange({ path: join(dir, 'v_53') }, 'x')), '', 'nobody there: the guest hears it');
  t.match(rig.network.forwards.get(dead.id)?.counters, { connections: 1, refused: 1, active: 0 });
});
