import fc from 'fast-check';
import t from 'tap';
import { formatPublish, PUBLISH_RANGE_MAX, type PublishSpec, parsePublish } from '../../src/daemon/publish-spec.ts';
import { GrammarError } from '../../src/daemon/value-grammar.ts';
import { IpAddress } from '../../src/ip/address.ts';

/** Full forms of what a text gives. */
function full(text: string): string[] {
  return parsePublish(text).map(formatPublish);
}

t.test('the full form', (t) => {
  t.strictSame(full('127.0.0.1:8080:192.168.65.3:80'), ['tcp:127.0.0.1:8080:192.168.65.3:80']);
  t.strictSame(full('tcp:127.0.0.1:8080:192.168.65.3:80'), ['tcp:127.0.0.1:8080:192.168.65.3:80']);
  t.strictSame(full('udp:[::1]:53:192.168.65.3:5353'), ['udp:[::1]:53:192.168.65.3:5353']);
  t.strictSame(full('tcp:0.0.0.0:0:[fd65::3]:80'), ['tcp:0.0.0.0:0:[fd65::3]:80']);
  t.end();
});

t.test('the short forms of docker run -p', (t) => {
  t.strictSame(full('80'), ['tcp:0.0.0.0:0::80'], 'a free host port');
  t.strictSame(full('80/udp'), ['udp:0.0.0.0:0::80']);
  t.strictSame(full('8080:80'), ['tcp:0.0.0.0:8080::80']);
  t.strictSame(full('8080:80/tcp'), ['tcp:0.0.0.0:8080::80']);
  t.strictSame(full('8080:80/UDP'), ['udp:0.0.0.0:8080::80']);
  t.strictSame(full('127.0.0.1:8080:80'), ['tcp:127.0.0.1:8080::80']);
  t.strictSame(full('127.0.0.1::80'), ['tcp:127.0.0.1:0::80'], 'a free host port on one address');
  t.strictSame(full('[::1]:8080:80'), ['tcp:[::1]:8080::80']);
  t.strictSame(full('[::]::80/udp'), ['udp:[::]:0::80']);
  t.strictSame(full('8080:192.168.65.3:80'), ['tcp:0.0.0.0:8080:192.168.65.3:80'], 'ours: with the guest');
  t.end();
});

t.test('ranges of equal length', (t) => {
  t.strictSame(full('8000-8002:80-82'), ['tcp:0.0.0.0:8000::80', 'tcp:0.0.0.0:8001::81', 'tcp:0.0.0.0:8002::82']);
  t.strictSame(full('udp:127.0.0.1:7000-7001:192.168.65.3:9000-9001'), [
    'udp:127.0.0.1:7000:192.168.65.3:9000',
    'udp:127.0.0.1:7001:192.168.65.3:9001',
  ]);
  t.strictSame(full('80-81'), ['tcp:0.0.0.0:0::80', 'tcp:0.0.0.0:0::81']);
  t.equal(parsePublish(`1-${PUBLISH_RANGE_MAX}:1-${PUBLISH_RANGE_MAX}`).length, PUBLISH_RANGE_MAX);
  t.end();
});

t.test('each malformed spec says which part is wrong', (t) => {
  const cases: [string, RegExp][] = [
    ['', /has no guest port/],
    [':', /has no host port/],
    [':80', /has no host port/],
    ['8080:', /has no guest port/],
    ['x:80', /"x" as its host port/],
    ['8080:x', /"x" as its guest port/],
    ['8080:-80', /"-80" as its guest port/],
    ['8080:0', /has guest port 0/],
    ['8080:65536', /has guest port 65536/],
    ['70000:80', /has host port 70000/],
    ['127.0.0.1:80', /no host port after the address 127\.0\.0\.1/],
    ['[::1]:80', /no host port after the address \[::1\]/],
    ['localhost:8080:80', /has a name as its host address/],
    ['web:8080:80', /"web" as its host address/],
    ['127.0.0.300:8080:80', /"127\.0\.0\.300" as its host address/],
    ['127.0.0.1:8080:gu_est:80', /"gu_est" as its guest address/],
    ['127.0.0.1:8080:[::x]:80', /"\[::x\]" as its guest address/],
    ['::1:8080:80', /has 5 parts/],
    ['[::1:8080:80', /brackets in the wrong place/],
    ['[::1]8080:80', /brackets in the wrong place/],
    ['8080:80/sctp', /unknown protocol "sctp"/],
    ['8080:80/', /unknown protocol ""/],
    ['sctp:8080:80', /unknown protocol "sctp"/],
    ['tpc:8080:80', /unknown protocol "tpc"/],
    ['tcp:8080:80/udp', /says tcp: before and \/udp after/],
    ['8000-8010:80', /11 ports on the host and 1 port in the guest/],
    ['8000:80-81', /1 port on the host and 2 ports in the guest/],
    ['8010-8000:80-90', /host port range 8010-8000, which runs backwards/],
    ['0-1:80-81', /port 0 in the host port range 0-1/],
    ['1-5000', /a range of 5000 ports/],
  ];
  for (const [text, words] of cases) {
    t.throws(() => parsePublish(text), { name: 'GrammarError', message: words }, JSON.stringify(text));
  }
  t.end();
});

const v4 = fc.integer().map((v) => IpAddress.v4(v));
const v6 = fc.tuple(fc.integer(), fc.integer(), fc.integer(), fc.integer()).map((w) => new IpAddress(...w));
const spec: fc.Arbitrary<PublishSpec> = fc.record({
  protocol: fc.constantFrom('tcp' as const, 'udp' as const),
  hostAddress: fc.oneof(v4, v6),
  hostPort: fc.integer({ min: 0, max: 65535 }),
  guestAddress: fc.oneof(v4, v6, fc.constant(undefined)),
  guestPort: fc.integer({ min: 1, max: 65535 }),
});

t.test('parse(format(x)) = x', (t) => {
  fc.assert(
    fc.property(spec, (x) => {
      const [y, more] = parsePublish(formatPublish(x));
      return (
        more === undefined &&
        y!.protocol === x.protocol &&
        y!.hostPort === x.hostPort &&
        y!.guestPort === x.guestPort &&
        y!.hostAddress.equals(x.hostAddress) &&
        (x.guestAddress === undefined ? y!.guestAddress === undefined : x.guestAddress.equals(y!.guestAddress!))
      );
    }),
  );
  t.end();
});

t.test('any text gives ports or a GrammarError', (t) => {
  const piece = fc.constantFrom(
    ':',
    '-',
    '/',
    '[',
    ']',
    '.',
    'tcp',
    'udp',
    '80',
    '127.0.0.1',
    '::1',
    '0',
    'x',
    ' ',
    '\n',
  );
  fc.assert(
    fc.property(
      fc.oneof(
        fc.string(),
        fc.array(piece, { maxLength: 12 }).map((p) => p.join('')),
      ),
      (text) => {
        try {
          return parsePublish(text).length > 0;
        } catch (error) {
          return error instanceof GrammarError && error.message !== '' && error.right !== '';
        }
      },
    ),
    { numRuns: 2000 },
  );
  t.end();
});
