import t from 'tap';
import {
  ALIAS,
  address,
  establish,
  FakeOwner,
  type FakeVm,
  GATEWAY,
  OUTSIDE,
  Rig,
  segment,
  type Talk,
} from './fake-link.ts';
import { ACK, BROADCAST, ethernet, FIN, ipv4, PSH, RST, SYN, tcp } from './frames.ts';

function two(options = {}): { rig: Rig; a: FakeVm; b: FakeVm } {
  const rig = new Rig(options);
  const [a, b] = [rig.vm(3), rig.vm(4)];
  for (const vm of [a, b]) vm.send(vm.arp({ targetIp: GATEWAY }));
  for (const vm of [a, b]) vm.take();
  rig.drops();
  return { rig, a, b };
}

const to = (srcPort: number, dstPort: number, flags: number, more = {}): Parameters<FakeVm['tcp']>[1] => ({
  srcPort,
  dstPort,
  seq: 500,
  flags,
  ...more,
});

t.test('RFC 9293 3.10.7.1 a segment for no connection: RST as 3.5.2 has it, and none in answer to a RST', (t) => {
  const { rig, a } = two();
  t.match(a.send(a.tcp(OUTSIDE, to(1, 2, ACK, { ack: 900 })))[0], {
    ip: { src: OUTSIDE, dst: a.ip },
    tcp: { flags: RST, seq: 900, srcPort: 2, dstPort: 1 },
  });
  t.match(a.send(a.tcp(OUTSIDE, to(1, 2, SYN | ACK, { ack: 901 })))[0]?.tcp, { flags: RST, seq: 901 });
  t.match(a.send(a.tcp(OUTSIDE, to(1, 2, FIN | ACK, { ack: 902 }), 'data'))[0]?.tcp, { flags: RST, seq: 902 });
  t.equal(rig.drops().TcpNoFlow, 3);
  t.same(a.send(a.tcp(OUTSIDE, to(1, 2, RST)), a.tcp(OUTSIDE, to(1, 2, RST | ACK, { ack: 5 }))), []);
  t.same(rig.drops(), { TcpNoFlow: 2 });
  t.equal(rig.stack.stats.tcp.resetsToGuest, 3);
  t.same(rig.flows, []);
  t.end();
});

t.test('RFC 9293 3.10.7.2 neither SYN nor ACK nor RST, or SYN with FIN: dropped', (t) => {
  const { rig, a } = two();
  for (const flags of [0, FIN, PSH, 0x20, FIN | PSH | 0x20, SYN | FIN])
    t.same(a.send(a.tcp(OUTSIDE, to(1, 2, flags))), []);
  t.same(rig.drops(), { TcpBadFlags: 6 });
  t.same(rig.flows, []);
  t.end();
});

t.test('resets for no connection are limited, and what they cost another VM is nothing', (t) => {
  const { rig, a, b } = two();
  let resets = 0;
  for (let i = 0; i < 1000; i++) resets += a.send(a.tcp(OUTSIDE, to(1 + i, 2, ACK, { ack: 900 }))).length;
  t.equal(resets, 50);
  t.equal(b.send(b.tcp(OUTSIDE, to(1, 2, ACK, { ack: 900 }))).length, 1);
  t.equal(rig.stack.tcp.table.size, 0);
  t.end();
});

t.test('addresses that nobody has are refused by the forwarder, not dropped: the guest is told', (t) => {
  const { rig, a } = two();
  rig.onSyn = (owner) => owner.flow.refuse('net-unreachable', rig.now);
  for (const dst of ['240.0.0.1', '0.0.0.1']) {
    t.match(a.send(a.tcp(dst, to(80, 80, SYN))), [{ icmp: { type: 3, code: 0 } }], dst);
  }
  t.end();
});

t.test('TCP-SYN-23 LAND, loopback, groups and broadcast: dropped silently, in both directions', (t) => {
  const { rig, a } = two();
  for (const dst of [a.ip, '127.0.0.1', '0.0.0.0']) t.same(a.send(a.tcp(dst, to(80, 80, SYN))), [], dst);
  t.same(rig.drops(), { TcpMartian: 3 });
  for (const src of [OUTSIDE, '127.0.0.1', '0.0.0.0', '224.0.0.1', '255.255.255.255', GATEWAY]) {
    t.same(
      a.send(
        a.packet(
          { src, dst: OUTSIDE, protocol: 6 },
          tcp({ src, dst: OUTSIDE, srcPort: 1, dstPort: 2, seq: 3, flags: SYN }),
        ),
      ),
      [],
      src,
    );
  }
  t.same(rig.drops(), { Ip4Martian: 6 });
  const group = (dst: string, flags: number): Uint8Array =>
    ethernet(
      BROADCAST,
      a.mac,
      0x0800,
      ipv4({ src: a.ip, dst, protocol: 6 }, tcp({ src: a.ip, dst, srcPort: 1, dstPort: 2, seq: 3, flags })),
    );
  for (const dst of ['255.255.255.255', '192.168.65.255', '224.0.0.1'])
    t.same(a.send(group(dst, SYN), group(dst, ACK)), [], dst);
  t.same(rig.drops(), { TcpMartian: 6 });
  t.same(rig.flows, []);
  t.end();
});

t.test('TCP-SYN-26 port 0 is nobody: no flow, and the host is not asked', (t) => {
  const { rig, a } = two();
  t.same(a.send(a.tcp(OUTSIDE, to(0, 80, SYN)), a.tcp(OUTSIDE, to(80, 0, SYN))), []);
  t.same(rig.drops(), { TcpPortZero: 2 });
  t.same(rig.flows, []);
  t.end();
});

t.test('bad checksums and data offsets are dropped, in packet memory and elsewhere', (t) => {
  const { rig, a } = two();
  for (const inSlab of [false, true]) {
    a.input(a.tcp(OUTSIDE, to(1, 2, SYN, { badChecksum: true })), inSlab);
    t.same(rig.drops(), { TcpBadChecksum: 1 });
    for (const offset of [0, 0x40, 0xf0]) {
      const frame = a.tcp(OUTSIDE, to(1, 2, SYN));
      frame[46] = offset;
      a.input(frame, inSlab);
    }
    a.input(a.packet({ protocol: 6 }, [0, 1, 0, 2]), inSlab);
    t.same(rig.drops(), { TcpMalformed: 4 });
  }
  t.same(rig.flows, []);
  t.end();
});

t.test('a flow from SYN to the end, with frames in packet memory and elsewhere', (t) => {
  const { rig, a } = two();
  const before = rig.slab.usedBytes;
  for (const inSlab of [false, true]) {
    const talk = establish(a, inSlab ? 40_001 : 40_000, ALIAS);
    a.input(segment(talk, ACK | PSH, 'hello '), inSlab);
    talk.seq += 6;
    a.input(segment(talk, ACK | PSH | FIN, 'world'), inSlab);
    talk.seq += 6;
    a.port.endTurn(rig.now);
    t.equal(talk.owner.received, 'hello world');
    t.ok(talk.owner.events.includes('ended'));
    t.match(a.take().at(-1)?.tcp, { flags: ACK, ack: talk.seq });
    talk.owner.flow.write(new TextEncoder().encode('bye'), 0, 3, rig.now);
    talk.owner.flow.shutdown(rig.now);
    rig.turn();
    const last = a.take().at(-1)!;
    t.match(last.tcp, { flags: ACK | PSH | FIN });
    t.equal(new TextDecoder().decode(last.tcp!.payload), 'bye');
    talk.ack += 4;
    a.send(segment(talk, ACK));
    t.equal(talk.owner.closedWith, 'done');
  }
  t.equal(rig.stack.tcp.table.size, 0);
  t.equal(a.port.flows, 0);
  t.equal(rig.slab.usedBytes, before);
  t.same(rig.drops(), {});
  t.end();
});

t.test('the same ports of two VMs, and of two destinations, are flows of their own', (t) => {
  const { rig, a, b } = two();
  const talks = [establish(a), establish(b), establish(a, 40_000, '198.51.100.7'), establish(a, 40_000, OUTSIDE, 81)];
  for (const [i, talk] of talks.entries()) talk.vm.send(segment(talk, ACK, `flow ${i}`));
  t.same(
    talks.map((talk) => talk.owner.received),
    ['flow 0', 'flow 1', 'flow 2', 'flow 3'],
  );
  t.equal(a.port.flows, 3);
  a.port.close(rig.now);
  t.same(
    talks.map((talk) => talk.owner.closedWith),
    ['vm-gone', undefined, 'vm-gone', 'vm-gone'],
  );
  t.equal(rig.stack.tcp.table.size, 1);
  t.end();
});

t.test('the table finds each of many flows, while others come and go', (t) => {
  const { rig, a } = two();
  const talks: Talk[] = [];
  for (let i = 0; i < 600; i++) talks.push(establish(a, 10_000 + i, `203.0.113.${i % 250}`));
  for (let i = 0; i < 600; i += 2) a.send(segment(talks[i]!, RST));
  t.equal(rig.stack.tcp.table.size, 300);
  for (let i = 1; i < 600; i += 2) a.send(segment(talks[i]!, ACK, `${i}`));
  t.ok(
    talks.every((talk, i) => (i % 2 === 0 ? talk.owner.closedWith === 'guest-reset' : talk.owner.received === `${i}`)),
  );
  for (let i = 1; i < 600; i += 2) a.send(segment({ ...talks[i]!, seq: talks[i]!.seq + `${i}`.length }, RST));
  t.equal(rig.stack.tcp.table.size, 0);
  t.equal(rig.stack.nextDeadline(), Number.POSITIVE_INFINITY);
  t.end();
});

t.test('GuestConnector: a connection towards a guest, from an address it can answer to', (t) => {
  const { rig, a, b } = two();
  const flow = rig.stack.connect(address(GATEWAY), address(a.ip), 22, rig.now)!;
  const owner = new FakeOwner(flow);
  rig.turn();
  const [syn] = a.take();
  t.match(syn, { dst: a.mac, ip: { src: GATEWAY, dst: a.ip }, tcp: { dstPort: 22, flags: SYN } });
  const { srcPort, seq } = syn!.tcp!;
  t.ok(srcPort >= 32_768);
  const answer = (vm: FakeVm): Uint8Array =>
    vm.packet(
      { src: a.ip, dst: GATEWAY, protocol: 6 },
      tcp({ src: a.ip, dst: GATEWAY, srcPort: 22, dstPort: srcPort, seq: 70, ack: seq + 1, flags: SYN | ACK }),
    );
  rig.now += 100;
  b.send(answer(b));
  t.equal(rig.drops().TcpWrongVm, 1, 'another VM cannot answer for it');
  rig.now += 100;
  t.match(a.send(answer(a)).at(-1)?.tcp, { flags: ACK, ack: 71 });
  t.same(owner.events, ['established']);
  const refused = new FakeOwner(rig.stack.connect(address(GATEWAY), address(a.ip), 23, rig.now)!);
  rig.turn();
  const second = a.take()[0]!.tcp!;
  t.not(second.srcPort, srcPort);
  a.send(a.tcp(GATEWAY, { srcPort: 23, dstPort: second.srcPort, seq: 0, ack: second.seq + 1, flags: RST | ACK }));
  t.equal(refused.closedWith, 'refused');
  t.equal(a.port.flows, 1);
  t.end();
});

t.test('an owner that throws costs its own flow only, in a turn and on a timer, and is counted', (t) => {
  const { rig, a } = two();
  const [bad, good] = [establish(a, 1), establish(a, 2)];
  bad.owner.onReadable = () => {
    throw new Error('a bug of the owner');
  };
  a.input(segment(bad, ACK, 'x'));
  a.input(segment(good, ACK, 'y'));
  a.port.endTurn(rig.now);
  t.equal(bad.owner.closedWith, 'bug');
  t.equal(a.take().find((f) => f.tcp?.dstPort === 1 && f.tcp.flags & RST)?.tcp?.dstPort, 1, 'the guest is told');
  t.equal(good.owner.received, 'y');
  t.equal(rig.stack.stats.bugs, 1);
  t.equal(rig.bugs.length, 1);

  // A connection whose own state contradicts itself: the timer that finds out.
  const [broken, other] = [establish(a, 3), establish(a, 4)];
  for (const talk of [broken, other]) talk.owner.flow.write(new Uint8Array(10), 0, 10, rig.now);
  rig.turn();
  a.take();
  Object.defineProperty(broken.owner.flow, 'backoffs', {
    get: () => {
      throw new Error('a bug of ours');
    },
  });
  rig.advance(5000);
  t.equal(rig.stack.stats.bugs, 2);
  t.equal(broken.owner.closedWith, 'bug');
  t.ok(a.take().filter((f) => f.tcp?.dstPort === 4).length > 1, 'the other one is sent again');
  t.end();
});
