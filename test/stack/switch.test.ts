import t from 'tap';
import { ALIAS, establish, type FakeVm, GATEWAY, GATEWAY_MAC, OUTSIDE, Rig, segment } from './fake-link.ts';
import { BROADCAST, ethernet, icmp } from './frames.ts';

const IPV6_GROUP = '33:33:00:00:00:01';
/** A frame that is nobody's protocol: only the switch has an opinion. */
const plain = (dst: string, src: string, payload: number[] = [1, 2, 3]): Uint8Array =>
  ethernet(dst, src, 0x88b5, payload);

function three(): { rig: Rig; a: FakeVm; b: FakeVm; c: FakeVm } {
  const rig = new Rig();
  const [a, b, c] = [rig.vm(3), rig.vm(4), rig.vm(5)];
  for (const vm of [a, b, c]) vm.send(vm.arp({ targetIp: GATEWAY }));
  for (const vm of [a, b, c]) vm.take();
  rig.drops();
  return { rig, a, b, c };
}

t.test('a unicast frame goes to its port only, byte for byte', (t) => {
  const { rig, a, b, c } = three();
  const frame = plain(b.mac, a.mac, [9, 8, 7, 6]);
  const { framesSwitched, bytesSwitched } = rig.stack.stats;
  t.same(a.send(frame), [], 'nothing comes back');
  t.same(
    b.take().map((f) => f.bytes),
    [frame],
  );
  t.same(c.take(), []);
  t.equal(rig.stack.stats.framesSwitched, framesSwitched + 1);
  t.equal(rig.stack.stats.bytesSwitched, bytesSwitched + frame.length);
  t.same(rig.drops(), {});
  t.end();
});

t.test('broadcast and multicast are flooded to every other port, and seen by the gateway', (t) => {
  const { rig, a, b, c } = three();
  for (const dst of [BROADCAST, IPV6_GROUP]) {
    const frame = plain(dst, a.mac);
    t.same(a.send(frame), []);
    for (const vm of [b, c]) {
      t.same(
        vm.take().map((f) => f.bytes),
        [frame],
        dst,
      );
    }
  }
  t.same(rig.drops(), { EthUnknownType: 2 }, 'the gateway has no use for it');
  t.end();
});

t.test('a frame for nobody is dropped and counted, not flooded', (t) => {
  const { rig, a, b, c } = three();
  a.send(plain('02:00:00:00:00:77', a.mac));
  t.same([...b.take(), ...c.take()], []);
  a.send(plain(a.mac, a.mac));
  t.same(a.take(), [], 'to its own port: it has seen it');
  t.same(rig.drops(), { EthUnknownDestination: 2 });
  t.end();
});

t.test('runts and frames without a proper source are dropped and counted', (t) => {
  const { rig, a, b } = three();
  for (const length of [0, 1, 13]) a.send(new Uint8Array(length).fill(0xff));
  t.same(rig.drops(), { LinkRunt: 3 });
  a.send(plain(BROADCAST, '01:00:5e:00:00:01'), plain(BROADCAST, '00:00:00:00:00:00'), plain(BROADCAST, BROADCAST));
  t.same(rig.drops(), { EthBadSource: 3 });
  a.send(plain(BROADCAST, GATEWAY_MAC), plain(b.mac, GATEWAY_MAC));
  t.same(rig.drops(), { EthBadSource: 2 }, 'the MAC of the gateway');
  t.same(b.take(), [], 'none was passed on');
  a.send(
    ethernet(GATEWAY_MAC, a.mac, 0x86dd, new Uint8Array(40)),
    ethernet(GATEWAY_MAC, a.mac, 0x8100, new Uint8Array(40)),
  );
  t.same(rig.drops(), { Ip6Unsupported: 1, EthUnknownType: 1 });
  a.send(ethernet(GATEWAY_MAC, a.mac, 0x0800, []), ethernet(GATEWAY_MAC, a.mac, 0x0806, []));
  t.same(rig.drops(), { Ip4Malformed: 1, ArpMalformed: 1 }, 'header only');
  t.same(rig.bugs, []);
  t.end();
});

t.test('a MAC in use does not move; a silent one does, and frames follow it', (t) => {
  const { rig, a, b, c } = three();
  b.send(plain(c.mac, b.mac));
  c.take();
  a.send(plain(c.mac, b.mac));
  t.same(c.take(), [], 'a claim to the MAC of a talking neighbour');
  t.same(rig.drops(), { EthMacTaken: 1 });
  c.send(plain(b.mac, c.mac));
  t.equal(b.take().length, 1, 'still where it was');
  rig.advance(60);
  a.send(plain(c.mac, b.mac));
  c.take();
  c.send(plain(b.mac, c.mac));
  t.equal(a.take().length, 1, 'a VM that came back on another port');
  t.equal(b.take().length, 0);
  t.end();
});

t.test('one port may hold so many MACs; its flood does not push out a neighbour', (t) => {
  const { rig, a, b, c } = three();
  const macOf = (i: number): string =>
    `02:aa:00:00:${(i >> 8).toString(16).padStart(2, '0')}:${(i & 255).toString(16).padStart(2, '0')}`;
  for (let i = 0; i < 2000; i++) a.input(plain(b.mac, macOf(i)));
  a.port.endTurn(rig.now);
  t.equal(rig.stack.macTable.countOf(a.port.id), 64);
  t.equal(b.take().length, 63, 'with its own one that makes 64');
  t.same(rig.drops(), { EthMacTableFull: 1937 });
  b.send(plain(c.mac, b.mac));
  t.equal(c.take().length, 1);
  rig.advance(301_000);
  b.send(plain(c.mac, b.mac));
  t.same(rig.drops(), { EthUnknownDestination: 1 }, 'an address that nobody used for five minutes is forgotten');
  a.send(plain(b.mac, macOf(1999)));
  t.equal(b.take().length, 1, 'and its place is free');
  t.end();
});

t.test('a VM that goes takes its addresses along; its number is not used again', (t) => {
  const { rig, a, b } = three();
  const flow = establish(b);
  b.port.close(rig.now);
  b.port.close(rig.now);
  t.same(rig.gone, [b.port.id]);
  t.same(flow.owner.closedWith, 'vm-gone');
  b.input(plain(a.mac, b.mac));
  b.port.endTurn(rig.now);
  b.port.writable(rig.now);
  t.same(a.take(), [], 'a frame after the end');
  rig.drops();
  a.send(plain(b.mac, a.mac));
  t.same(rig.drops(), { EthUnknownDestination: 1 });
  const again = rig.vm(4);
  t.ok(again.port.id > b.port.id);
  t.equal(again.send(again.arp({ targetIp: GATEWAY })).length, 1, 'at once, on the new port');
  a.send(plain(again.mac, a.mac));
  t.equal(again.take().length, 1);
  t.end();
});

t.test('a frame larger than the MTU of the target is not passed on', (t) => {
  const rig = new Rig();
  const [big, small] = [rig.vm(3, { mtu: 65_520 }), rig.vm(4, { mtu: 1500 })];
  small.send(plain(BROADCAST, small.mac));
  big.take();
  const frame = (length: number): Uint8Array => plain(small.mac, big.mac, new Array<number>(length - 14).fill(1));
  big.send(frame(1514));
  t.equal(small.take().length, 1);
  rig.drops();
  big.send(frame(1515), frame(65_534));
  t.equal(small.take().length, 0);
  t.same(rig.drops(), { LinkTooBig: 2 });
  big.send(plain(BROADCAST, big.mac, new Array<number>(2000).fill(1)));
  t.equal(rig.drops().LinkTooBig, 1, 'a broadcast as well');
  t.end();
});

t.test('a link that does not drain costs its own frames only', (t) => {
  const { rig, a, b, c } = three();
  b.egress.refusing = true;
  for (let i = 0; i < 10; i++) a.send(plain(BROADCAST, a.mac), plain(b.mac, a.mac));
  t.equal(c.take().length, 10);
  t.same(rig.drops(), { EthUnknownType: 10, LinkTxFull: 20 });
  t.equal(b.port.refused, 20);
  t.equal(b.egress.waiting, 0);
  t.end();
});

t.test('IP4-02 the address of another VM is not taken while that one talks', (t) => {
  const { rig, a, b } = three();
  const spoof = a.packet({ src: b.ip, dst: OUTSIDE, protocol: 17 }, new Uint8Array([0, 9, 0, 9, 0, 8, 0, 0]));
  // The victim sends all the time; the thief tries in between, at every distance from the victim's last packet.
  for (let ms = 0; ms < 2500; ms += 10) {
    rig.now += 10;
    if (ms % 40 === 0) b.send(b.udp(OUTSIDE, 5000, 53, [1]));
    a.send(spoof);
  }
  t.equal(rig.drops().Ip4WrongGuest, 250);
  t.same(
    rig.heard.filter((h) => h.vm !== b.port.id),
    [],
  );
  t.equal([...rig.stack.neighbours.entries()].find((n) => n.portId === b.port.id)?.usable, true);
  t.end();
});

t.test('segments of another VM do not reach a flow (TcpWrongVm), nor do its ICMP errors', (t) => {
  const { rig, a, b } = three();
  const flow = establish(b);
  flow.owner.flow.write(new TextEncoder().encode('hello'), 0, 5, rig.now);
  b.port.endTurn(rig.now);
  const [data] = b.take();
  rig.advance(100);
  // The owner of the address has been silent: the thief gets the address, but not the flow.
  const thief = { ...flow, vm: Object.assign(Object.create(a) as FakeVm, { ip: b.ip }) };
  a.send(segment(thief, 4));
  t.equal(rig.drops().TcpWrongVm, 1);
  const quote = data!.ip!.bytes.slice(0, 28);
  a.send(a.packet({ src: b.ip, dst: GATEWAY, protocol: 1 }, icmp(3, 4, 600, quote)));
  t.equal(rig.drops().TcpWrongVm, 1);
  t.equal(rig.stack.stats.tcp.icmpAccepted, 0);
  t.equal(flow.owner.closedWith, undefined);
  t.end();
});

t.test('ARP-03 nobody tells other VMs that it is the gateway', (t) => {
  const { rig, a, b, c } = three();
  for (const senderIp of [GATEWAY, ALIAS]) {
    a.send(
      a.arp({ op: 2, senderIp, targetIp: b.ip, targetMac: b.mac }, b.mac),
      a.arp({ senderIp, targetIp: senderIp }),
    );
  }
  t.same([...b.take(), ...c.take()], []);
  t.same(rig.drops(), { ArpMalformed: 4 });
  a.send(a.arp({ targetIp: b.ip }));
  t.same([b.take().length, c.take().length], [1, 1], 'its own address it may tell');
  t.end();
});

t.test('frames lie in packet memory or elsewhere, at any alignment, with the same result', (t) => {
  const seen = [false, true].map((inSlab) => {
    const { rig, a, b } = three();
    const big = new Array<number>(1400).fill(7);
    for (const frame of [a.ping(GATEWAY, big), a.udp(OUTSIDE, 1, 2, big), plain(b.mac, a.mac, big)])
      a.input(frame, inSlab);
    a.port.endTurn(rig.now);
    return [a.take().map((f) => f.icmp), b.take().map((f) => f.bytes), rig.heard.map((h) => h.payload), rig.drops()];
  });
  t.same(seen[0], seen[1]);
  t.same(seen[0]![3], {});
  t.end();
});

t.test('after stop nothing is answered and no flow is made', (t) => {
  const { rig, a } = three();
  const talk = establish(a);
  rig.stack.stop(rig.now);
  t.equal(talk.owner.closedWith, 'shutdown');
  t.equal(a.take()[0]?.tcp?.flags, 0x14, 'the guest is told');
  a.send(a.arp({ targetIp: GATEWAY }), a.tcp(OUTSIDE, { srcPort: 1, dstPort: 2, seq: 3, flags: 2 }));
  t.equal(a.egress.waiting, 0);
  t.equal(rig.flows.length, 1);
  t.equal(rig.stack.tcp.table.size, 0);
  t.end();
});
