import { createSocket, type RemoteInfo, type Socket } from 'node:dgram';
import { once } from 'node:events';
import t from 'tap';
import { Destinations } from '../../src/forwarder/destination.ts';
import { SendArena } from '../../src/forwarder/send-arena.ts';
import { UdpForwarder, type UdpForwarderOptions } from '../../src/forwarder/udp-forwarder.ts';
import { type PublishedUdp, UdpPublisher } from '../../src/forwarder/udp-publisher.ts';
import { UdpSocket } from '../../src/forwarder/udp-socket.ts';
import { Cidr4, type IpAddress, parseAddress } from '../../src/ip/address.ts';
import type { DatagramMeta, LinkPort } from '../../src/stack/ports.ts';

const ip = (text: string): IpAddress => parseAddress(text)!;
const GUEST = ip('192.168.65.3');
const GATEWAY = ip('192.168.65.1');
const ALIAS = ip('192.168.65.254');
const LOOPBACK = ip('127.0.0.1');
const destinations = new Destinations({ network: Cidr4.parse('192.168.65.0/24')!, gateway: GATEWAY, hostAlias: ALIAS });

interface Got {
  what: 'datagram' | 'unreachable';
  from: string;
  to: string;
  body: string;
  len: number;
  code: number;
  mtu: number;
}

class World {
  time = 0;
  deadlines = 0;
  readonly got: Got[] = [];
  accept = true;
  readonly #waiters: (() => void)[] = [];

  readonly sender = {
    sendDatagram: (
      src: IpAddress,
      sp: number,
      dst: IpAddress,
      dp: number,
      buf: Uint8Array,
      off: number,
      len: number,
    ) => {
      if (!this.accept) return false;
      const body = Buffer.from(buf.subarray(off, off + Math.min(len, 40))).toString('latin1');
      this.push({ what: 'datagram', from: `${src}:${sp}`, to: `${dst}:${dp}`, body, len, code: -1, mtu: 0 });
      return true;
    },
    sendUnreachable: (code: number, mtu: number, g: IpAddress, gp: number, r: IpAddress, rp: number, len: number) => {
      this.push({ what: 'unreachable', from: `${r}:${rp}`, to: `${g}:${gp}`, body: '', len, code, mtu });
    },
  };

  push(g: Got): void {
    this.got.push(g);
    for (const w of this.#waiters.splice(0)) w();
  }

  /** The next thing that a guest gets. */
  async next(): Promise<Got> {
    while (this.got.length === 0) await new Promise<void>((resolve) => this.#waiters.push(resolve));
    return this.got.shift()!;
  }

  forwarder(options: Partial<UdpForwarderOptions> = {}): UdpForwarder {
    return new UdpForwarder({
      destinations,
      sender: this.sender,
      clock: { now: () => this.time },
      onDeadlineChanged: () => this.deadlines++,
      ...options,
    });
  }
}

const vm = (id: number): LinkPort => ({ id }) as LinkPort;

function meta(srcPort: number, dst: IpAddress, dstPort: number, vmId = 1, src = GUEST): DatagramMeta {
  return { vm: vm(vmId), macBuf: new Uint8Array(6), macOff: 0, src, srcPort, dst, dstPort };
}

function send(
  f: UdpForwarder,
  w: World,
  srcPort: number,
  dst: IpAddress,
  dstPort: number,
  body: string | Uint8Array,
  vmId = 1,
): boolean {
  const bytes = typeof body === 'string' ? Buffer.from(` ${body} `, 'latin1').subarray(1, -1) : body;
  const copy = Uint8Array.from(bytes);
  const taken = f.onDatagram(meta(srcPort, dst, dstPort, vmId), copy, 0, copy.length, w.time);
  // The packet memory is somebody else's as soon as the call returns.
  copy.fill(0x21);
  return taken;
}

/** A host-side server on loopback that answers `name:body` and remembers who asked. */
async function server(t: { teardown(fn: () => unknown): unknown }, name: string) {
  const socket = createSocket('udp4');
  const seen: RemoteInfo[] = [];
  socket.on('message', (msg, from) => {
    seen.push(from);
    socket.send(Buffer.concat([Buffer.from(name), msg]), from.port, from.address);
  });
  socket.bind(0, '127.0.0.1');
  await once(socket, 'listening');
  t.teardown(() => close(socket));
  return { socket, seen, port: socket.address().port };
}

function close(socket: Socket): Promise<unknown> {
  const done = once(socket, 'close');
  socket.close();
  return done;
}

/** A loopback port that nobody listens on. */
async function deadPort(): Promise<number> {
  const socket = createSocket('udp4');
  socket.bind(0, '127.0.0.1');
  await once(socket, 'listening');
  const { port } = socket.address();
  await close(socket);
  return port;
}

const tick = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

t.test('UDP-02 one host socket for a guest port: every remote answers to it; the source port is kept', async (t) => {
  const w = new World();
  const f = w.forwarder();
  t.teardown(() => f.close());
  const one = await server(t, 'one:');
  const two = await server(t, 'two:');
  const free = await deadPort();
  send(f, w, free, ALIAS, one.port, 'a');
  t.match(await w.next(), { from: `${ALIAS}:${one.port}`, to: `${GUEST}:${free}`, body: 'one:a' });
  send(f, w, free, ALIAS, two.port, 'b');
  t.match(await w.next(), { from: `${ALIAS}:${two.port}`, to: `${GUEST}:${free}`, body: 'two:b' });
  t.equal(f.size, 1);
  t.equal(one.seen[0]?.port, free, 'source port kept');
  t.equal(two.seen[0]?.port, free, 'same mapping for another remote');

  // Filtering: somebody whom the guest never wrote to.
  const three = await server(t, 'three:');
  three.socket.send('hello', free, '127.0.0.1');
  t.match(await w.next(), { from: `${ALIAS}:${three.port}`, to: `${GUEST}:${free}`, body: 'hello' });

  // A port that is taken on the host, and one that needs privileges.
  for (const port of [one.port, 137]) {
    const before = two.seen.length;
    send(f, w, port, ALIAS, two.port, 'c');
    t.match(await w.next(), { to: `${GUEST}:${port}`, body: 'two:c' });
    t.not(two.seen[before]?.port, port);
  }
  t.equal(f.size, 3);

  // The same address and port in two VMs are two flows.
  send(f, w, free, ALIAS, two.port, 'd', 2);
  t.match(await w.next(), { body: 'two:d' });
  t.equal(f.size, 4);
  t.match(f.stats, { flowsOpened: 4, datagramsToHost: 5, datagramsToGuest: 6, bytesToHost: 5 });
  t.equal(f.arena.inFlight, 0);
});

t.test('UDP-02 the kernel gives the primary remote to the connected socket, everybody else to the other', async (t) => {
  const arena = new SendArena();
  const heard: string[] = [];
  let wake = (): void => {};
  const owner = {
    onMessage: (s: UdpSocket, msg: Uint8Array) => {
      heard.push(`${s === b ? 'B' : 'A'} ${Buffer.from(msg)}`);
      wake();
    },
    onSendError: () => {},
    onSocketError: () => {},
  };
  const primary = await server(t, '');
  const other = await server(t, '');
  const a = new UdpSocket(owner, arena, 4, true);
  const b = new UdpSocket(owner, arena, 4, true);
  t.teardown(() => {
    a.close();
    b.close();
  });
  t.ok(a.open('0.0.0.0', 0));
  t.ok(b.open('0.0.0.0', a.port));
  t.ok(b.connect(LOOPBACK, primary.port));
  for (let i = 0; i < 20; i++) {
    primary.socket.send(`p${i}`, a.port, '127.0.0.1');
    other.socket.send(`o${i}`, a.port, '127.0.0.1');
  }
  while (heard.length < 40) await new Promise<void>((resolve) => (wake = resolve));
  t.equal(heard.filter((h) => h.startsWith('B p')).length, 20);
  t.equal(heard.filter((h) => h.startsWith('A o')).length, 20);
  t.equal(new UdpSocket(owner, arena, 4, false).open('0.0.0.0', a.port), false, 'a probe sees that the port is held');
});

t.test('UDP-03 idle flows go after 60 s, DNS flows after 10 s; use keeps them', async (t) => {
  const w = new World();
  const f = w.forwarder();
  t.teardown(() => f.close());
  const s = await server(t, '');
  t.equal(f.nextDeadline(), Number.POSITIVE_INFINITY);
  send(f, w, 5001, ALIAS, s.port, 'x');
  await w.next();
  t.equal(f.nextDeadline(), 60_000);
  w.time = 1000;
  send(f, w, 5002, ip('203.0.113.53'), 53, 'q');
  t.equal(f.nextDeadline(), 11_000);
  send(f, w, 5003, ip('203.0.113.53'), 53, 'q');
  send(f, w, 5003, ALIAS, s.port, 'x');
  await w.next();
  t.equal(w.deadlines, 2, 'told when a list gets its first flow');
  f.poll(10_999);
  t.equal(f.size, 3);
  f.poll(11_000);
  t.equal(f.size, 2, 'the one that sent to other ports too is no DNS flow');
  w.time = 59_000;
  send(f, w, 5001, ALIAS, s.port, 'x');
  await w.next();
  f.poll(61_000);
  t.same(
    [...f.flows()].map((flow) => flow.guestPort),
    [5001],
  );
  f.poll(119_000);
  t.equal(f.size, 0);
  t.equal(f.stats.flowsIdle, 3);
  t.equal(f.nextDeadline(), Number.POSITIVE_INFINITY);
});

t.test(
  'UDP-03 the cap pushes out the oldest flow of the VM with the most; a VM that goes takes its flows',
  async (t) => {
    const w = new World();
    const f = w.forwarder({ maxFlows: 4 });
    t.teardown(() => f.close());
    const s = await server(t, '');
    send(f, w, 6000, ALIAS, s.port, 'x', 9);
    for (let i = 0; i < 10; i++) {
      w.time++;
      send(f, w, 6100 + i, ALIAS, s.port, 'x', 1);
    }
    t.same(
      [...f.flows()].map((flow) => flow.guestPort),
      [6000, 6107, 6108, 6109],
    );
    t.equal(f.stats.flowsEvicted, 7);
    f.onVmGone(vm(1));
    t.same(
      [...f.flows()].map((flow) => flow.guestPort),
      [6000],
    );
    f.close();
    t.equal(f.size, 0);
    send(f, w, 6000, ALIAS, s.port, 'x');
    t.equal(f.size, 0, 'closed is closed');
    while (f.arena.inFlight > 0) await tick();
    t.equal(f.arena.inFlightBytes, 0, 'sends of closed sockets are accounted for');
  },
);

t.test('UDP-04 empty and largest datagrams pass both ways; one too large is told of, not fatal', async (t) => {
  const w = new World();
  const f = w.forwarder();
  t.teardown(() => f.close());
  const s = await server(t, '');
  send(f, w, 7001, ALIAS, s.port, '');
  t.match(await w.next(), { what: 'datagram', len: 0 });
  send(f, w, 7001, ALIAS, s.port, new Uint8Array(65507).fill(65));
  t.match(await w.next(), { what: 'datagram', len: 65507, body: 'A'.repeat(40) });
  send(f, w, 7001, ALIAS, s.port, new Uint8Array(65508));
  t.match(await w.next(), {
    what: 'unreachable',
    code: 4,
    mtu: 32000,
    len: 65508,
    from: `${ALIAS}:${s.port}`,
    to: `${GUEST}:7001`,
  });
  send(f, w, 7001, ALIAS, s.port, 'still here');
  t.match(await w.next(), { what: 'datagram', body: 'still here' });
});

t.test('UDP-05 what is never relayed: groups and broadcast in silence, the rest with ICMP', async (t) => {
  const w = new World();
  const f = w.forwarder();
  for (const a of ['255.255.255.255', '192.168.65.255', '224.0.0.251']) send(f, w, 1234, ip(a), 9, 'x');
  t.same(w.got, []);
  const rows: [string, number][] = [
    ['192.168.65.77', 1],
    ['127.0.0.1', 0],
    ['169.254.169.254', 13],
    ['240.0.0.1', 0],
  ];
  for (const [a, code] of rows) {
    send(f, w, 1234, ip(a), 9, 'xyz');
    t.match(await w.next(), { what: 'unreachable', code, from: `${a}:9`, to: `${GUEST}:1234`, len: 3 });
  }
  t.notOk(send(f, w, 1234, GATEWAY, 9, 'x'), 'left to the stack: port unreachable');
  t.equal(f.stats.notRelayed, 7);
  t.equal(f.size, 0);
});

t.test(
  'ICMP-05 a refused datagram is port unreachable to the guest, each time; other remotes of the flow live on',
  async (t) => {
    const w = new World();
    const f = w.forwarder();
    t.teardown(() => f.close());
    const dead = await deadPort();
    const s = await server(t, '');
    for (const body of ['a', 'bb', 'ccc']) {
      send(f, w, 7100, ALIAS, dead, body);
      const g = await w.next();
      t.match(g, { what: 'unreachable', code: 3, from: `${ALIAS}:${dead}`, to: `${GUEST}:7100`, len: body.length });
    }
    send(f, w, 7100, ALIAS, s.port, 'x');
    t.match(await w.next(), { what: 'datagram', body: 'x' });

    // A burst towards a refusing port: datagrams that got an earlier one's error are sent all the same.
    w.got.length = 0;
    for (let i = 0; i < 10; i++) send(f, w, 7100, ALIAS, dead, 'x');
    await w.next();
    while (f.arena.inFlight > 0) await tick();

    // The service comes up: the same flow reaches it.
    const up = createSocket('udp4');
    t.teardown(() => close(up));
    up.bind(dead, '127.0.0.1');
    await once(up, 'listening');
    w.got.length = 0;
    const hello = once(up, 'message');
    send(f, w, 7100, ALIAS, dead, 'hello');
    t.equal(String((await hello)[0]), 'hello');
  },
);

t.test(
  'a flow unanswered for 5 s gets a fresh socket on the same port; the primary changes when it is idle',
  async (t) => {
    const w = new World();
    const f = w.forwarder();
    t.teardown(() => f.close());
    const quiet = createSocket('udp4');
    quiet.bind(0, '127.0.0.1');
    await once(quiet, 'listening');
    t.teardown(() => close(quiet));
    const from: number[] = [];
    quiet.on('message', (_m, r) => from.push(r.port));
    const port = quiet.address().port;
    for (const time of [0, 3000, 6000, 9000, 12_000]) {
      w.time = time;
      send(f, w, 7200, ALIAS, port, 'x');
    }
    const flow = [...f.flows()][0]!;
    t.equal(flow.reopened, 2);
    while (from.length < 5) await once(quiet, 'message');
    t.same(new Set(from).size, 1, 'same source port');

    const s = await server(t, '');
    send(f, w, 7200, ALIAS, s.port, 'x');
    t.match(await w.next(), { body: 'x' });
    t.equal(flow.reopened, 2, 'the old primary is in use: the other remote goes over A');
    w.time += 5001;
    send(f, w, 7200, ALIAS, s.port, 'y');
    t.match(await w.next(), { body: 'y' });
    t.equal(flow.reopened, 3);
    w.time += 4000;
    send(f, w, 7200, ALIAS, s.port, 'z');
    await w.next();
    t.equal(flow.reopened, 3, 'answered: left alone');
  },
);

t.test('too much in flight is dropped and counted; the arena comes back to nothing', async (t) => {
  const w = new World();
  const f = w.forwarder();
  t.teardown(() => f.close());
  const s = await server(t, '');
  for (let i = 0; i < 64; i++) send(f, w, 7300, ALIAS, s.port, `n${i}`);
  for (let i = 0; i < 64; i++) t.match(await w.next(), { body: `n${i}` });
  for (let i = 0; i < 5000; i++) send(f, w, 7300, ip('192.168.65.254'), s.port, '');
  t.equal(f.stats.toHostDropped, 904);
  while (f.arena.inFlight > 0) await tick();
  t.equal(f.arena.inFlightBytes, 0);

  const arena = new SendArena(2_000_000);
  const src = new Uint8Array(65507).fill(7);
  let placed = 0;
  while (arena.place(src, 0, src.length)) placed++;
  t.equal(placed, 30);
  t.equal(arena.buf[arena.off + 65506], 7, 'beyond the piece: memory of its own');
  t.equal(arena.refused, 1);
  for (let i = 0; i < placed; i++) arena.done(src.length);
  t.ok(arena.place(src, 0, 10));
  t.equal(arena.off, 0, 'starts over');
});

t.test('answers that a guest cannot take: refused by the stack, or from addresses of its own network', async (t) => {
  const w = new World();
  w.accept = false;
  const f = w.forwarder();
  t.teardown(() => f.close());
  const s = await server(t, '');
  send(f, w, 7400, ALIAS, s.port, 'x');
  while (f.stats.toGuestDropped === 0) await tick();
  const flow = [...f.flows()][0]!;
  f.onFromHost(flow, ip('192.168.65.9'), 5, new Uint8Array(1));
  f.onFromHost(flow, ip('8.8.8.8'), 0, new Uint8Array(1));
  t.equal(f.stats.fromMartians, 2);
});

/** A publisher and the forwarder that hands it the guest's answers. */
function published(w: World, options: { maxClients?: number } = {}) {
  const arena = new SendArena();
  const p = new UdpPublisher({
    gateway: GATEWAY,
    sender: w.sender,
    clock: { now: () => w.time },
    arena,
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

t.test('a published port: each client has its own source port, answers go back to the right one', async (t) => {
  const w = new World();
  const { p, f } = published(w);
  t.teardown(() => p.close());
  const l = p.publish(LOOPBACK, 0, () => GUEST, 53) as PublishedUdp;
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
  t.equal(p.publish(LOOPBACK, l.hostPort, () => GUEST, 53), 'EADDRINUSE');
  t.equal(p.publish(ip('203.0.113.1'), 0, () => GUEST, 53), 'EADDRNOTAVAIL');

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
});

t.test('clients of published ports are capped, the longest unused goes; ports do not come back at once', async (t) => {
  const w = new World();
  const { p } = published(w, { maxClients: 2 });
  t.teardown(() => p.close());
  const l = p.publish(LOOPBACK, 0, () => GUEST, 9) as PublishedUdp;
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
});
