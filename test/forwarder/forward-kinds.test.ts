// Kinds of forwards from the host to guests' ports, over a whole network with embedded guests and real sockets of the host: where bytes go,
// whom the guest sees, and what is said when a forward cannot be had.

import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { readFileSync, statSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import t from 'tap';
import type { ClientMode, Forward, ForwardError } from '../../src/forwarder/forward-spec.ts';
import { codeOf, GATEWAY, HOST, Rig } from '../guest/rig.ts';
import { add, at, BIG, exchange, hash, listen, loopback, refusal, shortDir } from './forward-rig.ts';

t.test('a unix socket to a port of a guest: private, both ways, half-close, and gone when withdrawn', async (t) => {
  const rig = await Rig.start(t);
  const path = join(shortDir(t), 'web.sock');
  const forward = await add(rig, { listen: { kind: 'unix', path }, target: { kind: 'guest', port: 80 } });
  t.same(forward.bound, [path]);
  t.equal(statSync(path).mode & 0o777, 0o600);
  t.not(await codeOf(exchange({ path }, 'x')), '', 'no VM');
  const guest = await rig.guest();
  guest.listen(80, (socket) => {
    t.equal(socket.remoteAddress, HOST, 'as local as one can be: the host alias');
    socket.pipe(socket);
  });
  t.equal(hash(await exchange({ path }, BIG)), hash(BIG));
  const early = await refusal(rig, { key: 'b', listen: { kind: 'unix', path }, target: { kind: 'guest', port: 81 } });
  t.match(early, { code: 'ERR_PORT_IN_USE', holder: { id: forward.id } });
  await rig.until(() => rig.network.forwards.get(forward.id)!.counters.active === 0, 'closed');
  t.match(rig.network.forwards.get(forward.id)!.counters, {
    connections: 2,
    refused: 1,
    bytesToTarget: BIG.length,
    bytesToClient: BIG.length,
  });
  const closed = join(shortDir(t), 'closed.sock');
  const refused = await add(rig, { listen: { kind: 'unix', path: closed }, target: { kind: 'guest', port: 81 } });
  const nothing = async (body: string): Promise<string> =>
    String(await exchange({ path: closed }, body).catch(() => ''));
  t.equal(await nothing(''), '', "the guest's reset is an end without a word: a unix socket has no reset");
  guest.listen(82, (socket) => {
    socket.on('error', () => {});
    socket.once('data', () => socket.resetAndDestroy());
  });
  await rig.network.forwards.add(
    { listen: { kind: 'unix', path: closed }, target: { kind: 'guest', port: 82 } },
    { replace: true },
  );
  t.equal(await nothing('x'), '', 'in the middle of a connection too');
  await rig.until(() => rig.network.forwards.get(refused.id)!.counters.active === 0, 'closed');
  t.match(rig.network.forwards.get(refused.id)!.counters, { connections: 2, refused: 1 });
  t.equal(await rig.network.forwards.remove(forward.id), true);
  t.throws(() => statSync(path), { code: 'ENOENT' });
  t.equal(rig.drops('TcpNoFlow'), 0);
});

t.test('a port to a guest: named by address, MAC, host name, or the only one', async (t) => {
  const rig = await Rig.start(t);
  const only = await add(rig, { listen: loopback(0), target: { kind: 'guest', port: 80 } });
  const [a, b] = [await rig.guest({ hostName: 'alpha' }), await rig.guest({ hostName: 'beta' })];
  for (const guest of [a, b]) guest.listen(80, (socket) => socket.end(guest.address));
  for (const [named, guest] of [
    [a.address!, a],
    [b.mac.toUpperCase(), b],
    ['Alpha', a],
    ['beta', b],
  ] as const) {
    const forward = await add(rig, { listen: loopback(0), target: { kind: 'guest', guest: named, port: 80 } });
    t.equal(String(await exchange(at(forward), '')), guest.address, named);
  }
  t.equal(await codeOf(exchange(at(only), '')), 'ECONNRESET', 'of two there is no only one');
  const nobody = await add(rig, { listen: loopback(0), target: { kind: 'guest', guest: 'gamma', port: 80 } });
  t.equal(await codeOf(exchange(at(nobody), '')), 'ECONNRESET', 'nobody has that name yet');
  const c = await rig.guest({ hostName: 'gamma' });
  c.listen(80, (socket) => socket.end('here'));
  t.equal(String(await exchange(at(nobody), '')), 'here');
  await b.close();
  await c.close();
  await rig.until(() => rig.metric('vms') === 1, 'one left');
  t.equal(String(await exchange(at(only), '')), a.address);
});

t.test('ranges: each port to its own, all or none', async (t) => {
  const rig = await Rig.start(t);
  const guest = await rig.guest();
  for (let i = 0; i < 3; i++) guest.listen(8000 + i, (socket) => socket.end(`port ${8000 + i}`));
  // Three free ports in a row, by trial.
  let forward: Forward | undefined;
  for (let first = 42_000; forward === undefined; first += 7) {
    const spec = { listen: loopback(first, { count: 3 }), target: { kind: 'guest', port: 8000 } } as const;
    forward = await add(rig, spec).catch(() => undefined);
  }
  t.equal(forward.bound.length, 3);
  for (let i = 0; i < 3; i++) t.equal(String(await exchange(at(forward, i), '')), `port ${8000 + i}`);
  const { port } = at(forward);
  await rig.network.forwards.remove(forward.id);
  const middle = await listen(t, { host: '127.0.0.1', port: port + 1 }, () => {});
  const spec = { listen: loopback(port, { count: 3 }), target: { kind: 'guest', port: 8000 } } as const;
  t.match(await refusal(rig, spec), { code: 'ERR_PORT_IN_USE', holder: undefined, message: `127.0.0.1:${port + 1}` });
  const free = await listen(t, { host: '127.0.0.1', port }, () => {});
  t.ok(free.listening && middle.listening, 'the first port of the range was let go again');
});

t.test('what the host refuses: which address, and the remedy', async (t) => {
  const rig = await Rig.start(t, [
    '--allow-bind',
    '127.0.0.0/8',
    '--allow-bind',
    '0.0.0.0',
    '--allow-bind',
    '203.0.113.0/24',
  ]);
  const target = { kind: 'guest', port: 80 } as const;
  const other = await listen(t, { host: '127.0.0.1', port: 0 }, () => {});
  const { port } = other.address() as { port: number };
  const wide = await refusal(rig, { listen: { kind: 'tcp', address: '0.0.0.0', port }, target });
  t.match(wide, { code: 'ERR_PORT_IN_USE', status: 409, key: `tcp:0.0.0.0:${port}` });
  t.match(
    wide.message,
    new RegExp(`tcp 0\\.0\\.0\\.0:${port} cannot be bound: another program holds 127\\.0\\.0\\.1:${port}`),
  );
  const udp = createSocket('udp4');
  udp.bind(0, '127.0.0.1');
  await once(udp, 'listening');
  t.teardown(() => udp.close());
  const taken = await refusal(rig, { listen: { kind: 'udp', address: '127.0.0.1', port: udp.address().port }, target });
  t.match(taken, { code: 'ERR_PORT_IN_USE', message: `another program holds 127.0.0.1:${udp.address().port}` });
  t.match(await refusal(rig, { listen: { kind: 'tcp', address: '203.0.113.7', port: 0 }, target }), {
    code: 'ERR_ADDRESS_NOT_LOCAL',
    status: 400,
    message: 'no interface of this host has the address 203.0.113.7',
  });
  for (const address of ['10.0.0.1', '::', '::1', '128.0.0.1']) {
    t.match(await refusal(rig, { listen: { kind: 'tcp', address, port: 0 }, target }), {
      code: 'ERR_BIND_NOT_ALLOWED',
      status: 403,
      message: '--allow-bind',
    });
  }
  const open = await Rig.start(t);
  for (const kind of ['tcp', 'udp'] as const) {
    t.match(await refusal(open, { listen: { kind, address: 'fe80::1', port: 0 }, target }), {
      code: 'ERR_FORWARD_SPEC',
      status: 400,
      field: 'listen.address',
    });
  }
  for (const key of ['.', '..']) {
    t.match(
      await refusal(open, { key, listen: { kind: 'tcp', address: '127.0.0.1', port: 0 }, target }),
      { code: 'ERR_FORWARD_SPEC', status: 400, field: 'key' },
      'no URL could name it',
    );
  }
  const dir = shortDir(t);
  writeFileSync(join(dir, 'file'), '');
  for (const [path, words] of [
    [join(dir, 'none', 'x.sock'), /there is no directory/],
    [join(dir, 'file'), /is a regular file/],
    [`/${'x'.repeat(120)}`, /121 bytes/],
    ['relative.sock', /give an absolute path/],
  ] as const) {
    const error = await refusal(rig, { listen: { kind: 'unix', path }, target });
    t.match(error.message, words);
    t.equal(error.status, 400);
  }
  const held = join(dir, 'held.sock');
  await listen(t, { path: held }, () => {});
  t.match(await refusal(rig, { listen: { kind: 'unix', path: held }, target }), {
    code: 'ERR_PORT_IN_USE',
    status: 409,
  });
  t.equal(rig.network.forwards.size, 0);
});

t.test('bound exactly: an address is that address, [::] is IPv6 alone unless told', async (t) => {
  const rig = await Rig.start(t);
  const guest = await rig.guest();
  guest.listen(80, (socket) => socket.end(socket.remoteAddress));
  const target = { kind: 'guest', port: 80 } as const;
  const one = at(await add(rig, { listen: { kind: 'tcp', address: '127.0.0.5', port: 0 }, target }));
  t.equal(String(await exchange(one, '')), HOST);
  t.equal(await codeOf(exchange({ host: '127.0.0.1', port: one.port }, '')), 'ECONNREFUSED');
  const six = await rig.network.forwards
    .add({ listen: { kind: 'tcp', address: '::', port: 0 }, target })
    .catch(() => undefined);
  if (six === undefined) {
    t.comment('this host has no IPv6');
    return;
  }
  const { port } = at(six.forward);
  t.equal(String(await exchange({ host: '::1', port }, '')), HOST, "::1 is the host's loopback too");
  t.equal(await codeOf(exchange({ host: '127.0.0.1', port }, '')), 'ECONNREFUSED');
  const both = at(await add(rig, { listen: { kind: 'tcp', address: '::', port: 0, v6Only: false }, target }));
  t.equal(String(await exchange({ host: '127.0.0.1', port: both.port }, '')), HOST);
  t.equal(String(await exchange({ host: '::1', port: both.port }, '')), HOST);
  const datagrams = at(
    await add(rig, {
      listen: { kind: 'udp', address: '::', port: 0, v6Only: false },
      target: { kind: 'guest', port: 53 },
    }),
  );
  const served = guest.udp(53);
  served.onMessage = (data, from) => served.send(Buffer.concat([Buffer.from('re: '), data]), from.address, from.port);
  for (const [type, host] of [
    ['udp4', '127.0.0.1'],
    ['udp6', '::1'],
  ] as const) {
    const client = createSocket(type);
    client.send('who', datagrams.port, host);
    t.equal(String((await once(client, 'message'))[0]), 're: who', host);
    client.close();
  }
});

t.test('as whom clients appear: PROXY headers, the gateway', async (t) => {
  const rig = await Rig.start(t);
  const guest = await rig.guest();
  const seen: string[] = [];
  guest.listen(80, (socket) => {
    seen.push(socket.remoteAddress);
    socket.pipe(socket);
  });
  const make = (client: ClientMode): Promise<Forward> =>
    add(rig, { listen: loopback(0), target: { kind: 'guest', port: 80 }, client });
  const ask = async (forward: Forward): Promise<{ answer: Buffer; own: number }> => {
    const socket = connect(at(forward));
    await once(socket, 'connect');
    const own = socket.localPort!;
    socket.end('GET /');
    const chunks: Buffer[] = [];
    for await (const chunk of socket) chunks.push(chunk as Buffer);
    return { answer: Buffer.concat(chunks), own };
  };
  const v1 = await make('proxy-protocol-v1');
  const one = await ask(v1);
  t.equal(one.answer.toString(), `PROXY TCP4 127.0.0.1 127.0.0.1 ${one.own} ${at(v1).port}\r\nGET /`);
  const v2 = await make('proxy-protocol-v2');
  const two = await ask(v2);
  const header = two.answer.subarray(0, 28);
  t.equal(header.toString('latin1', 0, 12), '\r\n\r\n\0\r\nQUIT\n');
  t.same([...header.subarray(12, 16)], [0x21, 0x11, 0, 12]);
  t.same([...header.subarray(16, 24)], [127, 0, 0, 1, 127, 0, 0, 1]);
  t.same([header.readUInt16BE(24), header.readUInt16BE(26)], [two.own, at(v2).port]);
  t.equal(two.answer.toString('latin1', 28), 'GET /');
  const gateway = await make('gateway');
  t.equal((await ask(gateway)).answer.toString(), 'GET /');
  t.same(seen, [GATEWAY, GATEWAY, GATEWAY]);

  const path = join(shortDir(t), 'p.sock');
  const local = { listen: { kind: 'unix', path }, target: { kind: 'guest', port: 80 } } as const;
  const { id } = await add(rig, { ...local, client: 'proxy-protocol-v1' });
  t.equal(String(await exchange({ path }, 'x')), 'PROXY UNKNOWN\r\nx');
  await rig.network.forwards.remove(id);
  await add(rig, { ...local, client: 'proxy-protocol-v2' });
  t.same([...(await exchange({ path }, 'x')).subarray(12)], [0x20, 0, 0, 0, 0x78]);

  const socket = guest.udp(53);
  const datagrams: Buffer[] = [];
  socket.onMessage = (data, from) => {
    datagrams.push(Buffer.from(data));
    socket.send(Buffer.from('answer'), from.address, from.port);
  };
  const forward = await add(rig, {
    listen: { kind: 'udp', address: '127.0.0.1', port: 0 },
    target: { kind: 'guest', port: 53 },
    client: 'proxy-protocol-v2',
  });
  const client = createSocket('udp4');
  for (const body of ['first', 'second']) {
    client.send(body, at(forward).port, '127.0.0.1');
    t.equal(String((await once(client, 'message'))[0]), 'answer');
    const got = datagrams.shift()!;
    t.same([...got.subarray(12, 16)], [0x21, 0x12, 0, 12], 'before each datagram');
    t.same([got.readUInt16BE(24), got.readUInt16BE(26)], [client.address().port, at(forward).port]);
    t.equal(got.toString('latin1', 28), body);
  }
  client.close();
});

t.test(
  'withdrawing while 100 connections run: they finish; with close they end; the port is free at once',
  async (t) => {
    const rig = await Rig.start(t);
    const guest = await rig.guest();
    guest.listen(80, (socket) => {
      socket.on('error', () => {});
      socket.pipe(socket);
    });
    for (const close of [false, true]) {
      const forward = await add(rig, { key: 'k', listen: loopback(0), target: { kind: 'guest', port: 80 } });
      const clients = Array.from({ length: 100 }, () => connect(at(forward)));
      const errors: string[] = [];
      for (const client of clients) {
        client.on('error', (error: NodeJS.ErrnoException) => errors.push(error.code!));
        client.write('a');
      }
      await Promise.all(clients.map((client) => once(client, 'data')));
      t.equal(rig.network.forwards.get(forward.id)!.counters.active, 100);
      await rig.network.forwards.remove(forward.id, { close });
      t.equal(await codeOf(exchange(at(forward), 'x')), 'ECONNREFUSED', 'the listener has gone');
      const again = await listen(t, at(forward), () => {});
      t.ok(again.listening, 'and somebody else may have the port');
      if (close) {
        await Promise.all(clients.map((client) => client.closed || once(client, 'close')));
        t.same(new Set(errors), new Set(['ECONNRESET']));
        t.equal(errors.length, 100);
      } else {
        for (const client of clients) client.end('b');
        const rest = await Promise.all(clients.map(async (client) => String((await once(client, 'data'))[0])));
        t.ok(rest.every((text) => text === 'b'));
        t.same(errors, []);
      }
      await rig.until(() => rig.metric('tcp_flows') === 0 && rig.metric('tcp_host_sockets') === 0, 'nothing is left');
    }
  },
);

/** Ports of 127.0.0.1 from `first` on that the kernel listens on, by its own list. */
function listening(first: number, count: number): number[] {
  const found: number[] = [];
  for (const line of readFileSync('/proc/net/tcp', 'utf8').split('\n')) {
    const m = /^\s*\d+: 0100007F:([0-9A-F]{4}) \S+ 0A /.exec(line);
    const port = Number.parseInt(m?.[1] ?? '0', 16);
    if (port >= first && port < first + count) found.push(port);
  }
  return found.sort();
}

const linux = process.platform === 'linux' ? false : "needs Linux's list of sockets";
t.test(
  '200 clients on overlapping keys and ports, real sockets: no listener is left over',
  { skip: linux },
  async (t) => {
    const rig = await Rig.start(t);
    const { forwards } = rig.network;
    // Ports that nobody else has: below the range that the kernel chooses from.
    let first = 20_000;
    while (listening(first, 8).length > 0) first += 8;
    let seed = 7;
    const random = (n: number): number => {
      seed = (Math.imul(seed, 1_103_515_245) + 12_345) >>> 0;
      return (seed >>> 8) % n;
    };
    const client = async (): Promise<void> => {
      for (let i = 0; i < 10; i++) {
        const key = `k${random(6)}`;
        const spec = { key, listen: loopback(first + random(8)), target: { kind: 'guest', port: 80 } } as const;
        try {
          switch (random(4)) {
            case 0: {
              const id = forwards.list({ key })[0]?.id;
              if (id !== undefined) await forwards.remove(id, { close: random(2) === 0 });
              break;
            }
            case 1:
              await forwards.add(spec, { replace: true });
              break;
            case 2:
              if (random(10) === 0) await forwards.replace([spec], undefined);
              break;
            default:
              await forwards.add(spec);
          }
        } catch (error) {
          t.match((error as ForwardError).code, /^ERR_(FORWARD_EXISTS|PORT_IN_USE)$/);
        }
      }
    };
    await Promise.all(Array.from({ length: 200 }, client));
    const table = forwards.list();
    t.ok(table.every((f) => f.state === 'listening'));
    t.equal(new Set(table.map((f) => f.key)).size, table.length);
    t.same(listening(first, 8), table.map((f) => at(f).port).sort(), "the kernel's list and ours are the same");
    for (const { id } of table) await forwards.remove(id);
    t.same(listening(first, 8), []);
  },
);
