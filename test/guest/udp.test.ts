// UDP end to end: an embedded guest, the daemon's network in this process, real sockets on the host's loopback; and what is shown
// to a VM of large packets before it has shown some itself.

import { createSocket, type RemoteInfo, type Socket } from 'node:dgram';
import { once } from 'node:events';
import t, { type Test } from 'tap';
import { closedPort, source, udpEcho } from '../helpers/host-servers.ts';
import { codeOf, GATEWAY, HOST, Rig, readAll } from './rig.ts';

/** A bound host socket that ends with the test. */
async function hostSocket(t: Test): Promise<Socket> {
  const socket = createSocket('udp4');
  socket.bind(0, '127.0.0.1');
  await once(socket, 'listening');
  t.teardown(() => socket.close());
  return socket;
}

for (const mtu of [1500, 65520]) {
  t.test(`datagrams of every size come back, MTU ${mtu}`, async (t) => {
    const rig = await Rig.start(t);
    const guest = await rig.guest({ mtu });
    const server = await udpEcho();
    t.teardown(() => server.close());
    const socket = guest.udp();
    for (const bytes of [0, 1, 1472, 1473, 9000, 65_507]) {
      const data = Buffer.alloc(bytes, `datagram of ${bytes} `);
      const answer = await socket.exchange(data, HOST, server.port);
      t.ok(answer.equals(data), `${bytes} bytes`);
    }
    t.throws(() => socket.send(Buffer.alloc(65_508), HOST, server.port), { code: 'EMSGSIZE' });
    socket.close();
    t.equal(rig.metric('udp_flows'), 1, 'one flow for one source port');
  });
}

t.test('RFC 4787: one mapping for all destinations, answers from the address that was asked', async (t) => {
  const rig = await Rig.start(t);
  const guest = await rig.guest();
  const [a, b] = [await hostSocket(t), await hostSocket(t)];
  const seen = new Set<number>();
  for (const host of [a, b]) {
    host.on('message', (message: Buffer, from: RemoteInfo) => {
      seen.add(from.port);
      host.send(message, from.port, from.address);
    });
  }
  const socket = guest.udp();
  t.equal((await socket.exchange(Buffer.from('a'), HOST, a.address().port)).toString(), 'a');
  t.equal((await socket.exchange(Buffer.from('b'), HOST, b.address().port)).toString(), 'b');
  t.equal(seen.size, 1);
  let from = '';
  socket.onMessage = (_data, peer) => {
    from = `${peer.address}:${peer.port}`;
  };
  b.send('unasked', [...seen][0]!, '127.0.0.1');
  await rig.until(() => from !== '', 'an unasked datagram');
  t.equal(from, `${HOST}:${b.address().port}`);
});

t.test('UDP-05 a refused datagram is told by ICMP, to the port that sent it', async (t) => {
  const rig = await Rig.start(t);
  const guest = await rig.guest();
  const port = await closedPort();
  const socket = guest.udp();
  t.equal(await codeOf(socket.exchange(Buffer.from('x'), HOST, port)), 'ECONNREFUSED', 'by the host');
  t.equal(await codeOf(socket.exchange(Buffer.from('x'), GATEWAY, 9)), 'ECONNREFUSED', "by the gateway's own port");
  t.equal(await codeOf(socket.exchange(Buffer.from('x'), '169.254.1.1', 9)), 'EHOSTUNREACH', 'prohibited');
  t.equal(await codeOf(socket.exchange(Buffer.from('x'), '127.0.0.1', 9, 300)), 'ENETUNREACH', 'no route');
  const server = await udpEcho();
  t.teardown(() => server.close());
  t.equal((await socket.exchange(Buffer.from('y'), HOST, server.port)).toString(), 'y', 'the socket lives on');
});

t.test('a published UDP port: several clients, answers to each, refusal passed on', async (t) => {
  const rig = await Rig.start(t, ['--publish', '127.0.0.1:0:5353/udp', '--publish', '127.0.0.1:0:99/udp']);
  const [open, closed] = rig.publish.map((p) => Number(p.host.split(':')[1]));
  const guest = await rig.guest();
  const socket = guest.udp(5353);
  t.throws(() => guest.udp(5353), { code: 'EADDRINUSE' });
  const sources = new Set<number>();
  socket.onMessage = (data, from) => {
    t.equal(from.address, HOST, "a client on the host's loopback is the host alias");
    sources.add(from.port);
    socket.send(Buffer.concat([Buffer.from('re: '), data]), from.address, from.port);
  };
  const clients = [await hostSocket(t), await hostSocket(t), await hostSocket(t)];
  for (const [i, client] of clients.entries()) {
    const data = Buffer.alloc(i === 2 ? 30_000 : i, `client ${i} `);
    const answer = once(client, 'message');
    client.send(data, open!, '127.0.0.1');
    t.ok(((await answer)[0] as Buffer).equals(Buffer.concat([Buffer.from('re: '), data])));
  }
  t.equal(sources.size, 3, 'a source port for each client');
  const client = clients[0]!;
  const errors = guest.stats.icmpErrorsSent;
  client.send('x', closed!, '127.0.0.1');
  await rig.until(() => guest.stats.icmpErrorsSent > errors, 'the guest says port unreachable');
  t.ok((await guest.ping(GATEWAY)).intact, 'which harms nobody');
});

t.test('MTU: nothing above 1,500 before the VM has shown that it takes more', async (t) => {
  const rig = await Rig.start(t);
  const host = await hostSocket(t);
  host.on('message', (message: Buffer, from: RemoteInfo) => {
    host.send(Buffer.alloc(Number(message.toString()), 'x'), from.port, from.address);
  });
  const ask = async (socket: { exchange(d: Uint8Array, a: string, p: number): Promise<Buffer> }, n: number) =>
    (await socket.exchange(Buffer.from(`${n}`), HOST, host.address().port)).length;

  await t.test('by a packet of that size', async (t) => {
    const guest = await rig.guest();
    t.equal(guest.stack.egress.mtu, 65520);
    const socket = guest.udp();
    t.equal(await ask(socket, 20_000), 20_000, 'in fragments');
    t.ok(guest.stats.largestPacketReceived <= 1500, `${guest.stats.largestPacketReceived}`);
    t.equal((await guest.ping(GATEWAY, { bytes: 8000 })).intact, true);
    t.equal(guest.stats.largestPacketReceived, 8028, 'as large as what it has sent');
    t.equal(await ask(socket, 20_000), 20_000);
    t.ok(guest.stats.largestPacketReceived <= 8028);
    await guest.close();
  });

  await t.test('by the MSS of its SYN', async (t) => {
    const guest = await rig.guest();
    const from = await source();
    t.teardown(() => from.close());
    const tcp = await guest.connect(HOST, from.port);
    tcp.end('1000000\n');
    t.equal((await readAll(tcp)).length, 1_000_000);
    t.ok(guest.stats.largestPacketReceived > 30_000);
    await guest.close();
  });

  await t.test('never to one that goes on ignoring option 26', async (t) => {
    const guest = await rig.guest({ mtu: 1500 });
    const from = await source();
    t.teardown(() => from.close());
    const tcp = await guest.connect(HOST, from.port);
    tcp.end('3000000\n');
    t.equal((await readAll(tcp)).length, 3_000_000);
    t.equal(await ask(guest.udp(), 60_000), 60_000);
    t.ok(guest.stats.largestPacketReceived <= 1500);
    await guest.close();
  });

  await t.test("no segment above half of the guest's first window", async (t) => {
    const frames: number[] = [];
    const guest = await rig.guest({
      tcp: { rcvBufInitial: 8192, rcvBufMax: 8192 },
      onFrame: (frame) => frames.push(frame.length),
    });
    const from = await source();
    t.teardown(() => from.close());
    const tcp = await guest.connect(HOST, from.port);
    frames.length = 0;
    tcp.end('200000\n');
    t.equal((await readAll(tcp)).length, 200_000);
    t.ok(Math.max(...frames) <= 14 + 40 + 4096, `largest frame ${Math.max(...frames)}`);
    await guest.close();
  });
});
