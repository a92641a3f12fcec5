import * as packet from 'dns-packet';
import fc from 'fast-check';
import t from 'tap';
import {
  emitName,
  equalNames,
  foldName,
  NAME_MAX_BYTES,
  nameFromText,
  nameToText,
  readName,
  skipName,
} from '../../src/dns/name.ts';
import { reverseAddress, reverseName } from '../../src/dns/reverse.ts';
import { IpAddress } from '../../src/ip/address.ts';
import { ip } from './rig.ts';

/** Missing in the type package. */
const oracle = (packet as unknown as { name: { encode(n: string): Buffer; decode(b: Buffer): string } }).name;
const HEADER = 12;
function message(...bytes: number[]): Uint8Array {
  return Uint8Array.from([...new Array<number>(HEADER).fill(0), ...bytes]);
}
const ascii = (s: string) => [...s].map((c) => c.charCodeAt(0));
const label = (s: string) => [s.length, ...ascii(s)];

t.test('RFC 1035 3.1 and 4.1.4: reads labels and strictly backward pointers', async (t) => {
  const out = new Uint8Array(NAME_MAX_BYTES);
  const m = message(...label('Mail'), ...label('example'), 0, ...label('www'), 0xc0, HEADER + 5);
  const second = HEADER + 14;
  t.equal(readName(m, 0, HEADER, m.length, out, 0), 14);
  t.equal(nameToText(out, 0, 14), 'Mail.example');
  const n = readName(m, 0, second, m.length, out, 0);
  t.equal(nameToText(out, 0, n), 'www.example');
  t.equal(skipName(m, 0, second, m.length), m.length);
  // The message may begin anywhere in the buffer.
  const shifted = Uint8Array.from([9, 9, 9, ...m]);
  t.equal(readName(shifted, 3, second + 3, shifted.length, out, 0), n);
});

t.test('DNS-07: pointers forward, to themselves, in a loop or into the header are refused', async (t) => {
  const out = new Uint8Array(NAME_MAX_BYTES);
  const bad = {
    self: [0xc0, HEADER],
    forward: [0xc0, HEADER + 2, 0],
    header: [...label('a'), 0xc0, 4],
    'loop through a label': [...label('a'), 0xc0, HEADER],
    'cut pointer': [...label('a'), 0xc0],
    'reserved label type 0x40': [0x40, 0],
    'reserved label type 0x80': [0x80, 0],
    'label past the end': [10, 97],
    'no root': [...label('abc')],
    empty: [],
  };
  for (const [what, bytes] of Object.entries(bad)) {
    const m = message(...bytes);
    t.equal(skipName(m, 0, HEADER, m.length), -1, `skip: ${what}`);
    t.equal(readName(m, 0, HEADER, m.length, out, 0), -1, `read: ${what}`);
  }
});

t.test('RFC 1035 2.3.4: 63 bytes a label and 255 a name, also when pointers add up', async (t) => {
  const out = new Uint8Array(NAME_MAX_BYTES);
  const l63 = label('x'.repeat(63));
  const longest = message(...l63, ...l63, ...l63, ...label('y'.repeat(61)), 0);
  t.equal(readName(longest, 0, HEADER, longest.length, out, 0), 255);
  t.equal(skipName(longest, 0, HEADER, longest.length), longest.length);
  const over = message(...l63, ...l63, ...l63, ...label('y'.repeat(62)), 0);
  t.equal(readName(over, 0, HEADER, over.length, out, 0), -1);
  t.equal(skipName(over, 0, HEADER, over.length), -1);
  const joined = message(...l63, ...l63, ...l63, 0, ...l63, 0xc0, HEADER);
  t.equal(readName(joined, 0, HEADER + 193, joined.length, out, 0), -1);
  t.equal(nameFromText(`${'a'.repeat(64)}.b`), undefined);
  t.equal(nameFromText(`${'abcdefg.'.repeat(31)}abcdefg`), undefined);
  t.equal(nameFromText(`${'abcdefg.'.repeat(31)}abcde`)?.length, 255);
});

t.test('RFC 1035 5.1: text has escapes, both ways', async (t) => {
  const odd = Uint8Array.from([4, 0x2e, 0x5c, 0x00, 0xff, 3, 0x61, 0x20, 0x41, 0]);
  t.equal(nameToText(odd, 0, odd.length), '\\.\\\\\\000\\255.a\\032A');
  t.same(nameFromText('\\.\\\\\\000\\255.a\\032A'), odd);
  t.equal(nameToText(Uint8Array.of(0), 0, 1), '.');
  t.same(nameFromText('.'), Uint8Array.of(0));
  t.same(nameFromText('a.'), nameFromText('a'));
  for (const bad of ['', 'a..b', '.a', 'a\\', 'a\\256', 'ü\u0100'])
    t.equal(nameFromText(bad), undefined, JSON.stringify(bad));
});

t.test('RFC 4343: folding touches ASCII letters only', async (t) => {
  const a = Uint8Array.from([5, 0x41, 0x5a, 0x5b, 0xc1, 0x40, 0]);
  const out = new Uint8Array(a.length);
  foldName(a, 0, out, 0, a.length);
  t.same(out, Uint8Array.from([5, 0x61, 0x7a, 0x5b, 0xc1, 0x40, 0]));
  t.ok(equalNames(a, 0, out, 0, a.length));
  t.notOk(equalNames(nameFromText('ab')!, 0, nameFromText('ac')!, 0, 4));
});

t.test('RFC 1035 4.1.4: emits names compressed against an earlier one', async (t) => {
  const out = new Uint8Array(100);
  const first = nameFromText('WWW.example.org')!;
  out.set(first, HEADER);
  const at = HEADER + first.length;
  const read = new Uint8Array(NAME_MAX_BYTES);
  for (const [text, bytes] of [
    ['www.EXAMPLE.org', 2],
    ['mail.example.org', 7],
    ['org', 2],
    ['example.com', 13],
    ['xorg', 6],
  ] as const) {
    const end = emitName(out, 0, at, out.length, nameFromText(text)!, HEADER);
    t.equal(end - at, bytes, text);
    const n = readName(out, 0, at, end, read, 0);
    t.equal(nameToText(read, 0, n).toLowerCase(), text.toLowerCase());
  }
  t.equal(emitName(out, 0, at, at + 3, nameFromText('other')!, HEADER), -1, 'no room');
});

t.test('reverse names, both families', async (t) => {
  t.equal(reverseName(ip('192.168.65.1')), '1.65.168.192.in-addr.arpa');
  t.ok(reverseAddress('1.65.168.192.in-addr.arpa')?.equals(ip('192.168.65.1')));
  const v6 = '8.b.d.0.1.0.0.2.ip6.arpa';
  const full = `1.${'0.'.repeat(23)}${v6}`;
  t.equal(reverseName(ip('2001:db8::1')), full);
  t.ok(reverseAddress(full)?.equals(ip('2001:db8::1')));
  for (const bad of [
    '65.168.192.in-addr.arpa',
    '256.1.1.1.in-addr.arpa',
    '01.1.1.1.in-addr.arpa',
    'a.b.c.d.in-addr.arpa',
    v6,
    'in-addr.arpa',
    'example.org',
  ]) {
    t.equal(reverseAddress(bad), undefined, bad);
  }
});

const anyLabel = fc.uint8Array({ minLength: 1, maxLength: 63 });
const anyName = fc.array(anyLabel, { maxLength: 12 }).map((labels) => {
  const bytes: number[] = [];
  for (const l of labels) if (bytes.length + l.length + 2 <= NAME_MAX_BYTES) bytes.push(l.length, ...l);
  return Uint8Array.from([...bytes, 0]);
});

t.test('property: text and wire are each other, and parse(emit) = same', async () => {
  fc.assert(
    fc.property(anyName, anyName, (a, b) => {
      const text = nameToText(a, 0, a.length);
      const back = nameFromText(text);
      const out = new Uint8Array(HEADER + 600);
      out.set(a, HEADER);
      const end = emitName(out, 0, HEADER + a.length, out.length, b, HEADER);
      const read = new Uint8Array(NAME_MAX_BYTES);
      const n = readName(out, 0, HEADER + a.length, end, read, 0);
      return (
        Buffer.from(a).equals(Buffer.from(back ?? [])) &&
        n === b.length &&
        equalNames(read, 0, b, 0, n) &&
        skipName(out, 0, HEADER + a.length, end) === end
      );
    }),
  );
});

t.test('property: arbitrary bytes never throw, hang or read past the end', async () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 300 }), fc.nat(20), (bytes, off) => {
      const m = Uint8Array.from([...message(), ...bytes, 0, 0, 0]);
      const end = HEADER + bytes.length;
      const at = Math.min(HEADER + off, end);
      const out = new Uint8Array(NAME_MAX_BYTES);
      const skipped = skipName(m, 0, at, end);
      const read = readName(m, 0, at, end, out, 0);
      return skipped <= end && read <= NAME_MAX_BYTES && (read < 0 || skipped >= 0);
    }),
    { numRuns: 2000 },
  );
});

t.test('property: names agree with dns-packet', async () => {
  const text = fc
    .array(fc.stringMatching(/^[a-zA-Z0-9_-]{1,20}$/), { minLength: 1, maxLength: 6 })
    .map((l) => l.join('.'));
  fc.assert(
    fc.property(text, (name) => {
      const wire = nameFromText(name)!;
      return Buffer.from(oracle.encode(name)).equals(Buffer.from(wire)) && oracle.decode(Buffer.from(wire)) === name;
    }),
  );
});

t.test('property: reverse names round trip', async () => {
  const word = fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 });
  fc.assert(
    fc.property(word, word, word, word, (a, b, c, d) => {
      const v6 = new IpAddress(a, b, c, d);
      const v4 = IpAddress.v4(d);
      return reverseAddress(reverseName(v6))!.equals(v6) && reverseAddress(reverseName(v4))!.equals(v4);
    }),
  );
});
