import fc from 'fast-check';
import t from 'tap';
import { setU16 } from '../../src/base/bytes.ts';
import { Checksummer, fold, sumBytes } from '../../src/base/checksum.ts';
import { Drop } from '../../src/base/drop.ts';
import { Cidr4, parseV4 } from '../../src/ip/address.ts';
import {
  echoReplyInPlace,
  emitEcho,
  emitIcmpError,
  emitUdpQuote,
  ICMP_ECHO_REPLY,
  ICMP_ECHO_REQUEST,
  ICMP_TIME_EXCEEDED,
  ICMP_UNREACHABLE,
  IcmpRateLimiter,
  IcmpView,
  mayError,
  QuoteView,
  UNREACHABLE_FRAG_NEEDED,
} from '../../src/ip/icmp.ts';
import { emitIpv4Header, Ipv4View, PROTO_ICMP, PROTO_TCP, PROTO_UDP, pseudoHeaderSumV4 } from '../../src/ip/ipv4.ts';
import { emitUdpHeader, UDP_MAX_PAYLOAD, UdpView } from '../../src/ip/udp.ts';

const ip = (text: string): number => parseV4(text)!;
const SRC = ip('192.168.65.3');
const DST = ip('203.0.113.9');
const NETWORK = new Cidr4(SRC, 24);
const udp = new UdpView();
const icmp = new IcmpView();

function datagram(payload: Uint8Array, mem = new Uint8Array((8 + payload.length + 7) & ~3)): number {
  const pseudo = pseudoHeaderSumV4(SRC, DST, PROTO_UDP, payload.length + 8);
  mem.set(payload, 8);
  emitUdpHeader(mem, 0, 4000, 53, payload.length, pseudo, sumBytes(mem, 8, payload.length));
  udp.wrap(mem, 0, 8 + payload.length);
  return pseudo;
}

t.test('UDP-01 parse(emit(x)) = x, verified by bytes and by words', (t) => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), fc.nat(), (payload, flip) => {
      const mem = new Uint8Array(256);
      const pseudo = datagram(payload, mem);
      const summer = new Checksummer(mem);
      if (udp.verify(pseudo, undefined, true) !== Drop.None || udp.verify(pseudo, summer, true) !== Drop.None)
        return false;
      if (
        udp.srcPort !== 4000 ||
        udp.dstPort !== 53 ||
        udp.payloadLength !== payload.length ||
        udp.length !== payload.length + 8
      ) {
        return false;
      }
      mem[flip % (8 + payload.length)]! ^= 0x10;
      // Bytes 6 and 7 may have become the zero that means "none".
      if (mem[6] === 0 && mem[7] === 0) return true;
      return udp.verify(pseudo, summer, true) === Drop.UdpBadChecksum;
    }),
  );
  t.end();
});

t.test('UDP-01 lengths, checksum 0, computed 0, port 0', (t) => {
  const buf = new Uint8Array(32);
  const pseudo = pseudoHeaderSumV4(SRC, DST, PROTO_UDP, 12);
  emitUdpHeader(buf, 0, 1, 2, 4, pseudo, 0);
  t.equal(udp.wrap(buf, 0, 32), Drop.None);
  t.equal(udp.end, 12, 'what follows its length is cut');
  t.equal(udp.wrap(buf, 0, 11), Drop.UdpMalformed, 'length past the packet');
  t.equal(udp.wrap(buf, 0, 7), Drop.UdpMalformed, 'no header');
  setU16(buf, 4, 7);
  t.equal(udp.wrap(buf, 0, 32), Drop.UdpMalformed, 'length under 8');
  setU16(buf, 4, 12);
  setU16(buf, 6, 0);
  udp.wrap(buf, 0, 32);
  t.equal(udp.verify(pseudo, undefined, false), Drop.None, 'IPv4: no checksum');
  t.equal(udp.verify(pseudo, undefined, true), Drop.UdpBadChecksum, 'IPv6: there must be one');
  setU16(buf, 2, 0);
  t.equal(udp.wrap(buf, 0, 32), Drop.UdpPortZero);

  // A payload word chosen so that the sum comes to 0xffff and the checksum to 0.
  const rest = fold(pseudoHeaderSumV4(SRC, DST, PROTO_UDP, 10) + 1 + 2 + 10);
  setU16(buf, 8, 0xffff - rest);
  const p2 = pseudoHeaderSumV4(SRC, DST, PROTO_UDP, 10);
  emitUdpHeader(buf, 0, 1, 2, 2, p2, sumBytes(buf, 8, 2));
  t.same([buf[6], buf[7]], [0xff, 0xff]);
  udp.wrap(buf, 0, 10);
  t.equal(udp.verify(p2, undefined, true), Drop.None);
  const big = datagram(new Uint8Array(UDP_MAX_PAYLOAD).fill(0xff));
  t.equal(udp.verify(big, undefined, true), Drop.None);
  t.end();
});

t.test('ICMP-01 echo: same id, seq and payload, up to 65,507 bytes; a bad checksum is dropped', (t) => {
  for (const size of [0, 1, 56, 65507]) {
    const mem = new Uint8Array((8 + size + 7) & ~3).map((_, i) => i * 7);
    emitEcho(mem, 0, ICMP_ECHO_REQUEST, 0xbeef, 3, sumBytes(mem, 8, size));
    const before = mem.slice(4);
    const summer = new Checksummer(mem);
    t.equal(icmp.wrap(mem, 0, 8 + size, summer), Drop.None);
    t.same([icmp.type, icmp.code, icmp.id, icmp.seq, icmp.payloadLength], [ICMP_ECHO_REQUEST, 0, 0xbeef, 3, size]);
    echoReplyInPlace(mem, 0);
    t.equal(icmp.wrap(mem, 0, 8 + size, undefined), Drop.None);
    t.equal(icmp.type, ICMP_ECHO_REPLY);
    t.same(mem.slice(4), before);
    mem[5]! ^= 1;
    t.equal(icmp.wrap(mem, 0, 8 + size, summer), Drop.IcmpBadChecksum);
  }
  for (let n = 0; n < 8; n++) t.equal(icmp.wrap(new Uint8Array(8), 0, n, undefined), Drop.IcmpMalformed);
  // RFC 1624 section 4's corner: every checksum must survive the incremental change.
  fc.assert(
    fc.property(fc.integer({ min: 0, max: 0xffff }), fc.integer({ min: 0, max: 0xffff }), (id, seq) => {
      const b = new Uint8Array(8);
      emitEcho(b, 0, ICMP_ECHO_REQUEST, id, seq, 0);
      echoReplyInPlace(b, 0);
      // A reply that is all zero has the sum 0, not 0xffff, only with checksum 0: it must be 0xffff then.
      return fold(sumBytes(b, 0, 8)) === 0xffff;
    }),
    { examples: [[0, 0]] },
  );
  t.end();
});

/** An IPv4 packet with a payload; its view. */
function packet(src: number, dst: number, proto: number, payload: number[], flags = 0): Ipv4View {
  const buf = new Uint8Array(20 + payload.length);
  emitIpv4Header(buf, 0, buf.length, 1, flags, 64, proto, src, dst);
  buf.set(payload, 20);
  const v = new Ipv4View();
  if (v.wrap(buf, 0, buf.length) !== Drop.None) throw new Error('bad test packet');
  return v;
}

t.test('ICMP-03 never an error about an error, a later fragment, a group or broadcast, a martian', (t) => {
  const eight = [0, 1, 0, 2, 0, 8, 0, 0];
  t.ok(mayError(packet(SRC, DST, PROTO_UDP, eight), NETWORK));
  t.ok(mayError(packet(SRC, DST, PROTO_UDP, eight, 0x2000), NETWORK), 'first fragment');
  t.ok(mayError(packet(SRC, DST, PROTO_ICMP, [8, 0, 0, 0]), NETWORK), 'echo request');
  for (const type of [3, 4, 5, 11, 12])
    t.notOk(mayError(packet(SRC, DST, PROTO_ICMP, [type, 0]), NETWORK), `type ${type}`);
  t.notOk(mayError(packet(SRC, DST, PROTO_ICMP, []), NETWORK), 'no type');
  t.notOk(mayError(packet(SRC, DST, PROTO_UDP, eight, 1), NETWORK), 'later fragment');
  for (const d of ['224.0.0.1', '255.255.255.255', '192.168.65.255'])
    t.notOk(mayError(packet(SRC, ip(d), 17, eight), NETWORK), d);
  for (const s of ['0.0.0.0', '127.0.0.1', '224.0.0.1', '240.0.0.1', '255.255.255.255', '192.168.65.255', '0.1.2.3']) {
    t.notOk(mayError(packet(ip(s), DST, PROTO_UDP, eight), NETWORK), s);
  }
  t.end();
});

t.test('ICMP-04 the quote ends at 576 bytes; errors are rate-limited', (t) => {
  const out = new Uint8Array(1600);
  const quote = new Uint8Array(1500).fill(0xab);
  t.equal(emitIcmpError(out, 20, ICMP_TIME_EXCEEDED, 0, 0, quote, 0, 1500), 556);
  t.equal(icmp.wrap(out, 20, 576, undefined), Drop.None);
  t.equal(icmp.payloadLength, 548);
  t.ok(icmp.isError);
  t.equal(emitIcmpError(out, 20, ICMP_UNREACHABLE, UNREACHABLE_FRAG_NEEDED, 1400, quote, 4, 29), 37);
  t.equal(icmp.wrap(out, 20, 57, undefined), Drop.None);
  t.equal(icmp.mtu, 1400);

  const limiter = new IcmpRateLimiter(10, 3);
  const burst = (now: number): number => {
    let n = 0;
    while (n < 50 && limiter.take(now)) n++;
    return n;
  };
  t.equal(burst(5), 3);
  t.equal(burst(104), 0);
  t.equal(burst(205), 2);
  t.equal(burst(1e9), 3, 'no more than the burst however long it was');
  t.equal(burst(0), 0, 'time that goes back gives nothing');
  t.equal(limiter.limited, 5);
  t.end();
});

t.test('ICMP-05 a datagram that is gone is quoted with its addresses and ports', (t) => {
  const quote = new Uint8Array(28);
  t.equal(emitUdpQuote(quote, 0, SRC, 4000, DST, 53, 100), 28);
  const q = new QuoteView();
  t.equal(q.wrap(quote, 0, 28), Drop.None);
  t.same([q.protocol, q.src, q.dst, q.srcPort, q.dstPort, q.totalLength], [PROTO_UDP, SRC, DST, 4000, 53, 128]);
  t.end();
});

t.test('TCP-ICM-01 a quote must hold an IP header and 8 bytes of a first fragment', (t) => {
  const q = new QuoteView();
  const v = packet(SRC, DST, PROTO_TCP, [0x10, 0, 0, 80, 0xde, 0xad, 0xbe, 0xef]);
  t.equal(q.wrap(v.buf, 0, 28), Drop.None);
  t.equal(q.seq, 0xdeadbeef | 0);
  for (let n = 0; n < 28; n++) t.equal(q.wrap(v.buf, 0, n), Drop.IcmpMalformed);
  const bad = (at: number, value: number): number => {
    const b = v.buf.slice();
    b[at] = value;
    return q.wrap(b, 0, 28);
  };
  t.equal(bad(0, 0x65), Drop.IcmpMalformed);
  t.equal(bad(0, 0x44), Drop.IcmpMalformed);
  t.equal(bad(0, 0x46), Drop.IcmpMalformed, 'options without room for 8 bytes');
  t.equal(bad(7, 1), Drop.IcmpMalformed, 'later fragment');
  t.equal(bad(6, 0x20), Drop.None, 'first fragment');
  t.end();
});

t.test('any bytes: no throw, nothing read outside', (t) => {
  const q = new QuoteView();
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 80 }), fc.boolean(), (bytes, header) => {
      if (header && bytes.length > 0) bytes[0] = 0x40 | (bytes[0]! & 15);
      const run = (canary: number): string => {
        const buf = new Uint8Array(bytes.length + 128).fill(canary);
        buf.set(bytes, 64);
        const end = 64 + bytes.length;
        let s = '';
        if (udp.wrap(buf, 64, end) === Drop.None) s += `${udp.end <= end} ${udp.verify(5, undefined, false)}`;
        s += icmp.wrap(buf, 64, end, undefined);
        if (q.wrap(buf, 64, end) === Drop.None) s += `${q.seq} ${q.srcPort} ${q.dst}`;
        return s;
      };
      return run(0) === run(255);
    }),
  );
  t.end();
});
