import fc from 'fast-check';
import t from 'tap';
import { nearest } from '../../src/daemon/nearest.ts';
import {
  formatDuration,
  formatEndpoint,
  GrammarError,
  parseDescriptor,
  parseDnsServer,
  parseDomain,
  parseDuration,
  parseInteger,
  parseLease,
  parseLoopbackEndpoint,
  parseMemory,
  parseNetwork,
  parseUnicastMac,
  parseUnicastV4,
} from '../../src/daemon/value-grammar.ts';

const DAY_MS = 86_400_000;

t.test('good values', (t) => {
  t.equal(parseInteger('1500', 576, 65520, 'bytes'), 1500);
  t.equal(`${parseNetwork('10.0.0.0/8')}`, '10.0.0.0/8');
  t.equal(`${parseNetwork('172.16.5.8/29')}`, '172.16.5.8/29');
  const dns = (text: string) => {
    const { address, port } = parseDnsServer(text);
    return formatEndpoint(address, port);
  };
  t.equal(dns('1.1.1.1'), '1.1.1.1:53');
  t.equal(dns('1.1.1.1:5353'), '1.1.1.1:5353');
  t.equal(dns('2606:4700::1111'), '[2606:4700::1111]:53');
  t.equal(dns('[2606:4700::1111]'), '[2606:4700::1111]:53');
  t.equal(dns('[2606:4700::1111]:5353'), '[2606:4700::1111]:5353');
  t.equal(parseLoopbackEndpoint('127.1.2.3:0').port, 0);
  t.equal(`${parseLoopbackEndpoint('[::1]:9100').address}`, '::1');
  t.match(parseLease('52-54-00-AB-cd-01=192.168.65.9'), { mac: '52:54:00:ab:cd:01' });
  t.equal(parseUnicastMac('5A-94-EF-e4-0c-dd'), '5a:94:ef:e4:0c:dd');
  t.equal(parseDuration('90', 0, DAY_MS), 90_000);
  t.equal(parseDuration('1h30m', 0, DAY_MS), 5_400_000);
  t.equal(parseDuration('250ms', 0, DAY_MS), 250);
  t.equal(parseMemory('64', 8, 1024), 64 * 1048576);
  t.equal(parseMemory('64MiB', 8, 1024), 64 * 1048576);
  t.equal(parseMemory('1g', 8, 1024), 1024 * 1048576);
  t.equal(parseDomain('Corp.Example.'), 'corp.example');
  t.equal(parseDescriptor('7'), 7);
  t.end();
});

t.test('bad values: what is wrong', (t) => {
  const cases: [() => unknown, RegExp][] = [
    [() => parseInteger('1e3', 0, 9999, ''), /not a whole number/],
    [() => parseInteger('-1', 0, 9, ''), /too small/],
    [() => parseInteger('10', 0, 9, ''), /too large/],
    [() => parseInteger('', 0, 9, ''), /not a whole number/],
    [() => parseNetwork('192.168.65.0'), /not an IPv4 network/],
    [() => parseNetwork('192.168.65.0/30'), /prefix length 30/],
    [() => parseNetwork('0.0.0.0/7'), /prefix length 7/],
    [() => parseNetwork('192.168.65.1/24'), /inside a network/],
    [() => parseNetwork('127.0.0.0/8'), /machines can live in/],
    [() => parseNetwork('169.254.0.0/16'), /machines can live in/],
    [() => parseNetwork('224.0.0.0/8'), /machines can live in/],
    [() => parseNetwork('fd65::/64'), /not an IPv4 network/],
    [() => parseUnicastV4('::1'), /not an IPv4 address/],
    [() => parseUnicastV4('255.255.255.255'), /machine can have/],
    [() => parseDnsServer('dns.example'), /is a name/],
    [() => parseDnsServer('1.1.1.1:'), /has no port/],
    [() => parseDnsServer('1.1.1.1:0'), /port 0/],
    [() => parseDnsServer('1.1.1.1:70000'), /port 70000/],
    [() => parseDnsServer('0.0.0.0'), /not a server address/],
    [() => parseDnsServer('fe80::1%eth0'), /zone/],
    [() => parseDnsServer(''), /not an IP address/],
    [() => parseLoopbackEndpoint('9100'), /not ADDRESS:PORT/],
    [() => parseLoopbackEndpoint(':9100'), /not an IP address/],
    [() => parseLoopbackEndpoint('localhost:9100'), /has a name/],
    [() => parseLoopbackEndpoint('0.0.0.0:9100'), /not loopback/],
    [() => parseLoopbackEndpoint('[::]:9100'), /not loopback/],
    [() => parseLoopbackEndpoint('127.0.0.1:x'), /"x" as its port/],
    [() => parseUnicastMac('5a:94:ef:e4:0c'), /not a MAC/],
    [() => parseUnicastMac('5b:94:ef:e4:0c:dd'), /multicast/],
    [() => parseUnicastMac('00-00-00-00-00-00'), /zero/],
    [() => parseLease('52:54:00:12:34:56'), /not MAC=ADDRESS/],
    [() => parseLease('52:54:00:12:34=1.2.3.4'), /as its MAC/],
    [() => parseLease('01:00:5e:00:00:01=1.2.3.4'), /multicast/],
    [() => parseLease('00:00:00:00:00:00=1.2.3.4'), /zero/],
    [() => parseLease('52:54:00:12:34:56=1.2.3'), /as its IPv4 address/],
    [() => parseDuration('soon', 0, DAY_MS), /not a duration/],
    [() => parseDuration('1h30', 0, DAY_MS), /not a duration/],
    [() => parseDuration('1ms', 1000, DAY_MS), /too short/],
    [() => parseDuration('2d', 0, DAY_MS), /too long/],
    [() => parseMemory('48', 8, 1024), /power of two/],
    [() => parseMemory('4', 8, 1024), /too small/],
    [() => parseMemory('2G', 8, 1024), /too large/],
    [() => parseMemory('64k', 8, 1024), /not a size/],
    [() => parseDomain('a..b'), /not a DNS name/],
    [() => parseDomain('-a'), /not a DNS name/],
    [() => parseDomain('x'.repeat(64)), /not a DNS name/],
    [() => parseDomain('a.'.repeat(130)), /longer than 253/],
    [() => parseDescriptor('2'), /standard/],
    [() => parseDescriptor('three'), /not a number/],
  ];
  for (const [run, words] of cases) {
    t.throws(run, { name: 'GrammarError', message: words }, words.source);
    try {
      run();
    } catch (error) {
      t.ok(error instanceof GrammarError && error.right !== '', 'says what would be right');
    }
  }
  t.end();
});

t.test('durations are read back from their text', (t) => {
  fc.assert(
    fc.property(
      fc.integer({ min: 0, max: DAY_MS * 400 }),
      (ms) => parseDuration(formatDuration(ms), 0, Infinity) === ms,
    ),
  );
  t.end();
});

t.test('the nearest word is suggested, and only a near one', (t) => {
  const words = ['vm', 'mtu', 'network', 'publish', 'host-alias', 'log-level'];
  t.equal(nearest('pubish', words), 'publish');
  t.equal(nearest('mut', words), 'mtu', 'a swap is one step');
  t.equal(nearest('hostalias', words), 'host-alias');
  t.equal(nearest('LOGLEVEL', words), 'log-level');
  t.equal(nearest('banana', words), undefined);
  t.equal(nearest('x'.repeat(100_000), words), undefined, 'a long word costs little');
  t.end();
});
