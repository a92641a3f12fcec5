import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import t from 'tap';
import { SendArena } from '../../src/forwarder/send-arena.ts';
import { UdpSocket } from '../../src/forwarder/udp-socket.ts';
import { errnoName, PortUse, type UdpHandle, type UdpHandleOwner } from '../../src/host/udp-handle.ts';
import {
  ALIAS,
  close,
  context,
  deadPort,
  GATEWAY,
  GUEST,
  ip,
  LOOPBACK,
  overBoth,
  send,
  server,
  tick,
  vm,
  World,
} from './udp-rig.ts';

overBoth.test(
  'UDP-02 one host socket for a guest port: every remote answers to it; the source port is kept',
  async (t, handles) => {
    const w = new World(handles);
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
  },
);

overBoth.test(
  'UDP-02 the kernel gives the primary remote to the connected socket, everybody else to the other',
  async (t, handles) => {
    const shared = context(handles);
    const heard: string[] = [];
    let wake = (): void => {};
    const owner = {
      onMessage: (s: UdpSocket, buf: Uint8Array, off: number, len: number) => {
        heard.push(`${s === b ? 'B' : 'A'} ${Buffer.from(buf.subarray(off, off + len))}`);
        wake();
      },
      onSendError: () => {},
      onSocketError: () => {},
    };
    const primary = await server(t, '');
    const other = await server(t, '');
    const a = new UdpSocket(owner, shared, 4);
    const b = new UdpSocket(owner, shared, 4);
    t.teardown(() => {
      a.close();
      b.close();
    });
    t.ok(a.open('0.0.0.0', 0, PortUse.Claim));
    t.ok(b.open('0.0.0.0', a.port, PortUse.Join));
    t.ok(b.connect(LOOPBACK, primary.port));
    for (let i = 0; i < 20; i++) {
      primary.socket.send(`p${i}`, a.port, '127.0.0.1');
      other.socket.send(`o${i}`, a.port, '127.0.0.1');
    }
    while (heard.length < 40) await new Promise<void>((resolve) => (wake = resolve));
    t.equal(heard.filter((h) => h.startsWith('B p')).length, 20);
    t.equal(heard.filter((h) => h.startsWith('A o')).length, 20);
    for (const use of [PortUse.Alone, PortUse.Claim]) {
      const late = new UdpSocket(owner, shared, 4);
      t.equal(late.open('0.0.0.0', a.port, use), false, 'the port is held');
      t.equal(late.errno, 'EADDRINUSE');
    }
  },
);

overBoth.test('UDP-03 idle flows go after 60 s, DNS flows after 10 s; use keeps them', async (t, handles) => {
  const w = new World(handles);
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

overBoth.test(
  'UDP-03 the cap pushes out the oldest flow of the VM with the most; a VM that goes takes its flows',
  async (t, handles) => {
    const w = new World(handles);
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

overBoth.test(
  'UDP-04 empty and largest datagrams pass both ways; one too large is told of, not fatal',
  async (t, handles) => {
    const w = new World(handles);
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
  },
);

overBoth.test(
  'UDP-05 what is never relayed: groups and broadcast in silence, the rest with ICMP',
  async (t, handles) => {
    const w = new World(handles);
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
  },
);

overBoth.test(
  'ICMP-05 a refused datagram is port unreachable to the guest, each time; other remotes of the flow live on',
  async (t, handles) => {
    const w = new World(handles);
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

overBoth.test(
  'a flow unanswered for 5 s gets a fresh socket on the same port; the primary changes when it is idle',
  async (t, handles) => {
    const w = new World(handles);
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

overBoth.test(
  'what comes from the primary to another address of the host is heard, and the way to it looked for anew at most once a second',
  async (t, handles) => {
    const w = new World(handles);
    const f = w.forwarder();
    t.teardown(() => f.close());
    const s = await server(t, '');
    send(f, w, 7300, ALIAS, s.port, 'x');
    t.match(await w.next(), { body: 'x' });
    const flow = [...f.flows()][0]!;
    t.equal(flow.reopened, 0);
    // The connected socket's own address is 127.0.0.1.
    const astray = async (): Promise<void> => {
      s.socket.send('astray', flow.hostPort, '127.0.0.2');
      t.match(await w.next(), { body: 'astray', from: `${ALIAS}:${s.port}` });
    };
    for (let i = 0; i < 5; i++) await astray();
    t.equal(flow.reopened, 0, 'not yet');
    send(f, w, 7300, ALIAS, s.port, 'y');
    t.match(await w.next(), { body: 'y' }, 'the guest is heard meanwhile');
    w.time = 1000;
    for (let i = 0; i < 5; i++) await astray();
    t.equal(flow.reopened, 1, 'once');
    send(f, w, 7300, ALIAS, s.port, 'z');
    t.match(await w.next(), { body: 'z' });
    t.equal(flow.reopened, 1);
  },
);

overBoth.test('ICMP-05 a guest that asks a refusing port now and then is told each time', async (t, handles) => {
  const w = new World(handles);
  const f = w.forwarder();
  t.teardown(() => f.close());
  const dead = await deadPort();
  for (let i = 0; i < 6; i++) {
    w.time = i * 2000;
    send(f, w, 7400, ALIAS, dead, 'x');
    t.match(await w.next(), { what: 'unreachable', code: 3 }, `after ${2 * i} s`);
  }
});

/** A handle whose kernel takes nothing at once: every send is over when the test says so. */
class Slow implements UdpHandle {
  readonly port = 9;
  readonly address = '';
  readonly taken: Uint8Array[] = [];
  readonly owner: UdpHandleOwner;
  status = 0;

  constructor(owner: UdpHandleOwner) {
    this.owner = owner;
  }

  bind = () => '';
  connect = () => '';
  close(): void {}

  send(bytes: Uint8Array): number {
    if (this.status === 0) this.taken.push(bytes);
    return this.status;
  }

  sendTo(bytes: Uint8Array): number {
    return this.send(bytes);
  }
}

t.test('too much in flight is dropped and counted; the arena comes back to nothing', async (t) => {
  const made: Slow[] = [];
  let initial = 0;
  const w = new World({
    create: (owner) => {
      const one = new Slow(owner);
      one.status = initial;
      made.push(one);
      return one;
    },
    inherit: () => 'ENOTSUP',
  });
  const f = w.forwarder();
  t.teardown(() => f.close());
  for (let i = 0; i < 5000; i++) send(f, w, 7300, ALIAS, 9, `n${i}`);
  const b = made[1]!;
  t.equal(f.stats.toHostDropped, 904);
  t.equal(f.arena.inFlight, 4096);
  t.ok(
    b.taken.every((bytes, i) => Buffer.from(bytes).toString() === `n${i}`),
    'the bytes stay while they are in flight',
  );
  for (let i = 0; i < 4096; i++) b.owner.onSent(i === 7 ? 'EHOSTUNREACH' : '');
  t.match(w.got, [{ what: 'unreachable', code: 1, len: 2 }], 'a late error is told with its datagram');
  t.same([f.arena.inFlight, f.arena.inFlightBytes], [0, 0]);

  // Done at once: one place serves all. (The error has made the socket anew.)
  const next = made.at(-1)!;
  t.not(next, b);
  next.status = 1;
  for (let i = 0; i < 100; i++) send(f, w, 7300, ALIAS, 9, 'x');
  t.same([f.arena.inFlight, f.stats.toHostDropped, f.stats.datagramsToHost], [0, 904, 4196]);
  // Refused at once, and again when it is sent again.
  t.equal(errnoName(-111), 'ECONNREFUSED');
  w.got.length = 0;
  initial = -111;
  next.status = -111;
  send(f, w, 7300, ALIAS, 9, 'xy');
  t.match(w.got, [{ what: 'unreachable', code: 3, len: 2 }]);
  t.equal(w.got.length, 1, 'one error for one datagram, though it was tried twice');
  t.same([f.arena.inFlight, f.arena.inFlightBytes], [0, 0]);
});

t.test('the arena: one place while sends are done at once, a piece while they are not, a cap', async (t) => {
  const arena = new SendArena({ maxBytes: 2_000_000 });
  const src = new Uint8Array(65_507).map((_, i) => i % 251);
  t.ok(arena.place(src, 1, 100));
  const first = arena.bytes;
  t.same([...first], [...src.subarray(1, 101)]);
  arena.done(first);
  t.ok(arena.place(src, 2, 100));
  t.equal(arena.bytes, first, 'the same view for the same length');
  t.equal(first[0], 2);
  t.ok(arena.place(first, 0, 100), 'also from the place itself');
  t.same([...arena.bytes], [...first]);
  const second = arena.bytes;
  t.not(second.buffer, first.buffer);
  arena.done(first);
  arena.done(second);
  const placed: Uint8Array[] = [];
  while (arena.place(src, 0, src.length)) placed.push(arena.bytes);
  t.equal(placed.length, 30);
  t.ok(placed.every((bytes) => bytes.length === src.length && Buffer.compare(bytes, src) === 0));
  t.equal(new Set(placed.map((bytes) => bytes.buffer)).size, 15, 'scratch, piece, and memory of their own');
  t.equal(arena.refused, 1);
  for (const bytes of placed) arena.done(bytes);
  t.ok(arena.place(src, 0, 10));
  t.equal(arena.bytes.buffer, first.buffer, 'starts over');
});

overBoth.test(
  'answers that a guest cannot take: refused by the stack, or from addresses of its own network',
  async (t, handles) => {
    const w = new World(handles);
    w.accept = false;
    const f = w.forwarder();
    t.teardown(() => f.close());
    const s = await server(t, '');
    send(f, w, 7400, ALIAS, s.port, 'x');
    while (f.stats.toGuestDropped === 0) await tick();
    const flow = [...f.flows()][0]!;
    f.onFromHost(flow, ip('192.168.65.9'), 5, new Uint8Array(1), 0, 1, 0);
    f.onFromHost(flow, ip('8.8.8.8'), 0, new Uint8Array(1), 0, 1, 0);
    t.equal(f.stats.fromMartians, 2);
  },
);
