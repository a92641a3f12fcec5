import t from 'tap';
import { ALIAS, address, type FakeVm, GATEWAY, GATEWAY_MAC, OUTSIDE, Rig } from './fake-link.ts';
import { BROADCAST, ethernet, icmp, ipv4, reassemble, udp } from './frames.ts';

function one(options = {}): { rig: Rig; a: FakeVm } {
  const rig = new Rig(options);
  const a = rig.vm(3);
  a.send(a.arp({ targetIp: GATEWAY }));
  return { rig, a };
}

const echo = icmp(8, 0, 0x0007_0001, [1, 2, 3, 4]);
const payloadOf = (length: number): Uint8Array => new Uint8Array(length).map((_, i) => i * 7);

/** A datagram cut at the given places, its fragments in frames. */
function cut(
  vm: FakeVm,
  dst: string,
  id: number,
  protocol: number,
  payload: Uint8Array,
  ...places: number[]
): Uint8Array[] {
  const ends = [...places, payload.length];
  return ends.map((end, i) => {
    const start = i === 0 ? 0 : ends[i - 1]!;
    const flags = (start >>> 3) | (end < payload.length ? 0x2000 : 0);
    return vm.packet({ dst, protocol, id, flags }, payload.subarray(start, end));
  });
}

t.test('IP4-01 wrong version, lengths and checksum are dropped without an answer', (t) => {
  const { rig, a } = one();
  const bad: [Parameters<FakeVm['packet']>[0], string][] = [
    [{ protocol: 1, dst: GATEWAY, version: 6 }, 'Ip4Malformed'],
    [{ protocol: 1, dst: GATEWAY, version: 0 }, 'Ip4Malformed'],
    [{ protocol: 1, dst: GATEWAY, ihl: 4 }, 'Ip4Malformed'],
    [{ protocol: 1, dst: GATEWAY, ihl: 15 }, 'Ip4Malformed'],
    [{ protocol: 1, dst: GATEWAY, totalLength: 19 }, 'Ip4Malformed'],
    [{ protocol: 1, dst: GATEWAY, totalLength: 33 }, 'Ip4Malformed'],
    [{ protocol: 1, dst: GATEWAY, badChecksum: true }, 'Ip4BadChecksum'],
  ];
  for (const [fields, drop] of bad) {
    t.same(a.send(a.packet(fields, echo)), []);
    t.same(rig.drops(), { [drop]: 1 }, JSON.stringify(fields));
  }
  t.end();
});

t.test('IP4-01 padding behind the total length is cut', (t) => {
  const { a } = one();
  const padded = new Uint8Array([...a.packet({ protocol: 1, dst: GATEWAY }, echo), 9, 9, 9, 9, 9]);
  const [reply] = a.send(padded);
  t.same([...reply!.icmp!.payload], [1, 2, 3, 4]);
  t.end();
});

t.test('IP4-02 martian sources are dropped: not one is answered or forwarded', (t) => {
  const { rig, a } = one();
  const sources = ['0.0.0.0', '0.1.2.3', '127.0.0.1', '224.0.0.1', '240.0.0.1', '255.255.255.255', '192.168.65.255'];
  for (const src of [...sources, '192.168.65.0', GATEWAY, ALIAS, OUTSIDE, '192.168.66.3']) {
    for (const dst of [GATEWAY, OUTSIDE]) {
      t.same(a.send(a.packet({ src, dst, protocol: 1 }, echo)), [], src);
      a.send(a.packet({ src, dst, protocol: 17 }, udp({ src, dst, srcPort: 1, dstPort: 53 }, [1])));
      // DHCP's ports make nobody a client of another server.
      a.send(a.packet({ src, dst: OUTSIDE, protocol: 17 }, udp({ src, dst: OUTSIDE, srcPort: 68, dstPort: 67 }, [1])));
    }
    t.same(rig.drops(), { Ip4Martian: 6 }, src);
  }
  t.same(rig.heard, []);
  t.equal(rig.stack.neighbours.size, 1, 'only its own address was learned');
  t.end();
});

t.test('IP4-02 an address of the network goes with a MAC of its kind (RFC 1122 3.3.6)', (t) => {
  const { rig, a } = one();
  const frame = (mac: string, dst: string): Uint8Array =>
    ethernet(
      mac,
      a.mac,
      0x0800,
      ipv4({ src: a.ip, dst, protocol: 17 }, udp({ src: a.ip, dst, srcPort: 1, dstPort: 53 }, [1])),
    );
  for (const dst of [OUTSIDE, GATEWAY]) a.send(frame(BROADCAST, dst), frame('01:00:5e:00:00:01', dst));
  for (const dst of ['255.255.255.255', '192.168.65.255', '192.168.65.0', '224.0.0.251'])
    a.send(frame(GATEWAY_MAC, dst));
  t.same(rig.drops(), { Ip4Martian: 8 });
  t.same(rig.heard, []);
  t.end();
});

t.test('IP4-03 TTL 0 is dropped; TTL 1 towards the outside is time exceeded, from the gateway', (t) => {
  const { rig, a } = one();
  for (const dst of [GATEWAY, OUTSIDE]) t.same(a.send(a.udp(dst, 9, 9, [1], 0)), []);
  t.same(rig.drops(), { Ip4TtlZero: 2 });
  const frame = a.udp(OUTSIDE, 40_000, 33_434, [1, 2, 3], 1);
  const [error] = a.send(frame);
  t.match(error, { dst: a.mac, ip: { src: GATEWAY, dst: a.ip, ttl: 64 }, icmp: { type: 11, code: 0, rest: 0 } });
  t.same(error!.icmp!.payload, frame.subarray(14), 'quoting the packet');
  t.same(rig.heard, [], 'not forwarded');
  t.match(a.send(a.ping(OUTSIDE, [1], 1))[0]?.icmp, { type: 11, code: 0 });
  t.end();
});

t.test('IP4-03 what ends here takes TTL 1: echo, datagrams to the gateway and host alias, TCP', (t) => {
  const { rig, a } = one();
  t.match(a.send(a.ping(GATEWAY, [1], 1))[0], { icmp: { type: 0 }, ip: { ttl: 64 } });
  t.same(a.send(a.udp(GATEWAY, 1, 2, [1], 1), a.udp(ALIAS, 1, 2, [1], 1)), []);
  t.equal(rig.heard.length, 2);
  const syn = a.tcp(OUTSIDE, { srcPort: 1, dstPort: 2, seq: 3, flags: 2 });
  const low = a.packet({ protocol: 6, dst: OUTSIDE, ttl: 1 }, syn.subarray(34));
  t.match(a.send(low)[0], { tcp: { flags: 0x12 }, ip: { ttl: 64 } });
  t.end();
});

t.test('IP4-04 options are skipped, broken ones and source routes drop the packet; none are emitted', (t) => {
  const { rig, a } = one();
  const ping = (options: number[]): Uint8Array => a.packet({ protocol: 1, dst: GATEWAY, options }, echo);
  for (const options of [
    [1, 1, 1, 0],
    [7, 4, 4, 0],
    [0x44, 4, 5, 0],
    [0x94, 4, 0, 0],
    [99, 2, 1, 0],
    [0, 131, 3, 4],
  ]) {
    t.equal(a.send(ping(options))[0]?.icmp?.type, 0, options.join(' '));
  }
  for (const options of [
    [7, 0, 0, 0],
    [7, 1, 0, 0],
    [7, 5, 4, 0],
    [1, 1, 1, 7],
    [131, 3, 4, 0],
    [137, 3, 4, 0],
    [1, 131, 3, 4],
  ]) {
    t.same(a.send(ping(options)), [], options.join(' '));
    t.same(rig.drops(), { Ip4BadOption: 1 });
  }
  t.end();
});

t.test('IP4-05 ID 0 and DF where nothing is cut; otherwise an ID of its own for each datagram', (t) => {
  const { rig, a } = one();
  const send = (length: number): void => {
    rig.stack.udp.sendDatagram(address(OUTSIDE), 53, address(a.ip), 5000, payloadOf(length), 0, length, rig.now);
  };
  send(1472);
  rig.stack.onEndTurn(rig.now);
  t.match(a.take(), [{ ip: { id: 0, dontFragment: true, more: false } }]);
  const ids = new Set<number>();
  for (let i = 0; i < 1000; i++) {
    send(1473);
    rig.stack.onEndTurn(rig.now);
    const [first, second] = a.take();
    t.ok(first!.ip!.id === second!.ip!.id && !first!.ip!.dontFragment && !second!.ip!.dontFragment);
    ids.add(first!.ip!.id);
  }
  t.equal(ids.size, 1000);
  t.end();
});

t.test('IP4-06 fragments in order, reversed, shuffled and doubled make the datagram whole', (t) => {
  const { rig, a } = one();
  const payload = udp({ src: a.ip, dst: OUTSIDE, srcPort: 5, dstPort: 6 }, payloadOf(3000));
  const orders = [
    [0, 1, 2],
    [2, 1, 0],
    [1, 2, 0],
    [0, 0, 1, 1, 2],
    [2, 2, 0, 1],
  ];
  orders.forEach((order, id) => {
    const parts = cut(a, OUTSIDE, id, 17, payload, 1480, 2960);
    for (const i of order) a.input(parts[i]!, id % 2 === 1);
    t.same(
      rig.heard.splice(0).map((h) => h.payload),
      [payloadOf(3000)],
      order.join(' '),
    );
    a.port.endTurn(rig.now);
  });
  t.same(rig.drops(), {});
  t.equal(rig.stack.reassembler.size, 0);
  t.equal(rig.stack.reassembler.bytes, 0);
  const whole = icmp(8, 0, 1, payloadOf(65_507));
  const places = Array.from({ length: 44 }, (_, i) => (i + 1) * 1480);
  const replies = a.send(...cut(a, GATEWAY, 99, 1, whole, ...places));
  t.same(reassemble(replies).icmp?.payload, payloadOf(65_507), 'IP4-06, ICMP-01: 65,535 bytes there and back');
  t.end();
});

t.test('IP4-07 an overlap ends the datagram: no reply, whatever comes after', (t) => {
  const { rig, a } = one();
  const message = icmp(8, 0, 1, payloadOf(2992));
  const part = (id: number, start: number, end: number): Uint8Array =>
    a.packet(
      { dst: GATEWAY, protocol: 1, id, flags: (start >>> 3) | (end < 3000 ? 0x2000 : 0) },
      message.subarray(start, end),
    );
  t.same(a.send(part(1, 0, 1480), part(1, 800, 1200), part(1, 1480, 2960), part(1, 2960, 3000)), [], 'inside');
  t.same(a.send(part(2, 0, 1480), part(2, 1400, 2960), part(2, 2960, 3000), part(2, 1480, 2960)), [], 'partly');
  t.equal(rig.drops().FragOverlap, 6);
  t.equal(rig.stack.reassembler.bytes, 0, 'its memory is free at once');
  rig.advance(31_000);
  t.same(a.take(), [], 'nor an error when its time is up');
  t.equal(a.send(part(1, 0, 1480), part(1, 1480, 3000)).length, 3, 'the next one with this ID is a new one');
  t.end();
});

t.test('IP4-08 ping of death, odd lengths, a moved end, empty and tiny fragments: dropped, nothing thrown', (t) => {
  const { rig, a } = one();
  const bytes = (length: number): Uint8Array => new Uint8Array(length);
  const part = (id: number, offset: number, more: boolean, length: number, protocol = 1): Uint8Array =>
    a.packet({ dst: GATEWAY, protocol, id, flags: (offset >>> 3) | (more ? 0x2000 : 0) }, bytes(length));
  a.send(part(1, 65_528, false, 100), part(2, 0, true, 1001), part(3, 0, true, 0), part(4, 8, false, 0));
  a.send(part(5, 0, true, 16, 6), part(6, 8, false, 40, 6));
  t.same(rig.drops(), { FragMalformed: 6 });
  a.send(part(7, 800, false, 80), part(7, 1600, false, 80));
  a.send(part(8, 800, false, 80), part(8, 1600, true, 80));
  t.same(rig.drops(), { FragOverlap: 2 });
  t.same(a.take(), []);
  t.same(rig.bugs, []);
  t.end();
});

t.test('IP4-09 after 30 s the memory is free; time exceeded code 1 only where fragment 0 was here', (t) => {
  const { rig, a } = one();
  const before = rig.slab.usedBytes;
  const message = udp({ src: a.ip, dst: OUTSIDE, srcPort: 5, dstPort: 6 }, payloadOf(3000));
  const [first] = cut(a, OUTSIDE, 1, 17, message, 1480);
  const [, second] = cut(a, OUTSIDE, 2, 17, message, 1480);
  a.send(first!, second!);
  t.ok(rig.slab.usedBytes > before);
  rig.advance(29_900);
  t.same(a.take(), []);
  rig.advance(200);
  const errors = a.take();
  t.match(errors, [{ ip: { src: GATEWAY }, icmp: { type: 11, code: 1 } }]);
  const quote = errors[0]!.icmp!.payload;
  t.same(quote.subarray(12), first!.subarray(26, 14 + quote.length), 'quoting it');
  t.equal(quote.length, 548);
  t.same(rig.drops(), { FragTimeout: 2 });
  t.equal(rig.slab.usedBytes, before);
  t.equal(rig.stack.nextDeadline(), Number.POSITIVE_INFINITY);
  t.end();
});

t.test('IP4-09, ICMP-03 no time exceeded about a broadcast, a group, an ICMP error, or to a VM that has gone', (t) => {
  const { rig, a } = one();
  const dhcp = (dst: string): Uint8Array => ipv4({ src: a.ip, dst, protocol: 17, flags: 0x2000 }, payloadOf(1480));
  a.send(
    ethernet(BROADCAST, a.mac, 0x0800, dhcp('255.255.255.255')),
    ethernet('01:00:5e:00:00:fb', a.mac, 0x0800, dhcp('224.0.0.251')),
  );
  a.send(a.packet({ dst: GATEWAY, protocol: 1, flags: 0x2000 }, icmp(3, 3, 0, payloadOf(1472))));
  rig.advance(31_000);
  t.same(a.take(), []);
  t.same(rig.drops(), { FragTimeout: 3 });
  const b = rig.vm(4);
  b.send(b.packet({ dst: GATEWAY, protocol: 1, flags: 0x2000 }, payloadOf(1480)));
  b.port.close(rig.now);
  t.equal(rig.stack.reassembler.size, 0);
  rig.advance(31_000);
  t.same(rig.drops(), {});
  t.end();
});

t.test('IP4-10 a flood of fragments of one VM stays within its limits; the others get through', (t) => {
  const { rig, a } = one();
  const b = rig.vm(4);
  b.send(b.arp({ targetIp: GATEWAY }));
  b.take();
  const before = rig.slab.usedBytes;
  const sources = [3, 10, 11, 12, 13, 14, 15, 16];
  const message = icmp(8, 0, 1, payloadOf(2992));
  const parts = cut(b, GATEWAY, 7, 1, message, 1480);
  b.send(parts[0]!);
  for (let i = 0; i < 20_000; i++) {
    const src = `192.168.65.${sources[i % sources.length]}`;
    a.input(
      a.packet({ src, dst: GATEWAY, protocol: 1, id: i & 0xffff, flags: 0x2000 | ((i % 3) * 2000) }, payloadOf(64)),
    );
  }
  a.port.endTurn(rig.now);
  t.ok(rig.stack.reassembler.size <= 256, `${rig.stack.reassembler.size} datagrams`);
  t.ok(rig.slab.usedBytes - before <= 4 * 1024 * 1024 + 65_536, `${rig.slab.usedBytes - before} bytes`);
  t.ok(rig.stack.reassembler.evicted > 19_000);
  t.equal(reassemble(b.send(parts[1]!)).icmp?.payload.length, 2992, 'a datagram of another VM in the middle of it');
  rig.advance(31_000);
  t.equal(rig.slab.usedBytes, before);
  t.end();
});

t.test('IP4-11 datagrams larger than the guest takes go out as fragments that make them whole', (t) => {
  for (const [mtu, told] of [
    [576, false],
    [1500, false],
    [9000, true],
    [65_520, false],
  ] as const) {
    const rig = new Rig();
    const a = rig.vm(3, { mtu, mtuTold: told });
    a.send(a.arp({ targetIp: GATEWAY }));
    for (const length of [0, 1, 548, 549, 1472, 1473, 9000, 65_507]) {
      const payload = payloadOf(length);
      t.ok(rig.stack.udp.sendDatagram(address(OUTSIDE), 53, address(a.ip), 5000, payload, 0, length, rig.now));
      rig.stack.onEndTurn(rig.now);
      const parts = a.take();
      const takes = told ? mtu : Math.min(1500, mtu);
      t.ok(parts.every((f) => f.ip!.bytes.length <= takes));
      t.same(reassemble(parts).udp, { srcPort: 53, dstPort: 5000, checksum: reassemble(parts).udp!.checksum, payload });
      const expected = length + 28 <= takes ? 1 : Math.ceil((length + 8) / ((takes - 20) & ~7));
      t.equal(parts.length, expected, `${length} in ${takes}`);
    }
  }
  t.end();
});

t.test('nothing above 1500 is sent until the VM has shown that it takes it; its own large packet shows it', (t) => {
  const rig = new Rig();
  const a = rig.vm(3, { mtu: 65_520 });
  a.send(a.arp({ targetIp: GATEWAY }));
  const count = (length: number): number => {
    rig.stack.udp.sendDatagram(address(OUTSIDE), 53, address(a.ip), 5000, payloadOf(length), 0, length, rig.now);
    rig.stack.onEndTurn(rig.now);
    return a.take().length;
  };
  t.equal(count(8000), 6);
  a.send(a.udp(OUTSIDE, 1, 2, payloadOf(4000)));
  t.equal(count(4000), 1);
  t.equal(count(8000), 2);
  a.send(
    ...cut(
      a,
      OUTSIDE,
      1,
      17,
      udp({ src: a.ip, dst: OUTSIDE, srcPort: 5, dstPort: 6 }, payloadOf(9000)),
      1480,
      2960,
      4440,
      5920,
      7400,
      8880,
    ),
  );
  t.equal(count(8000), 2, 'a reassembled one shows nothing');
  t.end();
});

t.test('protocols that end nowhere: unreachable where we are the host, silence otherwise', (t) => {
  const { rig, a } = one();
  const [error, ...more] = a.send(a.packet({ dst: GATEWAY, protocol: 132 }, payloadOf(40)));
  t.match(error, { ip: { src: GATEWAY }, icmp: { type: 3, code: 2 } });
  t.same(more, []);
  t.same(
    a.send(a.packet({ dst: OUTSIDE, protocol: 132 }, payloadOf(40)), a.packet({ dst: OUTSIDE, protocol: 2 }, [])),
    [],
  );
  t.same(rig.drops(), { Ip4UnknownProtocol: 3 });
  t.end();
});
