import t from 'tap';
import { address, establish, type FakeVm, GATEWAY, OUTSIDE, Rig, segment, type Talk } from './fake-link.ts';
import { ACK, FIN, RST, SYN } from './frames.ts';

function one(options = {}): { rig: Rig; a: FakeVm } {
  const rig = new Rig(options);
  const a = rig.vm(3);
  a.send(a.arp({ targetIp: GATEWAY }));
  return { rig, a };
}

const syn = (a: FakeVm, srcPort: number, seq = 1): Uint8Array =>
  a.tcp(OUTSIDE, { srcPort, dstPort: 80, seq, flags: SYN });

t.test(
  'RFC 4987 opens in progress are capped: a SYN over the cap is dropped, not refused, and there is room again later',
  (t) => {
    const { rig, a } = one({ tcp: { pendingMax: 100 } });
    const before = rig.slab.usedBytes;
    rig.onSyn = () => {};
    for (let i = 0; i < 5000; i++) t.same(a.send(syn(a, 1 + i)), []);
    t.equal(rig.stack.tcp.opening, 100);
    t.equal(rig.stack.tcp.table.size, 100);
    t.equal(rig.flows.length, 100);
    t.same(rig.drops(), { TcpSynLimit: 4900 });
    t.equal(rig.slab.usedBytes, before, 'an open in progress holds no packet memory');
    t.equal(rig.stack.connect(address(GATEWAY), address(a.ip), 22, rig.now), undefined);
    a.send(syn(a, 1), syn(a, 1, 99));
    t.equal(rig.flows.length, 100, 'the same one again is the same open');
    rig.flows[0]!.flow.refuse('refused', rig.now);
    rig.turn();
    t.match(a.take(), [{ tcp: { flags: RST | ACK } }]);
    a.send(syn(a, 9000));
    t.equal(rig.flows.length, 101);
    rig.advance(200_000);
    t.equal(rig.stack.tcp.opening, 0, 'the host never answered');
    t.equal(rig.stack.tcp.table.size, 0);
    t.equal(rig.stack.nextDeadline(), Number.POSITIVE_INFINITY);
    t.end();
  },
);

t.test('RFC 4987 one VM that opens into a black hole leaves room for the opens of the others', (t) => {
  const { rig, a } = one({ tcp: { pendingMax: 100, pendingPerVm: 50 } });
  const b = rig.vm(4);
  b.send(b.arp({ targetIp: GATEWAY }));
  rig.onSyn = () => {};
  for (let i = 0; i < 500; i++) a.send(syn(a, 1 + i));
  t.equal(rig.stack.tcp.opening, 50);
  b.send(syn(b, 1));
  t.equal(rig.stack.tcp.opening, 51);
  rig.flows[0]!.flow.refuse('refused', rig.now);
  rig.turn();
  a.send(syn(a, 9000), syn(a, 9001));
  t.equal(rig.stack.tcp.opening, 51, 'one place came free, one was taken');
  t.end();
});

t.test('RFC 4987 handshakes that the guest does not finish end by themselves', (t) => {
  const { rig, a } = one({ tcp: { pendingMax: 50 } });
  for (let i = 0; i < 60; i++) a.input(syn(a, 1 + i));
  a.port.endTurn(rig.now);
  t.equal(a.take().length, 50, 'SYN-ACKs');
  rig.advance(120_000);
  t.equal(rig.stack.tcp.opening, 0);
  t.equal(rig.stack.tcp.table.size, 0);
  t.equal(a.take().filter((f) => f.tcp?.flags === (SYN | ACK)).length, 250, 'five more tries each');
  t.ok(rig.flows.every((owner) => owner.closedWith === 'retransmit-limit'));
  t.end();
});

t.test('flows are capped; TIME-WAIT does not count, and its oldest goes first', (t) => {
  const { rig, a } = one({ tcp: { flowsMax: 10, timeWaitMax: 5 } });
  const talks: Talk[] = [];
  for (let i = 0; i < 10; i++) talks.push(establish(a, 100 + i));
  t.same(a.send(syn(a, 999)), []);
  t.same(rig.drops(), { TcpFlowLimit: 1 });
  for (const talk of talks) {
    talk.owner.flow.shutdown(rig.now);
    rig.turn();
    talk.ack++;
    a.send(segment(talk, ACK | FIN));
  }
  t.equal(rig.stack.tcp.timeWaits, 5);
  t.equal(rig.stack.tcp.flows, 0);
  t.equal(rig.stack.stats.tcp.timeWaitEvicted, 5);
  t.ok(talks.every((talk) => talk.owner.closedWith === 'done'));
  t.equal(a.send(syn(a, 999)).at(-1)?.tcp?.flags, SYN | ACK);
  rig.advance(61_000);
  t.equal(rig.stack.tcp.timeWaits, 0);
  t.end();
});

t.test('a link that never drains: flows that come and go leave nothing behind', (t) => {
  const { rig, a } = one();
  const before = rig.slab.usedBytes;
  a.egress.refusing = true;
  for (let i = 0; i < 3000; i++) {
    const port = 1 + (i % 60_000);
    a.input(syn(a, port, 7));
    a.port.endTurn(rig.now);
    a.input(a.tcp(OUTSIDE, { srcPort: port, dstPort: 80, seq: 8, flags: RST }));
    a.port.endTurn(rig.now);
  }
  t.equal(rig.stack.tcp.table.size, 0);
  t.equal(rig.stack.tcp.opening, 0);
  t.equal(a.port.blocked.size, 0, 'nobody who has ended waits for it');
  t.equal(a.port.flows, 0);
  t.equal(a.egress.waiting, 0);
  t.equal(rig.slab.usedBytes, before);
  t.ok(a.port.refused >= 3000);
  t.end();
});

t.test('a link that drains again: what waited goes out, complete and in order', (t) => {
  const { rig, a } = one();
  const talks = [establish(a, 1), establish(a, 2)];
  a.egress.refusing = true;
  const bytes = new TextEncoder().encode('0123456789'.repeat(200));
  for (const talk of talks) t.equal(talk.owner.flow.write(bytes, 0, bytes.length, rig.now), bytes.length);
  rig.turn();
  t.same(a.take(), []);
  t.equal(a.port.blocked.size, 2);
  const used = rig.slab.usedBytes;
  rig.advance(30_000);
  t.equal(rig.slab.usedBytes, used);
  t.equal(rig.stack.stats.tcp.retransmits, 0, 'nothing can be said to be lost');
  a.egress.refusing = false;
  a.port.writable(rig.now);
  t.equal(a.port.blocked.size, 0);
  const got = a.take();
  for (const talk of talks) {
    const text = got
      .filter((f) => f.tcp?.dstPort === talk.srcPort)
      .map((f) => new TextDecoder().decode(f.tcp!.payload));
    t.equal(text.join(''), '0123456789'.repeat(200));
  }
  t.end();
});

t.test('a VM that goes while its link is stuck frees everything at once', (t) => {
  const { rig, a } = one();
  const before = rig.slab.usedBytes;
  const talks = [1, 2, 3].map((port) => establish(a, port));
  a.egress.refusing = true;
  for (const talk of talks) talk.owner.flow.write(new Uint8Array(100_000), 0, 100_000, rig.now);
  rig.turn();
  t.ok(rig.slab.usedBytes > before + 300_000);
  a.port.close(rig.now);
  t.ok(talks.every((talk) => talk.owner.closedWith === 'vm-gone'));
  t.equal(rig.slab.usedBytes, before);
  t.equal(rig.stack.tcp.table.size, 0);
  t.equal(a.port.blocked.size, 0);
  t.equal(rig.stack.nextDeadline(), Number.POSITIVE_INFINITY);
  t.end();
});

t.test('packet memory that is full: windows close, nothing dies, and it opens again', (t) => {
  const { rig, a } = one({ slabBytes: 1024 * 1024 });
  const talks = Array.from({ length: 8 }, (_, i) => establish(a, 1 + i));
  const held: number[] = [];
  for (let off = rig.slab.alloc(4096); off >= 0; off = rig.slab.alloc(4096)) held.push(off);
  for (const talk of talks) a.input(segment(talk, ACK, 'hello'));
  a.port.endTurn(rig.now);
  t.ok(talks.every((talk) => talk.owner.received === '' && talk.owner.closedWith === undefined));
  t.equal(rig.stack.stats.tcp.noMemory, 8);
  t.equal(talks[0]!.owner.flow.write(new Uint8Array(9), 0, 9, rig.now), 0);
  const fragment = a.packet({ dst: GATEWAY, protocol: 1, flags: 0x2000 }, new Uint8Array(64));
  a.send(fragment);
  t.same(rig.drops(), { FragLimit: 1 });
  for (const off of held) rig.slab.free(off);
  a.take();
  for (const talk of talks) a.input(segment(talk, ACK, 'hello'));
  a.port.endTurn(rig.now);
  t.ok(talks.every((talk) => talk.owner.received === 'hello'));
  t.same(rig.bugs, []);
  t.end();
});

t.test('many addresses of one VM: as many as the table gives it, the rest is refused and counted', (t) => {
  const { rig, a } = one({ network: '192.168.0.0/16' });
  const b = rig.vm(4);
  b.send(b.arp({ targetIp: GATEWAY }));
  rig.drops();
  for (let i = 0; i < 1000; i++) {
    const src = `192.168.${100 + (i >> 8)}.${i & 255}`;
    a.input(a.packet({ src, dst: OUTSIDE, protocol: 17 }, [0, 9, 0, 9, 0, 8, 0, 0]));
  }
  t.equal(rig.stack.neighbours.size, 64 + 1);
  t.ok(rig.heard.length < 64);
  const drops = rig.drops();
  t.equal((drops.Ip4WrongGuest ?? 0) + (drops.Ip4Martian ?? 0), 1000 - rig.heard.length);
  b.send(b.udp(OUTSIDE, 1, 2, [1]));
  t.equal(rig.heard.at(-1)?.vm, b.port.id, 'the neighbour has its own');
  t.end();
});
