// The DHCP codec: DHCP-06 by table and by fuzz, emit and parse as each other's inverse, no byte read outside the message.

import fc from 'fast-check';
import t from 'tap';
import { Cidr4 } from '../../src/ip/address.ts';
import { DhcpBuilder } from '../../src/services/dhcp-builder.ts';
import { DHCP_MAX_BYTES, DhcpMessage } from '../../src/services/dhcp-message.ts';
import { encodeRoutes, encodeSearchList, isDomainName } from '../../src/services/dhcp-values.ts';
import { codes, mac, Net, option, request } from './dhcp-fixture.ts';

/** A message with these raw bytes from the options area on. */
function raw(options: number[], patch: readonly (readonly [number, number[]])[] = []): Uint8Array {
  const buf = new Uint8Array(240 + options.length);
  buf.set(request({}).slice(0, 240));
  buf.set(options, 240);
  for (const [at, bytes] of patch) buf.set(bytes, at);
  return buf;
}

function parse(buf: Uint8Array): DhcpMessage | undefined {
  const msg = new DhcpMessage();
  return msg.wrap(buf, 0, buf.length) ? msg : undefined;
}

t.test('DHCP-06: malformed and odd messages', async (t) => {
  t.equal(parse(raw([53, 1, 1, 255], [[236, [0, 0, 0, 0]]])), undefined, 'no magic cookie');
  t.equal(parse(raw([53, 1, 1, 255], [[2, [17]]])), undefined, 'hlen above 16');
  t.equal(parse(raw([53])), undefined, 'no length');
  t.equal(parse(raw([53, 1])), undefined, 'value past the end');
  t.equal(parse(raw([53, 1, 1, 12, 200, 1])), undefined, 'option past the end');
  t.equal(parse(raw([53, 1, 1]).slice(0, 239)), undefined, 'shorter than the fixed part');
  t.equal(parse(raw([])) instanceof DhcpMessage, true, 'no options at all');
  t.equal(parse(raw([]))?.messageType, -1);
  t.equal(parse(raw([53, 1, 3]))?.messageType, 3, 'no END');
  t.equal(parse(raw([0, 0, 53, 1, 3, 0, 255, 53, 1, 9]))?.messageType, 3, 'padding; nothing after END');
  t.equal(parse(raw([53, 2, 3, 3, 255]))?.messageType, -1, 'wrong length');
  t.equal(parse(raw([53, 0, 255]))?.messageType, -1, 'length 0');
  t.equal(parse(new Uint8Array(DHCP_MAX_BYTES + 1)), undefined, 'too long');
  const split = parse(raw([61, 2, 1, 2, 53, 1, 3, 61, 0, 61, 3, 3, 4, 5, 255]));
  t.same(option(split!, 61), [1, 2, 3, 4, 5], 'RFC 3396: repeats are one');
  t.equal(split?.messageType, 3);
});

t.test('DHCP-06: overload (option 52)', async (t) => {
  const file = [50, 4, 192, 168, 65, 9, 255, 7, 7];
  const sname = [12, 2, 104, 105, 255];
  const over = (v: number[]) =>
    parse(
      raw(
        [53, 1, 3, 52, v.length, ...v, 255],
        [
          [108, file],
          [44, sname],
        ],
      ),
    );
  t.equal(over([1])?.i32(50), (192 << 24) | (168 << 16) | (65 << 8) | 9);
  t.equal(over([1])?.has(12), false);
  t.same(option(over([2])!, 12), [104, 105]);
  t.equal(over([2])?.has(50), false);
  t.equal(over([3])?.has(50) && over([3])?.has(12), true);
  t.equal(over([4])?.has(50), false, 'no such value');
  t.equal(over([1, 1])?.has(50), false, 'wrong length');
  const bad: [number, number[]][] = [[108, [12, 200, 1]]];
  t.equal(parse(raw([53, 1, 3, 52, 1, 1, 255], bad)), undefined, 'option past the file field');
  const over52 = parse(
    raw(
      [53, 1, 3, 52, 1, 1, 255],
      [
        [108, [52, 1, 3, 255]],
        [44, [12, 1, 65, 255]],
      ],
    ),
  );
  t.equal(over52?.has(12), false, 'overload in an overloaded field means nothing');
  const order = raw(
    [53, 1, 3, 61, 1, 1, 52, 1, 3, 255],
    [
      [108, [61, 1, 2, 255]],
      [44, [61, 1, 3, 255]],
    ],
  );
  t.same(option(parse(order)!, 61), [1, 2, 3], 'RFC 3396 5: options, file, sname');
});

t.test(
  'DHCP-06 fuzz: arbitrary bytes never throw, are never read past, and get at most one well-formed reply',
  async (t) => {
    const net = new Net();
    const arbitrary = fc.oneof(
      fc.uint8Array({ maxLength: 700 }),
      fc.uint8Array({ maxLength: 400 }).map((options) => raw([...options])),
      fc
        .tuple(
          fc.constantFrom(1, 3, 4, 7, 8),
          fc.uint8Array({ maxLength: 200 }),
          fc.uint8Array({ minLength: 192, maxLength: 192 }),
        )
        .map(([type, options, fields]) => raw([53, 1, type, 52, 1, 3, ...options], [[44, [...fields]]])),
    );
    fc.assert(
      fc.property(arbitrary, fc.nat(3), (bytes, vm) => {
        const buf = bytes.slice();
        // Canaries: whatever lies around the message must not matter.
        const padded = new Uint8Array(buf.length + 32).fill(0xff);
        padded.set(buf, 16);
        const a = new DhcpMessage();
        const b = new DhcpMessage();
        const ok = a.wrap(buf, 0, buf.length);
        if (ok !== b.wrap(padded, 16, buf.length)) return false;
        if (ok) for (let c = 0; c < 256; c++) if (String(option(a, c)) !== String(option(b, c))) return false;
        const reply = net.bytes(buf, vm + 1);
        net.now += 1000;
        return reply === undefined || (reply.bytes.length >= 300 && codes(reply.bytes).at(-1) === 255);
      }),
      { numRuns: 3000 },
    );
    t.ok(net.service.stats.malformed > 0);
  },
);

t.test('DHCP-06: a valid message cut at every byte', async (t) => {
  const net = new Net();
  const whole = request({
    type: 1,
    options: [
      [55, [1, 3, 6]],
      [61, [1, ...mac(1)]],
    ],
  });
  for (let n = 0; n < whole.length; n++) {
    const r = net.bytes(whole.slice(0, n));
    if (n < 243) t.equal(r, undefined, `${n} bytes`);
  }
});

t.test('property: parse(emit(message)) is the message, in any size', async () => {
  const opt = fc.tuple(
    fc.integer({ min: 1, max: 254 }).filter((c) => c !== 52),
    fc.uint8Array({ maxLength: 600 }),
  );
  fc.assert(
    fc.property(
      fc.array(opt, { maxLength: 12 }),
      fc.integer({ min: 300, max: 1472 }),
      fc.integer(),
      (options, max, xid) => {
        const b = new DhcpBuilder();
        b.begin(2, xid, 0x8000, max);
        b.addresses(1, 2, 3, 4);
        b.chaddr(mac(5), 0);
        const want = new Map<number, number[]>();
        let cut = 0;
        for (const [code, value] of options) {
          if (want.has(code)) continue;
          const fits = b.fits(value.length);
          const added = b.addBytes(code, value, 0, value.length);
          if (fits !== added) return false;
          if (added) want.set(code, [...value]);
          else cut++;
        }
        const len = b.finish();
        const m = parse(b.buf.slice(0, len));
        if (m === undefined || len > max || len < 300 || b.cut !== cut) return false;
        for (const [code, value] of want) if (String(option(m, code)) !== String(value)) return false;
        return m.xid === xid && m.ciaddr === 1 && m.yiaddr === 2 && m.siaddr === 3 && m.giaddr === 4 && m.hlen === 6;
      },
    ),
    { numRuns: 1000 },
  );
});

t.test('nothing of an earlier message shows in a later one', async (t) => {
  const b = new DhcpBuilder();
  b.begin(2, 1, 0, 1472);
  b.addBytes(61, new Uint8Array(250).fill(0xee), 0, 250);
  b.finish();
  b.begin(2, 1, 0, 548);
  const len = b.finish();
  t.notOk(b.buf.slice(0, len).includes(0xee));
});

t.test('RFC 3397: every prefix of an encoded search list is one', async (t) => {
  const decode = (bytes: Uint8Array): string[] => {
    const out: string[] = [];
    let at = 0;
    const name = (from: number, seen: string[]): number => {
      let p = from;
      for (;;) {
        const n = bytes[p] ?? -1;
        if (n < 0) throw new Error('past the end');
        if (n === 0) return p + 1;
        if (n >= 0xc0) {
          const to = ((n & 0x3f) << 8) | bytes[p + 1]!;
          if (to >= from) throw new Error('forward pointer');
          name(to, seen);
          return p + 2;
        }
        seen.push(String.fromCharCode(...bytes.slice(p + 1, p + 1 + n)));
        p += 1 + n;
      }
    };
    while (at < bytes.length) {
      const labels: string[] = [];
      at = name(at, labels);
      out.push(labels.join('.'));
    }
    return out;
  };
  const label = fc.constantFrom('a', 'corp', 'example', 'Example', 'x-1', '_tcp', 'y'.repeat(63));
  fc.assert(
    fc.property(fc.array(fc.array(label, { minLength: 1, maxLength: 3 }), { maxLength: 8 }), (domains) => {
      const names = domains.map((d) => d.join('.'));
      const { bytes, ends } = encodeSearchList(names);
      for (const [i, end] of ends.entries()) {
        const got = decode(bytes.slice(0, end)).map((n) => n.toLowerCase());
        if (String(got) !== String(names.slice(0, i + 1).map((n) => n.toLowerCase()))) return false;
      }
      return ends.length === names.length;
    }),
  );
  t.same(
    encodeSearchList(['', 'a..b', 'ü.example', `${'z'.repeat(64)}.org`]).ends,
    [],
    'what is not a name is left out',
  );
  t.ok(isDomainName('corp.example.'));
  t.notOk(isDomainName('.'));
});

t.test('RFC 3442 examples of prefix widths', async (t) => {
  const route = (cidr: string) => encodeRoutes([{ network: Cidr4.parse(cidr)!, router: 0x0a000001 }], 9).slice(0, -5);
  t.same([...route('10.0.0.0/8')], [8, 10, 10, 0, 0, 1]);
  t.same([...route('10.17.0.0/16')], [16, 10, 17, 10, 0, 0, 1]);
  t.same([...route('10.198.122.47/32')], [32, 10, 198, 122, 47, 10, 0, 0, 1]);
  t.same([...encodeRoutes([{ network: new Cidr4(0, 0), router: 7 }], 9)], [0, 0, 0, 0, 7], 'own default route wins');
});
