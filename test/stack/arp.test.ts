import t from 'tap';
import { Drop } from '../../src/base/drop.ts';
import { ALIAS, address, type FakeVm, GATEWAY, GATEWAY_MAC, ip, OUTSIDE, Rig } from './fake-link.ts';
import { BROADCAST, ethernet } from './frames.ts';

function one(options = {}): { rig: Rig; a: FakeVm } {
  const rig = new Rig(options);
  return { rig, a: rig.vm(3) };
}

t.test('ARP-01 a request for the gateway or the host alias: a unicast reply with the MAC of the stack', (t) => {
  const { rig, a } = one();
  for (const targetIp of [GATEWAY, ALIAS]) {
    const [reply, ...more] = a.send(a.arp({ targetIp }));
    t.match(reply, { dst: a.mac, src: GATEWAY_MAC });
    t.same(reply?.arp, { op: 2, senderMac: GATEWAY_MAC, senderIp: targetIp, targetMac: a.mac, targetIp: a.ip });
    t.same(more, []);
  }
  t.equal(a.send(a.arp({ targetIp: GATEWAY }, GATEWAY_MAC)).length, 1, 'a unicast check is answered as well');
  t.equal(rig.stack.stats.arpReplies, 3);
  t.same(rig.drops(), {});
  t.end();
});

t.test('ARP-01 no reply for its own, unknown and foreign addresses', (t) => {
  const { rig, a } = one();
  for (const targetIp of [
    a.ip,
    '192.168.65.77',
    '192.168.65.0',
    '192.168.65.255',
    OUTSIDE,
    '0.0.0.0',
    '255.255.255.255',
  ]) {
    t.same(a.send(a.arp({ targetIp })), [], targetIp);
  }
  t.same(a.send(a.arp({ op: 2, targetIp: GATEWAY }, GATEWAY_MAC)), [], 'nor to a reply');
  t.same(rig.drops(), {}, 'none of them is rubbish');
  const without = one({ hostAlias: false });
  t.same(without.a.send(without.a.arp({ targetIp: ALIAS })), [], 'no host alias, no answer');
  t.end();
});

t.test('ARP-02 a probe of our address is answered, of its own it is not; nothing is learned from either', (t) => {
  const { rig, a } = one();
  const [reply] = a.send(a.arp({ senderIp: '0.0.0.0', targetIp: GATEWAY }));
  t.match(reply?.arp, { op: 2, senderIp: GATEWAY, targetIp: '0.0.0.0', targetMac: a.mac });
  t.same(a.send(a.arp({ senderIp: '0.0.0.0', targetIp: a.ip })), []);
  t.equal(rig.stack.neighbours.size, 0);
  a.send(a.arp({ targetIp: a.ip }));
  t.equal(rig.stack.neighbours.size, 1, 'from an announcement it is');
  t.end();
});

t.test('ARP-03 malformed messages, and claims to our addresses, are dropped and teach nothing', (t) => {
  const { rig, a } = one();
  const targetIp = GATEWAY;
  const bad = [
    a.arp({ targetIp, htype: 6 }),
    a.arp({ targetIp, ptype: 0x86dd }),
    a.arp({ targetIp, hlen: 8 }),
    a.arp({ targetIp, plen: 16 }),
    a.arp({ targetIp, op: 3 }),
    a.arp({ targetIp, op: 0 }),
    a.arp({ targetIp, senderMac: BROADCAST }),
    a.arp({ targetIp, senderMac: '01:00:5e:00:00:01' }),
    a.arp({ targetIp, senderMac: '00:00:00:00:00:00' }),
    a.arp({ targetIp }).subarray(0, 41),
    a.arp({ targetIp, senderIp: GATEWAY }),
    a.arp({ targetIp, senderIp: ALIAS }),
    a.arp({ targetIp: a.ip, senderIp: GATEWAY, op: 2 }, GATEWAY_MAC),
  ];
  for (const frame of bad) t.same(a.send(frame), []);
  t.same(rig.drops(), { ArpMalformed: bad.length });
  for (const senderIp of ['127.0.0.1', '224.0.0.1', '255.255.255.255', '0.0.0.1'])
    a.send(a.arp({ targetIp, senderIp }));
  t.equal(rig.stack.neighbours.size, 0);
  t.same(a.take(), []);
  // A sender field that is not the frame's source is not believed, and one of another network is no neighbour.
  a.send(a.arp({ targetIp, senderMac: '02:00:00:00:00:99' }), a.arp({ targetIp, senderIp: OUTSIDE }));
  t.equal(rig.stack.neighbours.size, 0);
  t.end();
});

t.test('ARP-04 a datagram for an unknown guest waits for the answer, and goes out as it was', (t) => {
  const { rig, a } = one();
  const b = rig.vm(4);
  const payload = new Uint8Array(3000).map((_, i) => i);
  t.ok(rig.stack.udp.sendDatagram(address(OUTSIDE), 53, address(a.ip), 5000, payload, 0, 3000, rig.now));
  payload.fill(0);
  rig.stack.onEndTurn(rig.now);
  for (const vm of [a, b]) {
    const [request, ...more] = vm.take();
    t.match(request, { dst: BROADCAST, src: GATEWAY_MAC }, 'asked on every link');
    t.same(request?.arp, {
      op: 1,
      senderMac: GATEWAY_MAC,
      senderIp: GATEWAY,
      targetMac: '00:00:00:00:00:00',
      targetIp: a.ip,
    });
    t.same(more, []);
  }
  const parts = a.send(a.arp({ op: 2, targetIp: GATEWAY, targetMac: GATEWAY_MAC }, GATEWAY_MAC));
  t.equal(parts.length, 3, 'fragments of 1500');
  t.ok(parts.every((f) => f.dst === a.mac && f.ip!.bytes.length <= 1500));
  t.equal(parts.at(-1)!.ip!.offset + parts.at(-1)!.ip!.payload.length, 3008);
  t.equal(rig.stack.neighbours.heldBytes, 0);
  t.equal(rig.stack.stats.datagramsToGuest, 1);
  t.same(b.take(), []);
  t.end();
});

t.test('ARP-04 one request a second, three tries, then the datagram is dropped and the connection told', (t) => {
  const { rig, a } = one();
  const send = (): boolean =>
    rig.stack.udp.sendDatagram(address(OUTSIDE), 53, address('192.168.65.9'), 5000, new Uint8Array(9), 0, 9, rig.now);
  for (let i = 0; i < 20; i++) t.equal(send(), i < 16, `datagram ${i}`);
  const flow = rig.stack.connect(address(GATEWAY), address('192.168.65.9'), 22, rig.now);
  const closed: string[] = [];
  flow!.owner = {
    onEstablished: () => {},
    onReadable: () => {},
    onWritable: () => {},
    onClosed: (reason) => closed.push(reason),
  };
  t.equal(rig.dropped(Drop.ArpUnresolved), 4, 'over the cap');
  const times: number[] = [];
  for (let i = 0; i < 50; i++) {
    rig.turn();
    if (a.take().some((f) => f.arp?.op === 1)) times.push(rig.now - 1000);
    rig.advance(100);
  }
  t.equal(times.length, 3);
  t.ok(times[1]! - times[0]! >= 1000 && times[2]! - times[1]! >= 1000, times.join(' '));
  t.same(closed, ['unreachable']);
  t.equal(rig.drops().ArpUnresolved, 4 + 16);
  t.equal(rig.stack.neighbours.size, 0);
  t.equal(rig.stack.tcp.table.size, 0);
  t.equal(rig.stack.nextDeadline(), Number.POSITIVE_INFINITY);
  t.end();
});

t.test('ARP-04 a connection waits for its guest, even where datagrams have taken all the room', (t) => {
  const { rig, a } = one();
  for (let i = 0; i < 20; i++)
    rig.stack.udp.sendDatagram(address(OUTSIDE), 53, address(a.ip), 5000, new Uint8Array(9), 0, 9, rig.now);
  t.ok(rig.stack.connect(address(GATEWAY), address(a.ip), 22, rig.now));
  rig.turn();
  t.same(
    a.take().map((f) => f.arp?.op),
    [1],
  );
  const after = a.send(a.arp({ op: 2, targetIp: GATEWAY, targetMac: GATEWAY_MAC }, GATEWAY_MAC));
  t.equal(after.filter((f) => f.udp !== undefined).length, 16);
  t.match(
    after.filter((f) => f.tcp !== undefined).map((f) => f.tcp),
    [{ flags: 2, dstPort: 22 }],
  );
  t.end();
});

t.test('ARP-04 over the cap of open questions a connection is refused at once, and leaves nothing', (t) => {
  const { rig } = one();
  for (let i = 0; i < 64; i++) t.ok(rig.stack.connect(address(GATEWAY), address(`192.168.65.${10 + i}`), 22, rig.now));
  t.equal(rig.stack.connect(address(GATEWAY), address('192.168.65.200'), 22, rig.now), undefined);
  t.equal(rig.stack.tcp.table.size, 64);
  rig.advance(10_000);
  t.equal(rig.stack.tcp.table.size, 0);
  t.equal(rig.stack.tcp.opening, 0);
  t.end();
});

t.test('RFC 1122 2.3.2.1 a guest unheard for a minute is asked again, by unicast, while it is still sent to', (t) => {
  const { rig, a } = one();
  a.send(a.arp({ targetIp: GATEWAY }));
  rig.advance(61_000);
  const send = (): boolean =>
    rig.stack.udp.sendDatagram(address(OUTSIDE), 53, address(a.ip), 5000, new Uint8Array(9), 0, 9, rig.now);
  t.ok(send());
  rig.advance(0);
  const [first, second] = a.take().sort((x, y) => x.type - y.type);
  t.ok(first?.udp);
  t.match(second, { dst: a.mac, arp: { op: 1, targetIp: a.ip } });
  a.send(
    ethernet(GATEWAY_MAC, a.mac, 0x0806, a.arp({ op: 2, targetIp: GATEWAY, targetMac: GATEWAY_MAC }).subarray(14)),
  );
  t.equal(rig.stack.neighbours.lookup(ip(a.ip), rig.now)?.state, 'reachable');
  t.end();
});
