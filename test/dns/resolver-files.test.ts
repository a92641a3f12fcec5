// Texts that say who resolves what: VPNKit's resolver file, macOS's /etc/resolver and `scutil --dns`.

import fc from 'fast-check';
import t from 'tap';
import { parseMacosResolver, parseScutilDns } from '../../src/dns/macos-resolvers.ts';
import { serverText } from '../../src/dns/resolv-conf.ts';
import { parseResolverFile, type ResolverFile } from '../../src/dns/resolver-file.ts';
import { HostUse, type UpstreamRule } from '../../src/dns/upstreams.ts';

const good = (text: string): ResolverFile => {
  const parsed = parseResolverFile(text, '/f');
  if ('line' in parsed) throw new Error(JSON.stringify(parsed));
  return parsed;
};
const shown = (rules: readonly UpstreamRule[]) =>
  Object.fromEntries(rules.map((r) => [r.domain || '.', r.servers.map(serverText)]));

t.test('VPNKit’s file: servers with zone, timeout, order; search; comments and unknown words', (t) => {
  const { rules, search } = good(
    [
      '# the VPN writes this',
      'timeout 9000',
      'nameserver 10.8.0.1#5353',
      'zone corp.example Intra.Example.',
      'timeout 2000',
      'timeout 7777',
      'order 1',
      '',
      'nameserver 192.0.2.1\r',
      'order 0',
      'nameserver 2001:db8::53',
      'assume-offline-after 2',
      'search corp.example lan',
      'whatever this is',
    ].join('\n'),
  );
  t.same(search, ['corp.example', 'lan']);
  t.same(shown(rules), {
    'corp.example': ['10.8.0.1:5353'],
    'intra.example': ['10.8.0.1:5353'],
    '.': ['192.0.2.1:53', '[2001:db8::53]:53', '10.8.0.1:5353'],
  });
  const vpn = rules[0]!.servers[0]!;
  t.same([vpn.timeoutMs, vpn.order], [2000, 1], 'the first of several lines; one before any server is of none');
  t.same([rules.at(-1)!.servers[0]!.timeoutMs, rules.at(-1)!.servers[0]!.order], [undefined, 0]);
  t.ok(rules.every((r) => r.thorough === true && r.source === '/f' && r.host === HostUse.Alone));
  t.end();
});

t.test('VPNKit: zones that a name lies in are asked together, the closer first; without any, all servers', (t) => {
  const { rules } = good(
    'nameserver 10.0.0.1\nzone corp.example\nnameserver 10.0.0.2\nzone eng.corp.example\nnameserver 10.0.0.3',
  );
  t.same(shown(rules), {
    'corp.example': ['10.0.0.1:53'],
    'eng.corp.example': ['10.0.0.2:53', '10.0.0.1:53'],
    '.': ['10.0.0.3:53', '10.0.0.1:53', '10.0.0.2:53'],
  });
  t.same(shown(good('nameserver 10.0.0.1\nnameserver 10.0.0.1\n').rules), { '.': ['10.0.0.1:53'] }, 'each once');
  t.same(good('# nothing\nsearch lan').rules, [], 'without a server there is no rule');
  t.end();
});

t.test('VPNKit: one malformed line voids the file, and is named', (t) => {
  const bad: [string, number][] = [
    ['nameserver dns.example', 1],
    ['nameserver 1.2.3.4\nnameserver 1.2.3.4#0', 2],
    ['nameserver', 1],
    ['nameserver 1.2.3.4 5.6.7.8', 1],
    ['\nnameserver 1.2.3.4\ntimeout soon', 3],
    ['nameserver 1.2.3.4\ntimeout 0', 2],
    ['nameserver 1.2.3.4\ntimeout 99999999', 2],
    ['nameserver 1.2.3.4\norder -1', 2],
    ['nameserver 1.2.3.4\norder', 2],
    ['nameserver 1.2.3.4\nzone', 2],
    ['nameserver 1.2.3.4\nzone a..b', 2],
    ['search \u0001', 1],
    ['nameserver 1.2.3.4\nassume-offline-after x', 2],
    [Array.from({ length: 65 }, (_, i) => `nameserver 10.0.0.${i}`).join('\n'), 65],
    [`nameserver 1.2.3.4\nzone ${Array.from({ length: 1025 }, (_, i) => `z${i}`).join(' ')}`, 2],
  ];
  for (const [text, line] of bad) {
    const parsed = parseResolverFile(text, '/f');
    t.match(parsed, { line, text: String, expected: /\w/ }, JSON.stringify(text.slice(0, 60)));
    t.ok('text' in parsed && parsed.text.length <= 100);
  }
  t.end();
});

t.test('resolver(5): a file of /etc/resolver', (t) => {
  const rule = parseMacosResolver(
    'nameserver 10.8.0.1 # office\nnameserver 10.8.0.2.5300\nnameserver fe80::1%utun3\nnameserver rubbish\nport 5353\ntimeout 2\nsearch_order 3\n',
    'Corp.Example',
    '/etc/resolver/Corp.Example',
  )!;
  t.equal(rule.domain, 'corp.example', 'the file’s name');
  t.same(rule.servers.map(serverText), ['10.8.0.1:5353', '10.8.0.2:5353', '[fe80::1%utun3]:5353']);
  t.same(
    rule.servers.map((s) => [s.timeoutMs, s.order]),
    Array(3).fill([2000, 3]),
  );
  t.equal(rule.host, HostUse.First, 'the platform knows the interface');
  t.equal(rule.source, '/etc/resolver/Corp.Example');
  const named = parseMacosResolver(
    'domain other.example\nnameserver 10.8.0.2.5300\noptions ndots:1 timeout:4',
    'x',
    '',
  )!;
  t.equal(named.domain, 'other.example');
  t.same(
    named.servers.map((s) => [serverText(s), s.timeoutMs]),
    [['10.8.0.2:5300', 4000]],
  );
  t.equal(parseMacosResolver('search a', 'corp.example', ''), undefined, 'no server');
  t.equal(parseMacosResolver('nameserver 10.0.0.1', '.', ''), undefined, 'no domain');
  t.end();
});

const SCUTIL = `DNS configuration

resolver #1
  search domain[0] : home.example
  nameserver[0] : 192.0.2.1
  nameserver[1] : 2001:db8::1
  if_index : 6 (en0)
  flags    : Request A records, Request AAAA records
  reach    : 0x00020002 (Reachable,Directly Reachable Address)

resolver #2
  domain   : corp.example
  nameserver[0] : 10.8.0.2
  if_index : 12 (utun3)
  flags    : Supplemental, Request A records
  reach    : 0x00000003 (Reachable,Transient Connection)
  order    : 101400

resolver #3
  domain   : corp.example.
  nameserver[0] : 10.8.0.1
  port     : 5353
  timeout  : 5
  order    : 100400

resolver #4
  domain   : local
  options  : mdns
  timeout  : 5
  order    : 300000

resolver #5
  domain   : 254.169.in-addr.arpa
  options  : mdns
  order    : 300200

resolver #6
  domain   : empty.example

DNS configuration (for scoped queries)

resolver #1
  nameserver[0] : 198.51.100.9
  if_index : 6 (en0)
  flags    : Scoped, Request A records
`;

t.test('scutil --dns: default, supplemental domains by order, mDNS; interfaces’ own are left out', (t) => {
  const rules = parseScutilDns(SCUTIL);
  t.same(shown(rules), {
    '.': ['192.0.2.1:53', '[2001:db8::1]:53'],
    'corp.example': ['10.8.0.2:53', '10.8.0.1:5353'],
    local: [],
  });
  const of = (domain: string) => rules.find((r) => r.domain === domain)!;
  t.same(
    of('corp.example').servers.map((s) => [s.order, s.timeoutMs]),
    [
      [101_400, undefined],
      [100_400, 5000],
    ],
  );
  t.equal(of('').host, HostUse.Last);
  t.equal(of('corp.example').host, HostUse.First);
  t.equal(of('local').host, HostUse.First, 'only the host speaks mDNS');
  t.notMatch(JSON.stringify(shown(rules)), /198\.51/);
  t.same(parseScutilDns(''), []);
  t.same(parseScutilDns('No DNS configuration available\n'), []);
  t.end();
});

t.test('property: any text is read without a throw, and what is read is bounded', async () => {
  const word = fc.constantFrom(
    'nameserver',
    'zone',
    'order',
    'timeout',
    'search',
    'domain',
    ' : ',
    'resolver #1',
    '  nameserver[0] :',
    '10.0.0.1',
    '#53',
    '.',
    '\n',
    '\r\n',
    '\t',
    'a.b',
  );
  const text = fc.oneof(
    fc.string(),
    fc.array(fc.oneof(word, fc.string({ maxLength: 4 })), { maxLength: 60 }).map((w) => w.join(' ')),
  );
  fc.assert(
    fc.property(text, (s) => {
      parseScutilDns(s);
      parseMacosResolver(s, s.slice(0, 20), '');
      const parsed = parseResolverFile(s, '/f');
      return 'line' in parsed || parsed.rules.every((r) => r.servers.length > 0 && r.servers.length <= 64);
    }),
    { numRuns: 1000 },
  );
});
