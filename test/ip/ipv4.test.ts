import fc from 'fast-check';
import t from 'tap';
import { setU16 } from '../../src/base/bytes.ts';
import { finish, fold, sumBytes } from '../../src/base/checksum.ts';
import { Drop } from '../../src/base/drop.ts';
import { Cidr4, parseV4 } from '../../src/ip/address.ts';
import { FragmentCursor } from '../../src/ip/fragmenter.ts';
import {
  emitIpv4Header,
  IPV4_DF,
  IPV4_MF,
  IpIds,
  Ipv4View,
  isBroadcastOrGroup,
  isMartianSource,
  PROTO_UDP,
  pseudoHeaderSumV4,
} from '../../src/ip/ipv4.ts';

const ip = (text: string): number => parseV4(text)!;
const SRC = ip('192.168.65.3');
const DST = ip('203.0.113.9');
const view = new Ipv4View();

/** A valid packet of 20 + options + payload bytes at offset 10 of a buffer. */
function packet(options: number[] = [], payload = 8): Uint8Array {
  const headerLength = 20 + options.length;
  const buf = new Uint8Array(10 + headerLength + payload);
  emitIpv4Header(buf, 10, headerLength + payload, 7, 0, 64, PROTO_UDP, SRC, DST);
  buf[10] = 0x40 | (headerLength / 4);
  buf.set(options, 30);
  return reseal(buf);
}

function reseal(buf: Uint8Array): Uint8Array {
  setU16(buf, 20, 0);
  setU16(buf, 20, finish(sumBytes(buf, 10, (buf[10]! & 15) * 4)));
  return buf;
}

function wrapped(buf: Uint8Array, change?: (b: Uint8Array) => void): number {
  change?.(buf);
  return view.wrap(buf, 10, buf.length);
}

t.test('parse(emit(x)) = x, with a right checksum', (t) => {
  const u16 = fc.integer({ min: 0, max: 0xffff });
  const i32 = fc.integer({ min: -0x8000_0000, max: 0x7fff_ffff });
  fc.assert(
    fc.property(u16, u16, u16, fc.integer({ min: 1, max: 255 }), fc.integer({ min: 0, max: 255 }), i32, i32, (...f) => {
      const [len, id, flags, ttl, proto, src, dst] = f;
      const total = 20 + (len % 1000);
      const buf = new Uint8Array(total + 3);
      emitIpv4Header(buf, 3, total, id, flags, ttl, proto, src, dst);
      return (
        view.wrap(buf, 3, buf.length) === Drop.None &&
        fold(sumBytes(buf, 3, 20)) === 0xffff &&
        view.totalLength === total &&
        view.payloadLength === total - 20 &&
        view.id === id &&
        view.ttl === ttl &&
        view.protocol === proto &&
        view.src === src &&
        view.dst === dst &&
        view.dontFragment === ((flags & IPV4_DF) !== 0) &&
        view.moreFragments === ((flags & IPV4_MF) !== 0) &&
        view.fragmentOffset === (flags & 0x1fff) * 8 &&
        view.isFragment === ((flags & 0x3fff) !== 0)
      );
    }),
  );
  t.end();
});

t.test('IP4-01 malformed headers are dropped; padding is cut', (t) => {
  t.equal(wrapped(packet()), Drop.None);
  const padded = new Uint8Array(100);
  padded.set(packet());
  t.equal(wrapped(padded), Drop.None);
  t.equal(view.end, 38);
  t.equal(view.payloadLength, 8);
  t.equal(
    wrapped(packet(), (b) => (b[10] = 0x65)),
    Drop.Ip4Malformed,
    'version 6',
  );
  t.equal(
    wrapped(packet(), (b) => (b[10] = 0x44)),
    Drop.Ip4Malformed,
    'IHL 4',
  );
  t.equal(
    wrapped(packet(), (b) => setU16(b, 12, 19)),
    Drop.Ip4Malformed,
    'total length under the header',
  );
  t.equal(
    wrapped(packet(), (b) => setU16(b, 12, 29)),
    Drop.Ip4Malformed,
    'total length past the frame',
  );
  t.equal(
    wrapped(packet([], 0), (b) => (b[10] = 0x46)),
    Drop.Ip4Malformed,
    'IHL past the total length',
  );
  t.equal(
    wrapped(packet(), (b) => (b[20]! ^= 1)),
    Drop.Ip4BadChecksum,
  );
  const whole = packet();
  for (let end = 10; end < 30; end++) t.equal(view.wrap(whole, 10, end), Drop.Ip4Malformed);
  t.end();
});

t.test('IP4-02 martian sources and destinations to all', (t) => {
  const rules = { network: new Cidr4(SRC, 24), isOurs: (a: number) => a === ip('192.168.65.1') };
  const bad =
    '255.255.255.255 192.168.65.255 192.168.65.0 224.0.0.1 239.9.9.9 127.0.0.1 240.0.0.1 0.0.0.1 192.168.65.1';
  for (const a of bad.split(' ')) t.ok(isMartianSource(ip(a), rules, true), a);
  t.ok(isMartianSource(0, rules, false));
  t.notOk(isMartianSource(0, rules, true), 'DHCP');
  t.notOk(isMartianSource(SRC, rules, false));
  t.notOk(isMartianSource(ip('10.0.0.1'), rules, false));
  t.ok(isBroadcastOrGroup(-1, rules.network));
  t.ok(isBroadcastOrGroup(ip('192.168.65.255'), rules.network));
  t.ok(isBroadcastOrGroup(ip('224.0.0.251'), rules.network));
  t.notOk(isBroadcastOrGroup(DST, rules.network));
  t.notOk(isBroadcastOrGroup(ip('10.0.0.1'), new Cidr4(ip('10.0.0.0'), 31)), 'RFC 3021');
  t.end();
});

t.test('IP4-03 TTL 0 is dropped, TTL 1 is not', (t) => {
  t.equal(
    wrapped(packet(), (b) => {
      b[18] = 0;
      reseal(b);
    }),
    Drop.Ip4TtlZero,
  );
  t.equal(
    wrapped(packet(), (b) => {
      b[18] = 1;
      reseal(b);
    }),
    Drop.None,
  );
  t.end();
});

t.test('IP4-04 options: skipped, refused when their lengths are wrong or they route', (t) => {
  const good = [
    [1, 1, 1, 0],
    [0, 99, 99, 99],
    [148, 4, 0, 0],
    [1, 200, 3, 0],
    [7, 7, 4, 0, 0, 0, 0, 0],
    [1, 1, 1, 1],
  ];
  for (const o of good) t.equal(wrapped(packet(o)), Drop.None, o.join());
  t.equal(view.headerLength, 24);
  const bad = [
    [148, 0, 0, 0],
    [148, 1, 0, 0],
    [148, 5, 0, 0],
    [1, 1, 1, 148],
    [131, 3, 4, 0],
    [137, 3, 4, 0],
    [1, 131, 3, 4],
  ];
  for (const o of bad) t.equal(wrapped(packet(o)), Drop.Ip4BadOption, o.join());
  t.end();
});

t.test('IP4-05 an ID comes back for a pair only after 65,535 others', (t) => {
  let seed = 99;
  const ids = new IpIds({ i32: () => (seed = Math.imul(seed, 1103515245) + 12345) });
  const seen = new Set<number>();
  for (let i = 0; i < 65536; i++) seen.add(ids.next(SRC, DST, PROTO_UDP));
  t.equal(seen.size, 65536);
  t.end();
});

t.test('IP4-11 fragments cover the payload, in multiples of 8, and fit', (t) => {
  const cursor = new FragmentCursor();
  const walk = (len: number, mtu: number): [number, number, number][] => {
    const out: [number, number, number][] = [];
    cursor.start(len, mtu);
    while (cursor.next()) out.push([cursor.offset, cursor.length, cursor.flagsFragment]);
    return out;
  };
  t.same(walk(0, 576), [[0, 0, 0]]);
  t.same(walk(1480, 1500), [[0, 1480, 0]]);
  t.same(walk(1481, 1500), [
    [0, 1480, IPV4_MF],
    [1480, 1, 185],
  ]);
  t.same(walk(1480, 1499)[0], [0, 1472, IPV4_MF]);
  fc.assert(
    fc.property(fc.integer({ min: 0, max: 65515 }), fc.integer({ min: 576, max: 65520 }), (len, mtu) => {
      let at = 0;
      const all = walk(len, mtu);
      for (const [i, [offset, length, word]] of all.entries()) {
        const last = i === all.length - 1;
        if (offset !== at || length + 20 > mtu || (word & 0x1fff) * 8 !== offset) return false;
        if ((word & IPV4_MF) !== 0 ? last || length % 8 !== 0 : !last) return false;
        at += length;
      }
      return at === len;
    }),
  );
  t.end();
});

t.test('pseudo-header sum equals that of its bytes', (t) => {
  const b = new Uint8Array(12);
  b.set([192, 168, 65, 3, 203, 0, 113, 9, 0, 17, 0x12, 0x34]);
  t.equal(fold(pseudoHeaderSumV4(SRC, DST, PROTO_UDP, 0x1234)), fold(sumBytes(b, 0, 12)));
  t.end();
});

t.test('any bytes: no throw, nothing read outside the packet', (t) => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 90 }), fc.boolean(), (bytes, mend) => {
      if (mend && bytes.length >= 60) {
        bytes[0] = 0x40 | (bytes[0]! & 15);
        setU16(bytes, 2, bytes.length);
        setU16(bytes, 10, 0);
        setU16(bytes, 10, finish(sumBytes(bytes, 0, (bytes[0]! & 15) * 4)));
      }
      const run = (canary: number): string => {
        const buf = new Uint8Array(bytes.length + 200).fill(canary);
        buf.set(bytes, 100);
        const drop = view.wrap(buf, 100, 100 + bytes.length);
        if (view.end > 100 + bytes.length && drop === Drop.None) return `overrun ${canary}`;
        return drop === Drop.None ? `${view.src} ${view.payloadLength} ${view.payloadOff}` : `${drop}`;
      };
      return run(0) === run(255);
    }),
  );
  t.end();
});
