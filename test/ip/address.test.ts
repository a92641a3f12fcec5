// Addresses of both families: text, networks, classes. RFC 4291 2.2, RFC 5952 4, RFC 6890.

import fc from 'fast-check';
import t from 'tap';
import {
  Cidr4,
  formatV4,
  IpAddress,
  isLinkLocalV4,
  isLoopbackV4,
  isMartianV4,
  isMulticastV4,
  parseAddress,
  parseV4,
} from '../../src/ip/address.ts';

const v4 = (text: string): number => {
  const v = parseV4(text);
  if (v === undefined) throw new Error(text);
  return v;
};

t.test('dotted quads are read strictly: four decimal numbers, no zeros in front', (t) => {
  t.equal(v4('192.168.65.1'), 0xc0a84101 | 0);
  t.equal(v4('255.255.255.255'), -1);
  t.equal(v4('0.0.0.0'), 0);
  const wrong = '256.0.0.1 1.2.3 1.2.3.4.5 01.2.3.4 1.2.3.04 1..2.3 1.2.3.x 0x1.2.3.4 1.2.3.4. -1.2.3.4 1.2.3.1000';
  for (const text of ['', ' 1.2.3.4', '1.2.3.4 ', ...wrong.split(' ')]) t.equal(parseV4(text), undefined, `"${text}"`);
  t.end();
});

t.test('property: every IPv4 address is read as it is written', async () => {
  fc.assert(
    fc.property(fc.integer(), (v) => {
      const address = parseAddress(formatV4(v));
      return address?.isV4 === true && address.family === 4 && address.v4 === v && address.toString() === formatV4(v);
    }),
  );
});

t.test('RFC 5952 4: one text for each IPv6 address', (t) => {
  for (const [text, canonical] of [
    ['2001:0db8:0:0:0:0:0:0001', '2001:db8::1'],
    ['2001:DB8::AbC', '2001:db8::abc'],
    // One group of zeros is written out; of two runs the longer one, of equal ones the first is left out.
    ['2001:db8:0:1:1:1:1:1', '2001:db8:0:1:1:1:1:1'],
    ['2001:db8::1:1:1:1:1', '2001:db8:0:1:1:1:1:1'],
    ['2001:0:0:1:0:0:0:1', '2001:0:0:1::1'],
    ['2001:db8:0:0:1:0:0:1', '2001:db8::1:0:0:1'],
    ['0:0:0:0:0:0:0:0', '::'],
    ['::1', '::1'],
    ['fe80::', 'fe80::'],
    ['1:2:3:4:5:6:7:8', '1:2:3:4:5:6:7:8'],
    ['64:ff9b::192.0.2.33', '64:ff9b::c000:221'],
    ['1:2:3:4:5:6:1.2.3.4', '1:2:3:4:5:6:102:304'],
    ['::ffff:192.168.65.1', '192.168.65.1'],
    ['::ffff:c0a8:4101', '192.168.65.1'],
  ] as const) {
    t.equal(parseAddress(text)?.toString(), canonical, text);
  }
  t.equal(parseAddress('::1')?.family, 6);
  t.end();
});

t.test('what is not an address', (t) => {
  const wrong = [
    ...'1:2:3:4:5:6:7 1:2:3:4:5:6:7:8:9 1::2::3 ::: :1 1: 12345:: g:: ::1%eth0 [::1] ::1/64 1:2:3:4:5:6:7:8::'.split(
      ' ',
    ),
    ...'::1.2.3 ::1.2.3.400 1.2.3.4::1 ::1.2.3.4:5 1:2:3:4:5:6:7:1.2.3.4 1:2:3:4:5:6:7:8:'.split(' '),
    'localhost',
    '1.2.3',
    '',
  ];
  for (const text of wrong) t.equal(parseAddress(text), undefined, `"${text}"`);
  t.end();
});

t.test('property: every IPv6 address is read as it is written', async () => {
  const word = fc.oneof(fc.integer(), fc.constantFrom(0, 1, 0xffff, 1 << 16, -1));
  fc.assert(
    fc.property(word, word, word, word, (a, b, c, d) => {
      const address = new IpAddress(a, b, c, d);
      const read = parseAddress(address.toString());
      return read?.equals(address) === true;
    }),
  );
  const one = new IpAddress(1, 2, 3, 4);
  t.notOk(one.equals(new IpAddress(0, 2, 3, 4)));
  t.notOk(one.equals(new IpAddress(1, 0, 3, 4)));
  t.notOk(one.equals(new IpAddress(1, 2, 0, 4)));
  t.notOk(one.equals(new IpAddress(1, 2, 3, 0)));
});

t.test('property: arbitrary text never throws', async () => {
  const unit = fc.constantFrom(...'0123456789abcdefF:.%/ [-x');
  fc.assert(
    fc.property(fc.string({ unit, maxLength: 45 }), (text) => {
      const address = parseAddress(text);
      Cidr4.parse(text);
      return address === undefined || parseAddress(address.toString())?.equals(address) === true;
    }),
    { numRuns: 2000 },
  );
});

t.test('networks', (t) => {
  const net = Cidr4.parse('192.168.65.77/24')!;
  t.equal(net.toString(), '192.168.65.0/24', 'host bits are cut off');
  t.equal(formatV4(net.broadcast), '192.168.65.255');
  t.ok(net.contains(v4('192.168.65.254')));
  t.notOk(net.contains(v4('192.168.66.1')));
  t.ok(Cidr4.parse('0.0.0.0/0')!.contains(v4('203.0.113.9')), 'everything');
  t.equal(formatV4(Cidr4.parse('128.0.0.0/1')!.broadcast), '255.255.255.255');
  const host = Cidr4.parse('10.0.0.1/32')!;
  t.ok(host.contains(v4('10.0.0.1')) && !host.contains(v4('10.0.0.2')), 'one address');
  for (const text of ['10.0.0.0', '10.0.0.0/33', '10.0.0.0/', '10.0.0/8', '/8', '10.0.0.0/8/8', '10.0.0.0/-1', '::/0'])
    t.equal(Cidr4.parse(text), undefined, text);
  t.end();
});

t.test('classes of IPv4 addresses (RFC 6890), to the edge', (t) => {
  for (const [test, first, last] of [
    [isLoopbackV4, '127.0.0.0', '127.255.255.255'],
    [isLinkLocalV4, '169.254.0.0', '169.254.255.255'],
    [isMulticastV4, '224.0.0.0', '239.255.255.255'],
  ] as const) {
    t.ok(test(v4(first)) && test(v4(last)), `${first} to ${last}`);
    t.notOk(test(v4(first) - 1) || test((v4(last) + 1) | 0), 'and nothing beside it');
  }
  for (const text of [
    '0.0.0.0',
    '0.255.255.255',
    '127.0.0.1',
    '224.0.0.1',
    '239.1.1.1',
    '240.0.0.1',
    '255.255.255.255',
  ])
    t.ok(isMartianV4(v4(text)), text);
  for (const text of ['1.0.0.0', '126.255.255.255', '128.0.0.0', '223.255.255.255', '10.0.0.1'])
    t.notOk(isMartianV4(v4(text)), text);
  t.end();
});
