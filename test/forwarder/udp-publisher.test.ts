import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import t from 'tap';
import { ClientAddresses } from '../../src/forwarder/client-address.ts';
import { Destinations } from '../../src/forwarder/destination.ts';
import { type PublishedUdp, UdpPublisher } from '../../src/forwarder/udp-publisher.ts';
import {
  close,
  destinations,
  GATEWAY,
  type Got,
  GUEST,
  ip,
  LOOPBACK,
  meta,
  overBoth,
  send,
  tick,
  World,
} from './udp-rig.ts';

/** A publisher and the forwarder that hands it the guest's answers. */
function published(w: World, options: { maxClients?: number } = {}) {
  const p = new UdpPublisher({
    clients: new ClientAddresses(destinations),
    sender: w.sender,
    clock: { now: () => w.time },
    sockets: w.sockets,
    onDeadlineChanged: () => w.deadlines++,
    ...options,
  });
  return { p, f: w.forwarder({ claimer: p }) };
}

async function client(t: { teardown(fn: () => unknown): unknown }) {
  const socket = createSocket('udp4');
  socket.bind(0, '127.0.0.1');
  await once(socket, 'listening');
  t.teardown(() => close(socket));
  return socket;
}

overBoth.test(
  'a published port: each client has its own source port, answers go back to the right one',
  async (t, handles) => {
    const w = new World(handles);
    const { p, f } = published(w);
    t.teardown(() => p.close());
    const l = p.publish(LOOPBACK, 0, () => GUEST, 53, { mode: 'gateway' }) as PublishedUdp;
    const c1 = await client(t);
    const c2 = await client(t);
    c1.send('one', l.hostPort, '127.0.0.1');
    const g1 = await w.next();
    c2.send('two', l.hostPort, '127.0.0.1');
    const g2 = await w.next();
    t.match(g1, { to: `${GUEST}:53`, body: 'one' });
    t.match(g2, { to: `${GUEST}:53`, body: 'two' });
    const port = (g: Got): number => Number(g.from.split(':')[1]);
    t.equal(g1.from.split(':')[0], `${GATEWAY}`);
    t.not(port(g1), port(g2));
    const m1 = once(c1, 'message');
    const m2 = once(c2, 'message');
    send(f, w, 53, GATEWAY, port(g2), 'for two');
    send(f, w, 53, GATEWAY, port(g1), 'for one');
    const [body, from] = await m1;
    t.equal(String(body), 'for one');
    t.equal(from.port, l.hostPort);
    t.equal(String((await m2)[0]), 'for two');

    // Not the guest's published port: a stray, answered as any gateway port without a service.
    t.notOk(send(f, w, 54, GATEWAY, port(g1), 'x'));
    c1.send('', l.hostPort, '127.0.0.1');
    t.match(await w.next(), { from: g1.from, len: 0 }, 'empty datagram, same client');
    t.equal(p.size, 2);
    t.equal(
      p.publish(LOOPBACK, l.hostPort, () => GUEST, 53),
      'EADDRINUSE',
    );
    t.equal(
      p.publish(ip('203.0.113.1'), 0, () => GUEST, 53),
      'EADDRNOTAVAIL',
    );

    w.time = 59_999;
    c1.send('again', l.hostPort, '127.0.0.1');
    await w.next();
    t.equal(p.nextDeadline(), 60_000);
    p.poll(60_000);
    t.equal(p.size, 1);
    l.close();
    l.close();
    t.equal(p.size, 0);
    t.equal(p.nextDeadline(), Number.POSITIVE_INFINITY);
    const again = p.publish(LOOPBACK, 0, () => GUEST, 53);
    t.not(typeof again, 'string');
  },
);

overBoth.test(
  'clients of published ports are capped, the longest unused goes; ports do not come back at once',
  async (t, handles) => {
    const w = new World(handles);
    const { p } = published(w, { maxClients: 2 });
    t.teardown(() => p.close());
    const l = p.publish(LOOPBACK, 0, () => GUEST, 9, { mode: 'gateway' }) as PublishedUdp;
    const from = new Set<string>();
    for (let i = 0; i < 4; i++) {
      const c = await client(t);
      c.send('x', l.hostPort, '127.0.0.1');
      from.add((await w.next()).from);
    }
    t.equal(from.size, 4);
    t.same([p.size, p.stats.clientsEvicted, p.stats.clientsOpened], [2, 2, 4]);
    w.accept = false;
    (await client(t)).send('x', l.hostPort, '127.0.0.1');
    while (p.stats.toGuestDropped === 0) await tick();
    t.pass('a guest that is not there is counted');
  },
);

overBoth.test(
  'a transparent client: its own address and port, answers go back to it, nobody else’s do',
  async (t, handles) => {
    const w = new World(handles);
    const { p, f } = published(w);
    t.teardown(() => p.close());
    const one = p.publish(LOOPBACK, 0, () => GUEST, 53) as PublishedUdp;
    const two = p.publish(LOOPBACK, 0, () => GUEST, 53) as PublishedUdp;
    const datagram = Buffer.from('q');
    const from = (listener: PublishedUdp, address: string, port: number): void =>
      p.onClientDatagram(listener, datagram, 0, 1, address, port);
    from(one, '198.51.100.7', 4000);
    t.match(await w.next(), { from: '198.51.100.7:4000', to: `${GUEST}:53` });
    // The same client over another published port of the same guest port: as itself it could not be told apart.
    from(two, '198.51.100.7', 4000);
    const second = await w.next();
    t.match(second.from, /^198\.51\.100\.7:(49|5|6)\d{3,4}$/);
    t.not(second.from, '198.51.100.7:4000');
    from(one, '198.51.100.7', 4001);
    t.match(await w.next(), { from: '198.51.100.7:4001' });
    t.equal(p.size, 3);

    const away = ip('198.51.100.7');
    t.ok(send(f, w, 53, away, 4000, 'answer'), 'claimed: it is not relayed as if the guest had begun');
    t.equal(f.size, 0, 'no flow of the guest was opened');
    t.equal(p.stats.datagramsToHost, 1);
    t.ok(send(f, w, 53, away, 9999, 'its own'), 'to another port of that address: the guest’s own datagram');
    t.equal(f.size, 1);
    t.ok(send(f, w, 54, away, 4000, 'from another port'), 'from another port: its own, too');
    t.equal(p.stats.datagramsToHost, 1);
    t.same([one.size, one.clientsOpened, two.size], [2, 2, 1]);
    t.equal(one.bytesToHost, 'answer'.length);

    for (const [address, seen] of [
      ['192.168.65.9', `${GATEWAY}`],
      ['169.254.1.1', `${GATEWAY}`],
      ['0.1.2.3', `${GATEWAY}`],
      ['2001:db8::1', `${GATEWAY}`],
      ['127.0.0.9', '192.168.65.254'],
      ['::ffff:203.0.113.9', '203.0.113.9'],
      ['::ffff:127.0.0.1', '192.168.65.254'],
      ['::1', '192.168.65.254'],
    ]) {
      from(one, address!, 7);
      t.equal((await w.next()).from.replace(/:\d+$/, ''), seen, `from ${address}`);
    }
    from(one, 'fe80::1%eth0', 7);
    from(one, '198.51.100.7', 0);
    t.equal(one.refused, 2, 'no answer could go back: dropped and counted');
    one.close();
    two.close();
    t.notOk(p.claim({ ...meta(53, away, 4000) }, datagram, 0, 1, 0), 'withdrawn: its clients are forgotten');
    f.close();
  },
);

t.test('as whom clients are seen, without a host alias', (t) => {
  const none = new ClientAddresses(new Destinations({ ...destinations, hostAlias: undefined }));
  t.equal(`${none.seenAs(LOOPBACK, 'transparent')}`, `${GATEWAY}`);
  t.equal(`${none.seenAs(undefined, 'transparent')}`, `${GATEWAY}`);
  t.equal(`${none.seenAs(ip('::1'), 'transparent')}`, `${GATEWAY}`);
  t.equal(`${none.seenAs(ip('198.51.100.7'), 'transparent')}`, '198.51.100.7');
  for (const mode of ['gateway', 'proxy-protocol-v1', 'proxy-protocol-v2'] as const)
    t.equal(`${none.seenAs(ip('198.51.100.7'), mode)}`, `${GATEWAY}`, mode);
  t.end();
});
