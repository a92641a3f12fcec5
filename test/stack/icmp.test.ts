import t from 'tap';
import { ALIAS, address, establish, type FakeVm, GATEWAY, GATEWAY_MAC, OUTSIDE, Rig } from './fake-link.ts';
import { ACK, BROADCAST, ethernet, FIN, icmp, ipv4, RST, reassemble, SYN, udp } from './frames.ts';

function one(options = {}): { rig: Rig; a: FakeVm } {
  const rig = new Rig(options);
  const a = rig.vm(3);
  a.send(a.arp({ targetIp: GATEWAY }));
  return { rig, a };
}

const payloadOf = (length: number): Uint8Array => new Uint8Array(length).map((_, i) => i * 7);

t.test('ICMP-01 echo to the gateway and the host alias: same identifier, sequence number and payload', (t) => {
  const { rig, a } = one();
  const payloads = [0, 1, 56, 1472].map(payloadOf);
  for (const dst of [GATEWAY, ALIAS]) {
    for (const payload of payloads) {
      const [reply, ...more] = a.send(a.ping(dst, payload));
      t.match(reply, {
        dst: a.mac,
        src: GATEWAY_MAC,
        ip: { src: dst, dst: a.ip, ttl: 64 },
        icmp: { type: 0, code: 0, rest: 0x0007_0001 },
      });
      t.same(reply!.icmp!.payload, payload);
      t.same(more, []);
    }
  }
  t.equal(rig.stack.stats.icmpEchoReplies, 8);
  t.same(rig.drops(), {});
  t.end();
});

t.test('ICMP-01 a reply larger than the guest takes is cut; one of a large MTU is not', (t) => {
  const rig = new Rig();
  const a = rig.vm(3, { mtu: 65_520 });
  const whole = a.send(a.ping(GATEWAY, payloadOf(9000)));
  t.equal(whole.length, 1, 'what it sent, it takes');
  t.same(whole[0]!.icmp!.payload, payloadOf(9000));
  t.end();
});

t.test('ICMP-01 no reply to a bad checksum, a broadcast or a group, nor to replies and unknown types', (t) => {
  const { rig, a } = one();
  const send = (message: Uint8Array, dst = GATEWAY): unknown[] => a.send(a.packet({ dst, protocol: 1 }, message));
  t.same(send(icmp(8, 0, 1, [1], true)), []);
  t.same(rig.drops(), { IcmpBadChecksum: 1 });
  t.same(send(new Uint8Array([8, 0, 0xf7])), []);
  t.same(rig.drops(), { IcmpMalformed: 1 });
  for (const type of [0, 13, 15, 17, 9, 10, 42, 255]) t.same(send(icmp(type, 0, 1, payloadOf(20))), [], `type ${type}`);
  t.same(rig.drops(), { IcmpUnhandled: 8 });
  const groups = [
    [BROADCAST, '255.255.255.255'],
    [BROADCAST, '192.168.65.255'],
    ['01:00:5e:00:00:01', '224.0.0.1'],
  ] as const;
  for (const [mac, dst] of groups) {
    t.same(a.send(ethernet(mac, a.mac, 0x0800, ipv4({ src: a.ip, dst, protocol: 1 }, icmp(8, 0, 1, [1])))), [], dst);
  }
  t.end();
});

t.test('ICMP-02 echo to the outside, other guests and unused addresses is never answered from here', (t) => {
  const { rig, a } = one();
  for (const dst of [OUTSIDE, '192.168.65.4', '192.168.65.99', '10.0.0.1']) t.same(a.send(a.ping(dst)), [], dst);
  t.equal(rig.stack.stats.icmpEchoReplies, 0);
  const without = one({ hostAlias: false });
  t.same(without.a.send(without.a.ping(ALIAS)), []);
  t.end();
});

t.test('ICMP-03 no error about errors, later fragments, broadcasts, groups', (t) => {
  const { rig, a } = one();
  rig.takesDatagram = false;
  const quote = a.udp(OUTSIDE, 1, 2, [1]).subarray(14);
  for (const type of [3, 4, 5, 11, 12]) {
    t.same(a.send(a.packet({ dst: OUTSIDE, protocol: 1, ttl: 1 }, icmp(type, 0, 0, quote))), [], `about type ${type}`);
    t.same(a.send(a.packet({ dst: GATEWAY, protocol: 1 }, icmp(type, 0, 0, quote))), [], `about type ${type}`);
  }
  const broadcast = (dst: string, port: number): Uint8Array =>
    ethernet(
      BROADCAST,
      a.mac,
      0x0800,
      ipv4({ src: a.ip, dst, protocol: 17 }, udp({ src: a.ip, dst, srcPort: 68, dstPort: port }, [1])),
    );
  t.same(a.send(broadcast('255.255.255.255', 9), broadcast('192.168.65.255', 9), broadcast('192.168.65.0', 9)), []);
  t.same(
    a.send(ethernet(BROADCAST, a.mac, 0x0800, ipv4({ src: a.ip, dst: '255.255.255.255', protocol: 99 }, [1]))),
    [],
  );
  t.equal(rig.stack.stats.icmpErrorsToGuest, 0);
  t.match(a.send(a.udp(GATEWAY, 1, 9, [1]))[0]?.icmp, { type: 3, code: 3 }, 'about the same to us, one');
  t.end();
});

t.test('ICMP-04 errors are limited in number and size, and quote header and data of the packet', (t) => {
  const { rig, a } = one();
  rig.takesDatagram = false;
  const frame = a.packet(
    { dst: GATEWAY, protocol: 17, options: [1, 1, 1, 1] },
    udp({ src: a.ip, dst: GATEWAY, srcPort: 5, dstPort: 9 }, payloadOf(1000)),
  );
  const [error] = a.send(frame);
  t.equal(error!.ip!.bytes.length, 576);
  t.same(error!.icmp!.payload, frame.subarray(14, 14 + 548));
  const small = a.udp(GATEWAY, 5, 9, []);
  t.same(a.send(small)[0]!.icmp!.payload, small.subarray(14), 'all of a small one');
  let errors = 2;
  for (let i = 0; i < 500; i++) errors += a.send(small).length;
  t.equal(errors, 50, 'a burst');
  t.equal(rig.drops().IcmpRateLimited, 452);
  rig.advance(100);
  for (let i = 0; i < 500; i++) errors += a.send(small).length;
  t.equal(errors, 60, 'and 100 a second');
  const b = rig.vm(4);
  t.equal(b.send(b.udp(GATEWAY, 5, 9, [])).length, 1, 'each VM has its own');
  t.end();
});

t.test('ICMP-05 what the host says of a datagram reaches the guest, about the datagram it sent', (t) => {
  const { rig, a } = one();
  const sent = a.udp(OUTSIDE, 5000, 53, payloadOf(100));
  a.send(sent);
  for (const [code, mtu] of [
    [3, 0],
    [4, 1400],
    [0, 0],
    [1, 0],
    [13, 0],
  ] as const) {
    rig.stack.udp.sendUnreachable(code, mtu, address(a.ip), 5000, address(OUTSIDE), 53, 100, rig.now);
    rig.turn();
    const [error, ...more] = a.take();
    t.match(error, { dst: a.mac, ip: { src: GATEWAY, dst: a.ip }, icmp: { type: 3, code, rest: mtu } });
    t.same(more, []);
    const quote = error!.icmp!.payload;
    t.equal(quote.length, 28);
    t.same(quote.subarray(12, 26), sent.subarray(26, 40), 'addresses, ports and length');
    t.same(quote.subarray(2, 4), sent.subarray(16, 18), 'total length');
  }
  rig.stack.udp.sendUnreachable(3, 0, address('192.168.65.99'), 5000, address(OUTSIDE), 53, 100, rig.now);
  rig.turn();
  t.same(a.take(), [], 'nobody to tell');
  t.end();
});

t.test('ICMP-05 a SYN that the host could not follow: unreachable with the code of its reason, or RST', (t) => {
  const { rig, a } = one();
  const codes = { 'net-unreachable': 0, 'host-unreachable': 1, prohibited: 13 } as const;
  let srcPort = 1000;
  for (const [reason, code] of Object.entries(codes)) {
    rig.onSyn = (owner) => owner.flow.refuse(reason as keyof typeof codes, rig.now);
    const syn = a.tcp(OUTSIDE, { srcPort: ++srcPort, dstPort: 80, seq: 77, flags: SYN });
    const [error, ...more] = a.send(syn);
    t.match(error?.icmp, { type: 3, code });
    const quote = error!.icmp!.payload;
    t.same(quote.subarray(12, 28), syn.subarray(26, 42), 'addresses, ports, sequence number');
    t.same(more, []);
  }
  rig.onSyn = (owner) => owner.flow.refuse('refused', rig.now);
  const [reset] = a.send(a.tcp(OUTSIDE, { srcPort: 9, dstPort: 80, seq: 77, flags: SYN }));
  t.match(reset?.tcp, { flags: RST | ACK, seq: 0, ack: 78 });
  t.equal(rig.stack.tcp.table.size, 0);
  t.equal(rig.stack.tcp.opening, 0);
  t.equal(a.port.flows, 0);
  t.end();
});

t.test(
  'RFC 1191, RFC 5927 an error of the guest about our segment: too big is believed if it fits, a hard one resets nothing',
  (t) => {
    const { rig, a } = one();
    const talk = establish(a);
    const { tcp } = rig.stack.stats;
    talk.owner.flow.write(payloadOf(1460), 0, 1460, rig.now);
    rig.stack.onEndTurn(rig.now);
    const [data] = a.take();
    t.equal(data!.tcp!.payload.length, 1460);
    const quote = data!.ip!.bytes.slice(0, 28);
    const error = (type: number, code: number, rest: number, q = quote): void => {
      t.same(
        a.send(a.packet({ dst: GATEWAY, protocol: 1 }, icmp(type, code, rest, q))).filter((f) => f.icmp !== undefined),
        [],
      );
    };
    error(3, 3, 0);
    error(3, 2, 0);
    error(11, 0, 0);
    error(12, 0, 0);
    t.equal(talk.owner.closedWith, undefined);
    const old = quote.slice();
    old[24] = old[24]! ^ 0x80;
    error(3, 4, 1000, old);
    error(3, 4, 1000, quote.subarray(0, 27));
    t.equal(tcp.icmpAccepted, 0, 'a sequence number that is not in flight, a short quote');
    a.input(a.packet({ dst: GATEWAY, protocol: 1 }, icmp(3, 4, 1000, quote)));
    a.port.endTurn(rig.now);
    t.equal(tcp.icmpAccepted, 1);
    const again = a.take();
    t.ok(again.length >= 2 && again.every((f) => f.ip!.bytes.length <= 1000), 'sent again in smaller pieces');
    t.same(rig.bugs, []);
    t.end();
  },
);

t.test('RFC 1191 every byte in flight is sent again in pieces that fit, the FIN once, and no empty segments', (t) => {
  const { rig, a } = one();
  const talk = establish(a);
  talk.owner.flow.write(payloadOf(4000), 0, 4000, rig.now);
  rig.turn();
  talk.owner.flow.shutdown(rig.now);
  rig.turn();
  const quote = a.take()[0]!.ip!.bytes.slice(0, 28);
  const again = a.send(a.packet({ dst: GATEWAY, protocol: 1 }, icmp(3, 4, 588, quote))).map((f) => f.tcp!);
  const bytes = new Map<number, number>();
  for (const s of again) for (const [i, b] of s.payload.entries()) bytes.set((s.seq - talk.ack + i) | 0, b);
  t.same(
    [...bytes.keys()].sort((x, y) => x - y),
    Array.from({ length: 4000 }, (_, i) => i),
  );
  t.ok([...bytes].every(([i, b]) => b === payloadOf(4000)[i]));
  t.equal(again.filter((s) => s.payload.length === 0 && !(s.flags & FIN)).length, 0);
  t.equal(again.filter((s) => s.flags & FIN).length, 1);
  t.end();
});

t.test('a link that does not drain: nothing of ICMP waits, and it is counted', (t) => {
  const { rig, a } = one();
  rig.takesDatagram = false;
  a.egress.refusing = true;
  const before = rig.slab.usedBytes;
  for (let i = 0; i < 100; i++) t.same(a.send(a.ping(GATEWAY), a.udp(GATEWAY, 1, 9, [1])), []);
  t.equal(rig.stack.stats.icmpEchoReplies, 0);
  t.equal(rig.stack.stats.icmpErrorsToGuest, 0);
  t.equal(rig.drops().LinkTxFull, 100 + 50, 'replies, and the errors that the rate allowed');
  t.equal(rig.slab.usedBytes, before);
  a.egress.refusing = false;
  t.equal(a.send(a.ping(GATEWAY)).length, 1);
  t.same(reassemble(a.send(a.ping(GATEWAY))).icmp?.type, 0);
  t.end();
});
