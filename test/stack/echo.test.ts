// Echo requests to the outside at the border of the stack: what whoever carries them is handed, and what the guest gets of the answers.

import t from 'tap';
import type { EchoRequest } from '../../src/stack/ports.ts';
import { ALIAS, address, type FakeVm, GATEWAY, OUTSIDE, Rig } from './fake-link.ts';
import { BROADCAST, ethernet, icmp, ipv4 } from './frames.ts';

interface Carried extends EchoRequest {
  packet: Uint8Array;
}

function carrying(takes = true): { rig: Rig; a: FakeVm; carried: Carried[] } {
  const rig = new Rig();
  const a = rig.vm(3);
  a.send(a.arp({ targetIp: GATEWAY }));
  const carried: Carried[] = [];
  rig.stack.echo.acceptor = {
    onEcho: (request, buf, off, len) => {
      carried.push({ ...request, packet: buf.slice(off, off + len) });
      return takes;
    },
  };
  return { rig, a, carried };
}

const data = (length: number): Uint8Array => new Uint8Array(length).map((_, i) => i * 7 + 1);
const ROUTER = '198.51.100.7';

t.test('ICMP-02 a request to the outside is handed on as it came, once', (t) => {
  const { rig, a, carried } = carrying();
  t.same(a.send(a.ping(OUTSIDE, data(56), 9)), [], 'nothing is answered from here');
  t.equal(carried.length, 1);
  const [one] = carried;
  t.match(
    { id: one!.id, seq: one!.seq, ttl: one!.ttl, dataLength: one!.dataLength },
    { id: 7, seq: 1, ttl: 9, dataLength: 56 },
  );
  t.equal(`${one!.guest} ${one!.remote}`, `${a.ip} ${OUTSIDE}`);
  t.equal(one!.dontFragment, false);
  t.equal(one!.packet.length, 20 + 8 + 56);
  t.same(one!.packet.subarray(28), data(56));
  a.send(a.packet({ dst: OUTSIDE, protocol: 1, flags: 0x4000 }, icmp(8, 0, 0x0007_0002, [])));
  t.match(carried[1], { dontFragment: true, dataLength: 0, seq: 2 });
  t.same(rig.drops(), {});
  t.end();
});

t.test('ICMP-02 what nobody carries is dropped and counted; our own addresses are answered as ever', (t) => {
  const { rig, a, carried } = carrying(false);
  t.same(a.send(a.ping(OUTSIDE)), []);
  t.same(rig.drops(), { IcmpUnhandled: 1 });
  for (const ours of [GATEWAY, ALIAS]) t.match(a.send(a.ping(ours))[0]?.icmp, { type: 0 }, ours);
  t.equal(carried.length, 1);
  rig.stack.claimAddress(address('192.168.65.20').v4);
  t.match(a.send(a.ping('192.168.65.20'))[0]?.icmp, { type: 0 }, 'and those that a service has');
  t.equal(carried.length, 1);
  t.end();
});

t.test('IP4-03 a TTL of 1 ends at the gateway, which says so and carries nothing', (t) => {
  const { rig, a, carried } = carrying();
  const [error] = a.send(a.ping(OUTSIDE, data(8), 1));
  t.match(error, { ip: { src: GATEWAY }, icmp: { type: 11, code: 0 } });
  t.equal(carried.length, 0);
  t.same(rig.drops(), { Ip4TtlZero: 1 });
  t.end();
});

t.test('a request in fragments is handed on whole', (t) => {
  const { a, carried } = carrying();
  const message = icmp(8, 0, 0x0007_0001, data(3000));
  const parts = [0, 1480, 2960].map((at) => {
    const more = at + 1480 < message.length ? 0x2000 : 0;
    return a.packet({ dst: OUTSIDE, protocol: 1, id: 99, flags: more | (at / 8) }, message.subarray(at, at + 1480));
  });
  a.send(...parts);
  t.equal(carried.length, 1);
  t.equal(carried[0]!.dataLength, 3000);
  t.same(carried[0]!.packet.subarray(28), data(3000));
  t.end();
});

t.test("ICMP-02 the reply has the request's identifier, number and data, its sender and its TTL", (t) => {
  const { rig, a, carried } = carrying();
  a.send(a.ping(OUTSIDE, data(57)));
  const { vm, packet } = carried[0]!;
  t.ok(rig.stack.echo.sendEchoReply(vm, packet, address(OUTSIDE), 61, rig.now));
  rig.turn();
  const [reply, ...more] = a.take();
  t.match(reply, { ip: { src: OUTSIDE, dst: a.ip, ttl: 61 }, icmp: { type: 0, code: 0, rest: 0x0007_0001 } });
  t.same(reply!.icmp!.payload, data(57));
  t.same(more, []);
  t.equal(rig.stack.stats.icmpEchoesCarried, 1);
  t.end();
});

t.test('ICMP-02 errors come from the router that sent them and quote the request', (t) => {
  const { rig, a, carried } = carrying();
  const frame = a.ping(OUTSIDE, data(700), 5);
  a.send(frame);
  const { vm, packet } = carried[0]!;
  const { echo } = rig.stack;
  echo.sendEchoExceeded(vm, packet, address(ROUTER), 0, rig.now);
  echo.sendEchoUnreachable(vm, packet, address(ROUTER), 13, 0, rig.now);
  echo.sendEchoUnreachable(vm, packet, undefined, 4, 1300, rig.now);
  rig.turn();
  const [exceeded, prohibited, narrow] = a.take();
  t.match(exceeded, { ip: { src: ROUTER, dst: a.ip }, icmp: { type: 11, code: 0, rest: 0 } });
  t.same(exceeded!.icmp!.payload, frame.subarray(14, 14 + 548), 'as much as 576 bytes allow');
  t.match(prohibited, { ip: { src: ROUTER }, icmp: { type: 3, code: 13, rest: 0 } });
  t.match(narrow, { ip: { src: GATEWAY }, icmp: { type: 3, code: 4, rest: 1300 } });
  t.end();
});

t.test('an answer for a VM that has gone, or whose address another has now, goes nowhere', (t) => {
  const { rig, a, carried } = carrying();
  a.send(a.ping(OUTSIDE));
  const { vm, packet } = carried[0]!;
  const b = rig.vm(4);
  rig.advance(1000);
  b.send(
    ethernet('f6:16:36:bc:f9:c6', b.mac, 0x0800, ipv4({ src: a.ip, dst: GATEWAY, protocol: 1 }, icmp(8, 0, 1, [1]))),
  );
  t.notOk(
    rig.stack.echo.sendEchoReply(vm, packet, address(OUTSIDE), 61, rig.now),
    'another VM speaks with that address',
  );
  rig.stack.echo.sendEchoExceeded(vm, packet, address(ROUTER), 0, rig.now);
  a.port.close(rig.now);
  t.notOk(rig.stack.echo.sendEchoReply(vm, packet, address(OUTSIDE), 61, rig.now));
  rig.turn();
  t.same(a.take(), []);
  t.same(b.take(), []);
  t.end();
});

t.test('ICMP-03 ICMP-04 errors about echo keep to the limits and rules of all others', (t) => {
  const { rig, a, carried } = carrying();
  a.send(a.ping(OUTSIDE));
  const { vm, packet } = carried[0]!;
  for (let i = 0; i < 80; i++) rig.stack.echo.sendEchoExceeded(vm, packet, address(ROUTER), 0, rig.now);
  rig.turn();
  t.equal(a.take().length, 50, 'a burst');
  t.equal(rig.drops().IcmpRateLimited, 30);
  const broadcast = ipv4({ src: a.ip, dst: '192.168.65.255', protocol: 1, ttl: 1 }, icmp(8, 0, 1, [1]));
  t.same(a.send(ethernet(BROADCAST, a.mac, 0x0800, broadcast)), [], 'nor about a broadcast');
  const broken = packet.slice();
  broken[10]! ^= 1;
  t.notOk(rig.stack.echo.sendEchoReply(vm, broken, address(OUTSIDE), 61, rig.now), 'no packet of a guest');
  t.end();
});
