// Names and zones that are added while the daemon runs, and where they stand among the other sources of local names.

import t from 'tap';
import { parseHosts } from '../../src/dns/hosts.ts';
import { LocalNames, type LocalNamesOptions } from '../../src/dns/local-names.ts';
import { Policy } from '../../src/dns/policy.ts';
import { type Zone, Zones } from '../../src/dns/zones.ts';
import { Cidr4, IpAddress, parseAddress } from '../../src/ip/address.ts';

const guests: LocalNamesOptions['guests'] = {
  version: 0,
  addressOf: (host) => (host === 'vm' ? IpAddress.v4(0xc0a84103) : undefined),
  hostOf: () => undefined,
};

function made(...zones: Zone[]): { zones: Zones; policy: Policy; of: (name: string) => string } {
  const table = new Zones();
  for (const zone of zones) {
    const matchers = zone.records.flatMap(({ pattern }) =>
      pattern === undefined ? [] : [(text: string) => text.includes(pattern)],
    );
    table.setZone(zone, matchers);
  }
  const names = new LocalNames({
    gateway: [parseAddress('192.168.65.1')!],
    hostAlias: [parseAddress('192.168.65.254')!],
    network: Cidr4.parse('192.168.65.0/24')!,
    domain: 'isthmus.internal',
    guests,
    zones: table,
  });
  const policy = new Policy(names);
  const of = (name: string): string => {
    const answer = policy.lookup(name);
    if (answer === undefined) return 'upstream';
    if (!answer.exists) return 'NXDOMAIN';
    return [...answer.addresses.map(String), ...answer.names].join(' ') || 'NODATA';
  };
  return { zones: table, policy, of };
}

t.test('a name stands for itself, and is found backwards', (t) => {
  const { zones, of } = made();
  t.equal(of('web.example'), 'upstream');
  zones.setName({ name: 'web.example', addresses: ['192.0.2.1', '2001:db8::1'], ttl: 7 });
  t.equal(of('web.example'), '192.0.2.1 2001:db8::1');
  t.equal(zones.lookup('web.example')?.ttlSec, 7);
  t.equal(of('x.web.example'), 'upstream', 'and for nothing below');
  t.equal(of('1.2.0.192.in-addr.arpa'), 'web.example');
  t.ok(zones.deleteName('web.example'));
  t.notOk(zones.deleteName('web.example'));
  t.equal(of('web.example'), 'upstream');
  t.equal(of('1.2.0.192.in-addr.arpa'), 'upstream');
  t.end();
});

t.test('a zone: records in order, patterns, the default, and nothing else below it', (t) => {
  const { of } = made({
    name: 'corp.test',
    records: [
      { name: 'www', addresses: ['192.0.2.1'] },
      { pattern: 'node-', addresses: ['192.0.2.2'] },
      { name: 'node-7', addresses: ['192.0.2.3'] },
      { name: 'a.b', addresses: ['192.0.2.4'] },
    ],
  });
  t.equal(of('www.corp.test'), '192.0.2.1');
  t.equal(of('node-7.corp.test'), '192.0.2.2', 'the first that fits');
  t.equal(of('x.node-1.corp.test'), '192.0.2.2', 'a pattern sees all that is left of the zone');
  t.equal(of('a.b.corp.test'), '192.0.2.4');
  t.equal(of('nobody.corp.test'), 'NXDOMAIN');
  t.equal(of('corp.test'), 'upstream', 'the zone itself is not claimed');
  t.equal(of('notcorp.test'), 'upstream');
  t.equal(of('1.2.0.192.in-addr.arpa'), 'www.corp.test');
  const apex = made({
    name: 'corp.test',
    records: [{ name: '@', addresses: ['192.0.2.9'] }],
    defaultAddress: '192.0.2.8',
  });
  t.equal(apex.of('corp.test'), '192.0.2.9');
  t.equal(apex.of('any.thing.corp.test'), '192.0.2.8');
  t.end();
});

t.test('the most specific zone answers', (t) => {
  const { of } = made(
    { name: 'testing', records: [{ name: 'x.dynamic', addresses: ['192.0.2.1'] }] },
    { name: 'dynamic.testing', records: [], defaultAddress: '192.0.2.2' },
  );
  t.equal(of('x.dynamic.testing'), '192.0.2.2');
  t.equal(of('y.testing'), 'NXDOMAIN');
  t.end();
});

t.test(
  'among the other sources: before what is built in, but for localhost; defaults after guests, before the hosts file',
  (t) => {
    const { zones, policy, of } = made(
      { name: 'docker.internal', records: [{ name: 'db', addresses: ['192.0.2.1'] }] },
      {
        name: 'isthmus.internal',
        records: [{ name: 'special', addresses: ['192.0.2.2'] }],
        defaultAddress: '192.0.2.3',
      },
      { name: 'localhost', records: [{ pattern: '', addresses: ['192.0.2.4'] }] },
    );
    policy.setHosts(parseHosts('10.0.0.1 printer.office.test\n'));
    t.equal(of('db.docker.internal'), '192.0.2.1');
    t.equal(of('host.docker.internal'), '192.168.65.254', 'built in, as no record says otherwise');
    t.equal(of('other.docker.internal'), 'NXDOMAIN');
    t.equal(of('vm.isthmus.internal'), '192.168.65.3', 'guests before the default');
    t.equal(of('special.isthmus.internal'), '192.0.2.2');
    t.equal(of('unknown.isthmus.internal'), '192.0.2.3');
    t.equal(of('localhost'), '127.0.0.1 ::1');
    t.equal(of('printer.office.test'), '10.0.0.1');
    zones.setZone({ name: 'office.test', records: [] }, []);
    t.equal(of('printer.office.test'), 'NXDOMAIN', 'a zone answers for all below it');
    zones.setName({ name: 'host.docker.internal', addresses: ['192.0.2.7'] });
    t.equal(of('host.docker.internal'), '192.0.2.7', 'the operator goes first');
    t.end();
  },
);

t.test('each change is another version, so that cached answers are looked at again', (t) => {
  const { zones, policy } = made();
  const seen = new Set([policy.version]);
  const changes = [
    () => zones.setName({ name: 'a.test', addresses: ['192.0.2.1'] }),
    () => zones.setZone({ name: 'z.test', records: [] }, []),
    () => zones.deleteName('a.test'),
    () => zones.deleteZone('z.test'),
  ];
  for (const change of changes) {
    change();
    t.notOk(seen.has(policy.version));
    seen.add(policy.version);
  }
  const { version } = policy;
  zones.deleteZone('z.test');
  t.equal(policy.version, version, 'nothing changed');
  t.end();
});
