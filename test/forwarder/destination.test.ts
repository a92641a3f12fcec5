import t from 'tap';
import { Destination, Destinations, refusalOf } from '../../src/forwarder/destination.ts';
import {
  errnoOf,
  isStaleRoute,
  NO_ICMP,
  plateauBelow,
  refuseReasonOf,
  unreachableCodeOf,
  unreachableCodeOfReason,
} from '../../src/forwarder/errno.ts';
import { Cidr4, parseAddress } from '../../src/ip/address.ts';
import { RefuseReason } from '../../src/stack/ports.ts';

const ip = (text: string) => parseAddress(text)!;
const options = {
  network: Cidr4.parse('192.168.65.0/24')!,
  gateway: ip('192.168.65.1'),
  hostAlias: ip('192.168.65.254'),
};

t.test('each special address has its kind and its refusal', (t) => {
  const d = new Destinations(options);
  const rows: [string, Destination, RefuseReason | undefined][] = [
    ['1.1.1.1', Destination.Outside, undefined],
    ['10.0.0.1', Destination.Outside, undefined],
    ['192.168.66.1', Destination.Outside, undefined],
    ['2001:db8::1', Destination.Outside, undefined],
    ['192.168.65.254', Destination.HostLoopback, undefined],
    ['192.168.65.1', Destination.Gateway, RefuseReason.Refused],
    ['192.168.65.77', Destination.Unused, RefuseReason.HostUnreachable],
    ['192.168.65.0', Destination.Unused, RefuseReason.HostUnreachable],
    ['192.168.65.255', Destination.Broadcast, RefuseReason.NetUnreachable],
    ['255.255.255.255', Destination.Broadcast, RefuseReason.NetUnreachable],
    ['127.0.0.1', Destination.Loopback, RefuseReason.NetUnreachable],
    ['127.255.255.255', Destination.Loopback, RefuseReason.NetUnreachable],
    ['::1', Destination.Loopback, RefuseReason.NetUnreachable],
    ['169.254.169.254', Destination.LinkLocal, RefuseReason.Prohibited],
    ['fe80::1', Destination.LinkLocal, RefuseReason.Prohibited],
    ['febf::1', Destination.LinkLocal, RefuseReason.Prohibited],
    ['224.0.0.251', Destination.Multicast, RefuseReason.NetUnreachable],
    ['239.255.255.250', Destination.Multicast, RefuseReason.NetUnreachable],
    ['ff02::1', Destination.Multicast, RefuseReason.NetUnreachable],
    ['0.0.0.0', Destination.Reserved, RefuseReason.NetUnreachable],
    ['240.0.0.1', Destination.Reserved, RefuseReason.NetUnreachable],
    ['::', Destination.Reserved, RefuseReason.NetUnreachable],
  ];
  for (const [text, kind, reason] of rows) {
    t.equal(d.classify(ip(text)), kind, text);
    t.equal(refusalOf(kind), reason, `${text} ${reason}`);
  }
  t.equal(d.dialAddress(ip('192.168.65.254'), Destination.HostLoopback).toString(), '127.0.0.1');
  t.equal(d.dialAddress(ip('1.1.1.1'), Destination.Outside).toString(), '1.1.1.1');
  t.end();
});

t.test('the host loopback is seen as the alias; without one it cannot be reached nor seen', (t) => {
  const d = new Destinations(options);
  t.equal(d.seenFromGuest(ip('127.0.0.1'))?.toString(), '192.168.65.254');
  t.equal(d.seenFromGuest(ip('1.1.1.1'))?.toString(), '1.1.1.1');
  t.equal(d.seenFromGuest(ip('192.168.65.9')), undefined, "a host-side address in the guests' network");
  t.equal(d.seenFromGuest(ip('224.0.0.1')), undefined);
  const none = new Destinations({ ...options, hostAlias: undefined });
  t.equal(none.classify(ip('192.168.65.254')), Destination.Unused);
  t.equal(none.seenFromGuest(ip('127.0.0.1')), undefined);
  t.end();
});

t.test('errno: what a guest is told', (t) => {
  const rows: [string, RefuseReason, number][] = [
    ['ECONNREFUSED', RefuseReason.Refused, 3],
    ['ETIMEDOUT', RefuseReason.HostUnreachable, 1],
    ['EHOSTUNREACH', RefuseReason.HostUnreachable, 1],
    ['ENETUNREACH', RefuseReason.NetUnreachable, 0],
    ['EADDRNOTAVAIL', RefuseReason.NetUnreachable, 0],
    ['EACCES', RefuseReason.Prohibited, 13],
    ['EPERM', RefuseReason.Prohibited, 13],
    ['EMFILE', RefuseReason.Refused, NO_ICMP],
    ['ENOBUFS', RefuseReason.Refused, NO_ICMP],
    ['EMSGSIZE', RefuseReason.Refused, 4],
    ['ESOMETHING', RefuseReason.Refused, NO_ICMP],
    ['constructor', RefuseReason.Refused, NO_ICMP],
  ];
  for (const [errno, reason, code] of rows) {
    t.equal(refuseReasonOf(errno), reason, errno);
    t.equal(unreachableCodeOf(errno), code, errno);
  }
  t.same(Object.values(RefuseReason).map(unreachableCodeOfReason), [3, 0, 1, 13]);
  t.equal(errnoOf(Object.assign(new Error('x'), { code: 'EPERM' })), 'EPERM');
  for (const odd of [undefined, null, 5, new Error('x'), { code: 7 }]) t.equal(errnoOf(odd), '');
  t.ok(isStaleRoute('ENETUNREACH') && isStaleRoute('EINVAL') && !isStaleRoute('ECONNREFUSED'));
  t.same([70000, 9217, 9216, 1500, 577, 576, 100].map(plateauBelow), [32000, 9216, 8166, 1492, 576, 576, 576]);
  t.end();
});
