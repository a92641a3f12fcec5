import t from 'tap';
import { ALIAS, address, type FakeVm, GATEWAY, OUTSIDE, Rig } from './fake-link.ts';
import { BROADCAST, ethernet, ipv4, reassemble, udp } from './frames.ts';

function one(options = {}): { rig: Rig; a: FakeVm } {
  const rig = new Rig(options);
  const a = rig.vm(3);
  a.send(a.arp({ targetIp: GATEWAY }));
  return { rig, a };
}

const payloadOf = (length: number): Uint8Array => new Uint8Array(length).map((_, i) => i * 7);

/** One datagram to the guest; what its link got. */
function deliver(rig: Rig, a: FakeVm, payload: Uint8Array, srcPort = 53): ReturnType<FakeVm['take']> {
  rig.stack.udp.sendDatagram(address(OUTSIDE), srcPort, address(a.ip), 5000, payload, 0, payload.length, rig.now);
  rig.turn();
  return a.take();
}

t.test('UDP-01 bad lengths are dropped, what lies behind the length is cut', (t) => {
  const { rig, a } = one();
  const base = { src: a.ip, dst: OUTSIDE, srcPort: 1, dstPort: 2, checksum: 0 };
  for (const length of [0, 1, 7, 13, 65_535]) {
    a.send(a.packet({ protocol: 17 }, udp({ ...base, length }, [1, 2, 3, 4])));
    t.same(rig.drops(), { UdpMalformed: 1 }, `length ${length}`);
  }
  a.send(a.packet({ protocol: 17 }, [0, 1, 0, 2]));
  t.same(rig.drops(), { UdpMalformed: 1 });
  for (const checksum of [0, undefined]) {
    const { checksum: _, ...rest } = base;
    a.send(
      a.packet(
        { protocol: 17 },
        udp({ ...rest, ...(checksum === undefined ? {} : { checksum }), length: 10 }, [1, 2, 3, 4]),
      ),
    );
    t.same(rig.heard.pop()?.payload, Uint8Array.of(1, 2));
  }
  t.end();
});

t.test('UDP-01 checksum 0 is none; a wrong one drops the datagram, in packet memory and elsewhere', (t) => {
  const { rig, a } = one();
  for (const inSlab of [false, true]) {
    for (const length of [0, 1, 8, 1400]) {
      const fields = { src: a.ip, dst: OUTSIDE, srcPort: 1, dstPort: 2 };
      a.input(a.packet({ protocol: 17 }, udp({ ...fields, checksum: 0 }, payloadOf(length))), inSlab);
      a.input(a.packet({ protocol: 17 }, udp(fields, payloadOf(length))), inSlab);
      t.equal(rig.heard.splice(0).length, 2);
      a.input(a.packet({ protocol: 17 }, udp({ ...fields, checksum: 0x1234 }, payloadOf(length))), inSlab);
      t.same(rig.drops(), { UdpBadChecksum: 1 });
      t.same(rig.heard, []);
    }
  }
  t.end();
});

t.test('UDP-01 a checksum that computes to 0 is sent as 0xFFFF', (t) => {
  const { rig, a } = one();
  const [probe] = deliver(rig, a, Uint8Array.of(0, 0));
  const sum = probe!.udp!.checksum;
  const [frame] = deliver(rig, a, Uint8Array.of(sum >>> 8, sum & 255));
  t.equal(frame!.udp!.checksum, 0xffff);
  t.end();
});

t.test('UDP-02 the forwarder hears who sent what to whom; answers from any remote reach the guest', (t) => {
  const { rig, a } = one();
  const b = rig.vm(4);
  a.send(
    a.udp(OUTSIDE, 5000, 53, [1]),
    a.udp('198.51.100.7', 5000, 80, [2]),
    a.udp(ALIAS, 5000, 81, [3]),
    a.udp(GATEWAY, 5001, 82, []),
  );
  b.send(b.udp(OUTSIDE, 5000, 53, [4]));
  t.same(
    rig.heard.map((h) => [h.vm, h.src, h.dst, [...h.payload]]),
    [
      [a.port.id, '192.168.65.3:5000', `${OUTSIDE}:53`, [1]],
      [a.port.id, '192.168.65.3:5000', '198.51.100.7:80', [2]],
      [a.port.id, '192.168.65.3:5000', `${ALIAS}:81`, [3]],
      [a.port.id, '192.168.65.3:5001', `${GATEWAY}:82`, []],
      [b.port.id, '192.168.65.4:5000', `${OUTSIDE}:53`, [4]],
    ],
  );
  t.equal(rig.stack.stats.datagramsFromGuest, 5);
  rig.stack.udp.sendDatagram(address('198.51.100.99'), 9, address(a.ip), 5000, Uint8Array.of(7), 0, 1, rig.now);
  rig.turn();
  t.match(a.take(), [{ dst: a.mac, ip: { src: '198.51.100.99', dst: a.ip }, udp: { srcPort: 9, dstPort: 5000 } }]);
  t.same(b.take(), []);
  t.end();
});

t.test('UDP-02 a service of the gateway is behind the gateway only, and before the forwarder', (t) => {
  const { rig, a } = one();
  const asked: string[] = [];
  rig.stack.udp.serve(123, {
    onDatagram: (meta) => asked.push(`${meta.src.toString()}:${meta.srcPort} ${meta.dst.toString()}`),
  });
  a.send(a.udp(GATEWAY, 5000, 123, [1]), a.udp(OUTSIDE, 5000, 123, [2]), a.udp(ALIAS, 5000, 123, [3]));
  t.same(asked, [`${a.ip}:5000 ${GATEWAY}`]);
  t.same(
    rig.heard.map((h) => [...h.payload]),
    [[2], [3]],
  );
  t.end();
});

t.test('UDP-03 a port with nobody behind it: port unreachable from the address that was asked', (t) => {
  const { rig, a } = one();
  rig.takesDatagram = false;
  for (const dst of [GATEWAY, ALIAS, OUTSIDE]) {
    const frame = a.udp(dst, 5000, 99, [1, 2]);
    const [error] = a.send(frame);
    t.match(error, { ip: { src: dst, dst: a.ip }, icmp: { type: 3, code: 3 } });
    t.same(error!.icmp!.payload, frame.subarray(14));
  }
  t.same(rig.drops(), { UdpNoService: 3 });
  t.end();
});

t.test('UDP-04 empty and largest datagrams pass both ways; a larger one is refused and counted', (t) => {
  const { rig, a } = one();
  for (const length of [0, 65_507]) {
    const whole = reassemble(deliver(rig, a, payloadOf(length)));
    t.same(whole.udp?.payload, payloadOf(length));
    const body = udp({ src: a.ip, dst: OUTSIDE, srcPort: 1, dstPort: 2 }, payloadOf(length));
    for (let at = 0; at < body.length; at += 1480) {
      const flags = (at >>> 3) | (at + 1480 < body.length ? 0x2000 : 0);
      a.send(a.packet({ protocol: 17, id: length & 0xff, flags }, body.subarray(at, at + 1480)));
    }
    t.same(rig.heard.pop()?.payload, payloadOf(length));
  }
  t.equal(rig.stack.stats.datagramsToGuest, 2);
  t.notOk(rig.stack.udp.sendDatagram(address(OUTSIDE), 1, address(a.ip), 2, payloadOf(65_508), 0, 65_508, rig.now));
  t.same(rig.drops(), { UdpTooBig: 1 });
  t.end();
});

t.test('UDP-04 destination port 0 is dropped; source port 0 means no answer is wanted (RFC 768)', (t) => {
  const { rig, a } = one();
  a.send(a.udp(OUTSIDE, 5, 0, [1]));
  t.same(rig.drops(), { UdpPortZero: 1 });
  a.send(a.udp(OUTSIDE, 0, 5, [1]));
  t.equal(rig.heard.length, 1);
  t.end();
});

t.test('UDP-05 broadcast and multicast are not relayed; 255.255.255.255:67 goes to DHCP only', (t) => {
  const { rig, a } = one();
  const group = (mac: string, dst: string, srcPort: number, dstPort: number): Uint8Array =>
    ethernet(
      mac,
      a.mac,
      0x0800,
      ipv4({ src: a.ip, dst, protocol: 17 }, udp({ src: a.ip, dst, srcPort, dstPort }, [1])),
    );
  const notRelayed = [
    group(BROADCAST, '255.255.255.255', 137, 137),
    group(BROADCAST, '192.168.65.255', 137, 137),
    group(BROADCAST, '192.168.65.0', 137, 137),
    group(BROADCAST, '255.255.255.255', 5000, 67),
    group('01:00:5e:00:00:fb', '224.0.0.251', 5353, 5353),
    group('01:00:5e:7f:ff:fa', '239.255.255.250', 1900, 1900),
  ];
  for (const frame of notRelayed) t.same(a.send(frame), []);
  t.same(rig.drops(), { UdpNotRelayed: notRelayed.length });
  t.same(rig.heard, []);
  a.send(group(BROADCAST, '255.255.255.255', 68, 67), group(BROADCAST, '192.168.65.255', 68, 67));
  t.same(
    rig.heard.map((h) => h.dst),
    ['255.255.255.255:67', '192.168.65.255:67'],
  );
  t.end();
});

t.test('UDP-05 in a /31 there is no broadcast address (RFC 3021)', (t) => {
  const rig = new Rig({ network: '192.168.65.0/31', hostAlias: false });
  const a = rig.vm(0);
  t.match(a.send(a.udp(GATEWAY, 5000, 99, [1])), []);
  t.same(
    rig.heard.map((h) => h.dst),
    [`${GATEWAY}:99`],
  );
  t.same(rig.drops(), {});
  t.end();
});

t.test('a link that does not drain: the sender is told, nothing waits, what went is counted right', (t) => {
  const { rig, a } = one();
  a.egress.refusing = true;
  const before = rig.slab.usedBytes;
  for (let i = 0; i < 100; i++) {
    const length = i % 2 === 0 ? 100 : 5000;
    t.notOk(
      rig.stack.udp.sendDatagram(address(OUTSIDE), 53, address(a.ip), 5000, payloadOf(length), 0, length, rig.now),
    );
  }
  t.same(rig.drops(), { LinkTxFull: 100 });
  t.equal(rig.stack.stats.datagramsToGuest, 0);
  t.equal(rig.slab.usedBytes, before);
  t.equal(rig.stack.neighbours.heldBytes, 0);
  a.egress.refusing = false;
  t.equal(deliver(rig, a, payloadOf(10)).length, 1);
  t.equal(rig.stack.stats.datagramsToGuest, 1);
  t.end();
});

t.test('a datagram to a guest that nobody knows does not grow anything for ever', (t) => {
  const { rig } = one();
  for (let i = 0; i < 10_000; i++) {
    const guest = address(`192.168.65.${10 + (i % 200)}`);
    rig.stack.udp.sendDatagram(address(OUTSIDE), 53, guest, 5000, payloadOf(1400), 0, 1400, rig.now);
  }
  t.ok(rig.stack.neighbours.heldBytes <= 1024 * 1024);
  t.ok(rig.stack.neighbours.size <= 65);
  rig.advance(5000);
  t.equal(rig.stack.neighbours.heldBytes, 0);
  t.equal(rig.stack.neighbours.size, 1);
  t.end();
});
