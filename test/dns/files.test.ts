import fc from 'fast-check';
import t from 'tap';
import { parseHosts } from '../../src/dns/hosts.ts';
import { asksMore } from '../../src/dns/nsswitch.ts';
import { parseResolvConf, parseServer, serverText } from '../../src/dns/resolv-conf.ts';

t.test('hosts(5): forward and reverse', async (t) => {
  const h = parseHosts(
    [
      '# comment',
      '127.0.0.1\tlocalhost',
      '10.1.2.3  DB.corp.example db   # the database',
      '10.1.2.4 db.corp.example.',
      '10.1.2.3 db.corp.example other',
      '2001:db8::5 six.corp.example\r',
      'fe80::1%lo0 scoped',
      'not-an-address name',
      '10.1.2.9',
      '10.1.2.8 bad..name good',
      '',
    ].join('\n'),
  );
  t.same(
    h.addresses.get('db.corp.example')?.map(String),
    ['10.1.2.3', '10.1.2.4'],
    'addresses of several lines, each once, in order',
  );
  t.same(h.addresses.get('db')?.map(String), ['10.1.2.3']);
  t.same(h.names.get('10.1.2.3'), ['db.corp.example'], 'the first name of a line is the canonical one');
  t.same(h.names.get('2001:db8::5'), ['six.corp.example']);
  t.ok(h.addresses.has('good'));
  t.notOk(h.addresses.has('scoped'));
  t.equal(h.skipped, 4);
});

t.test('resolv.conf(5)', async (t) => {
  const c = parseResolvConf(
    [
      '; comment',
      '# nameserver 9.9.9.9',
      'domain first.example',
      'nameserver 127.0.0.53 # stub',
      '  nameserver\t2001:db8::53',
      'nameserver fe80::1%eth0',
      'nameserver 10.0.0.1#5353',
      'nameserver 127.0.0.53',
      'nameserver nonsense',
      'nameserver',
      'search Corp.Example. lan # note',
      'options ndots:2 timeout:3 attempts:9 edns0 use-vc rotate ndots:x',
      'sortlist 10.0.0.0',
    ].join('\n'),
  );
  t.same(c.servers.map(serverText), ['127.0.0.53:53', '[2001:db8::53]:53', '[fe80::1%eth0]:53', '10.0.0.1:5353']);
  t.same(c.search, ['corp.example', 'lan'], 'the last of domain and search wins');
  t.same([c.ndots, c.timeoutSec, c.attempts, c.useTcp], [2, 3, 5, true]);
  t.same(c.unusable, ['nonsense']);
  const none = parseResolvConf('');
  t.same([none.servers, none.search, none.ndots, none.timeoutSec, none.attempts], [[], [], 1, 5, 2]);
  const many = parseResolvConf(Array.from({ length: 20 }, (_, i) => `nameserver 10.0.0.${i}`).join('\n'));
  t.equal(many.servers.length, 8, 'bounded');
});

t.test('the notation of a server', async (t) => {
  const good: [string, string][] = [
    ['1.2.3.4', '1.2.3.4:53'],
    ['1.2.3.4:5353', '1.2.3.4:5353'],
    ['1.2.3.4#54', '1.2.3.4:54'],
    ['2001:db8::1', '[2001:db8::1]:53'],
    ['2001:db8::1#54', '[2001:db8::1]:54'],
    ['[2001:db8::1]', '[2001:db8::1]:53'],
    ['[2001:db8::1]:54', '[2001:db8::1]:54'],
    ['[fe80::1%en0]:54', '[fe80::1%en0]:54'],
    ['0.0.0.0', '127.0.0.1:53'],
    ['::', '[::1]:53'],
  ];
  for (const [text, want] of good) {
    const s = parseServer(text);
    t.equal(s && serverText(s), want, text);
  }
  for (const bad of [
    '',
    '1.2.3',
    '1.2.3.4:0',
    '1.2.3.4:70000',
    '1.2.3.4:x',
    'dns.example',
    '[1.2.3.4',
    '1.2.3.4%eth0',
    'fe80::1%',
    'fe80::1%a%b',
    'fe80::1%a b',
    '2001:db8::1#',
  ]) {
    t.equal(parseServer(bad), undefined, JSON.stringify(bad));
  }
});

t.test('nsswitch.conf(5): whether libc may know more than the hosts file and the servers of resolv.conf', async (t) => {
  const no = [
    undefined,
    '',
    'hosts:',
    'hosts: files dns',
    '#hosts: mdns\nhosts: dns [!UNAVAIL=return] files',
    'passwd: sss',
  ];
  for (const text of no) t.notOk(asksMore(text), text ?? 'none');
  const yes = [
    'hosts: files mdns4_minimal [NOTFOUND=return] dns',
    'x: y\n hosts :resolve',
    'hosts: files\tnis dns\nhosts: files',
  ];
  for (const text of yes) t.ok(asksMore(text), text);
});

t.test('property: any text is read without a throw', async () => {
  const word = fc.constantFrom(
    'nameserver',
    'search',
    'options',
    '1.2.3.4',
    '::1',
    '#',
    ';',
    '%',
    'ndots:',
    'a.b',
    '\t',
    '\r\n',
    '\n',
  );
  const text = fc.oneof(
    fc.string(),
    fc.array(fc.oneof(word, fc.string({ maxLength: 5 })), { maxLength: 40 }).map((w) => w.join(' ')),
  );
  fc.assert(
    fc.property(text, (s) => {
      parseHosts(s);
      const c = parseResolvConf(s);
      return c.servers.every((x) => serverText(parseServer(serverText(x))!) === serverText(x));
    }),
    { numRuns: 1000 },
  );
});
