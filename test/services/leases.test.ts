// The lease table: limits, names, storing, and the properties that two clients never share and nothing grows without bound.

import fc from 'fast-check';
import t from 'tap';
import type { GuestNames as DnsGuestNames } from '../../src/dns/local-names.ts';
import { Cidr4, formatV4, IpAddress } from '../../src/ip/address.ts';
import { formatMac } from '../../src/services/client-key.ts';
import { hostLabel } from '../../src/services/guest-names.ts';
import { type LeaseClient, Leases, type LeasesOptions } from '../../src/services/leases.ts';
import { ip, mac, Net } from './dhcp-fixture.ts';

const make = (o: Partial<LeasesOptions> = {}) =>
  new Leases({
    network: new Cidr4(ip('10.0.0.0'), 24),
    gateway: ip('10.0.0.1'),
    hostAlias: ip('10.0.0.254'),
    fixed: [],
    leaseMs: 1000,
    ...o,
  });
const client = (n: number, vmId = 1, idKey = ''): LeaseClient => ({
  vmId,
  mac: mac(n),
  macText: formatMac(mac(n), 0),
  idKey,
});

function grant(leases: Leases, c: LeaseClient, now: number, name?: string): string | undefined {
  const lease = leases.select(c, undefined, now);
  if (lease === undefined) return undefined;
  leases.bind(lease, c, 1000, name, now);
  return formatV4(lease.address);
}

t.test('the pool of any network from /8 to /29', async (t) => {
  const rows: [string, string, string | undefined, number, string][] = [
    ['10.0.0.0/8', '10.0.0.1', '10.0.0.254', 2 ** 24 - 5, '10.0.0.3'],
    ['172.16.0.0/12', '172.16.0.3', undefined, 2 ** 20 - 5, '172.16.0.4'],
    ['192.168.65.0/24', '192.168.65.1', '192.168.65.254', 251, '192.168.65.3'],
    ['192.168.65.248/29', '192.168.65.249', '192.168.65.254', 3, '192.168.65.251'],
    ['223.255.255.248/29', '223.255.255.249', undefined, 4, '223.255.255.251'],
  ];
  for (const [cidr, gateway, alias, size, first] of rows) {
    const leases = make({
      network: Cidr4.parse(cidr)!,
      gateway: ip(gateway),
      hostAlias: alias === undefined ? undefined : ip(alias),
    });
    t.equal(leases.pool.size, size, cidr);
    t.equal(grant(leases, client(1), 0), first, cidr);
    t.notOk(leases.pool.open(leases.pool.network.broadcast), 'broadcast');
    t.notOk(leases.pool.open(ip(gateway)), 'gateway');
  }
});

t.test('limits', async (t) => {
  await t.test('one VM cannot take the last addresses', async (t) => {
    const leases = make();
    let n = 0;
    while (grant(leases, client(n + 1), 0) !== undefined) n++;
    t.equal(n, 251 - 15);
    t.equal(leases.stats.vmLimited, 1);
    t.ok(grant(leases, client(1000, 2), 0), 'another VM gets one');
    t.ok(grant(leases, client(1), 0), 'and its own clients keep theirs');
  });
  await t.test('records', async (t) => {
    const leases = make({ maxRecords: 3 });
    for (let i = 1; i <= 3; i++) grant(leases, client(i), i);
    t.equal(grant(leases, client(4), 10), undefined);
    t.equal(grant(leases, client(4), 5000), '10.0.0.3', 'the record that expired first makes room');
    t.equal(leases.size, 3);
  });
  await t.test('offers that nobody takes leave no trace', async (t) => {
    const leases = make({ network: new Cidr4(ip('10.0.0.0'), 28), maxPerVm: 1000 });
    let changes = 0;
    leases.onChange = () => changes++;
    for (let i = 0; i < 5000; i++) leases.select(client(i), undefined, i * 10_000);
    t.ok(leases.size <= 12);
    t.equal(changes, 0);
    t.same(leases.serialise(0), []);
    t.equal(leases.stats.exhausted, 0);
  });
  await t.test('declines never quarantine more than a quarter', async (t) => {
    const leases = make();
    for (let i = 0; i < 500; i++) {
      grant(leases, client(1), i);
      leases.decline(leases.find(client(1), i)!, i);
    }
    t.equal(leases.stats.quarantined, 500);
    t.equal(leases.stats.quarantineLimited, 500 - 62);
    t.ok(grant(leases, client(2), 500));
  });
});

t.test('host names (RFC 952, RFC 1123 2.1)', async (t) => {
  const rows: [string, string | undefined][] = [
    ['web', 'web'],
    ['Web-1', 'web-1'],
    ['web.example.org', 'web'],
    ['web.', 'web'],
    ['web\0', 'web'],
    ['a'.repeat(63), 'a'.repeat(63)],
    ['a'.repeat(64), undefined],
    ['', undefined],
    ['\0', undefined],
    ['-a', undefined],
    ['a-', undefined],
    ['a_b', undefined],
    ['a b', undefined],
    ['a..b', undefined],
    ['a\0b', undefined],
    ['b\xfccher', undefined],
    ['10', undefined],
    ['0x7f', undefined],
    ['10.0.0.1', undefined],
    ['localhost', undefined],
    ['WPAD', undefined],
    ['x'.repeat(300), undefined],
    ['__proto__', undefined],
    ['constructor', 'constructor'],
  ];
  for (const [text, want] of rows) t.equal(hostLabel(text), want, JSON.stringify(text));

  const leases = make();
  const names: DnsGuestNames = leases.names;
  const version = names.version;
  grant(leases, client(1), 0, 'web');
  grant(leases, client(2), 0, 'web');
  t.equal(`${names.addressOf('web')}`, '10.0.0.3', 'first wins');
  t.equal(leases.names.conflicts, 1);
  t.equal(names.hostOf(IpAddress.v4(ip('10.0.0.4'))), undefined);
  t.equal(names.hostOf(IpAddress.v4(ip('10.0.0.3'))), 'web');
  t.not(names.version, version);
  grant(leases, client(1), 1, 'db');
  t.equal(names.addressOf('web'), undefined, 'renamed');
  grant(leases, client(1), 2, '-');
  t.equal(`${names.addressOf('db')}`, '10.0.0.3', 'rubbish changes nothing');
  grant(leases, client(2), 5000, 'db');
  t.equal(`${names.addressOf('db')}`, '10.0.0.4', 'the name of an expired lease is free');
  t.equal(leases.names.nameOf(ip('10.0.0.3')), undefined);
  t.equal(leases.names.lookupName('constructor'), undefined);
});

t.test('serialise and restore', async (t) => {
  const a = make();
  grant(a, client(1), 100, 'web');
  grant(a, client(2, 1, 'id:ff01'), 200);
  a.select(client(3), undefined, 200);
  const data = JSON.parse(JSON.stringify(a.serialise(300))) as unknown[];
  t.equal(data.length, 2, 'offers are not stored');
  const b = make();
  t.equal(b.restore(data, 9000), 0);
  t.same(b.serialise(9000), data, 'the same time is left');
  t.equal(b.names.lookupName('web'), ip('10.0.0.3'));
  t.equal(grant(b, client(9), 9000), '10.0.0.5', 'theirs are taken');
  t.equal(grant(b, client(2, 1, 'id:ff01'), 20_000), '10.0.0.4', 'stable by identifier');

  const good = {
    client: '52:54:00:00:00:01',
    mac: '52:54:00:00:00:01',
    address: '10.0.0.9',
    hostName: '',
    remainingMs: 5,
  };
  const rows: [string, unknown][] = [
    ['not a record', 7],
    ['null', null],
    ['no client', { ...good, client: undefined }],
    ['client', { ...good, client: 'id:xyz' }],
    ['mac', { ...good, mac: '52:54' }],
    ['address', { ...good, address: '10.0.0.256' }],
    ['another network', { ...good, address: '10.0.1.9' }],
    ['gateway', { ...good, address: '10.0.0.1' }],
    ['time', { ...good, remainingMs: Number.NaN }],
    ['time as text', { ...good, remainingMs: '5' }],
    ['fixed for another', { ...good, address: '10.0.0.77' }],
    ['MAC with another fixed lease', { ...good, client: '52:54:00:00:00:63', mac: '52:54:00:00:00:63' }],
    ['key with another fixed lease', { ...good, client: '52:54:00:00:00:63' }],
  ];
  const fixed = [{ mac: '52:54:00:00:00:63', address: ip('10.0.0.77') }];
  for (const [name, record] of rows) t.equal(make({ fixed }).restore([record], 0), 1, name);
  t.equal(make().restore([good, { ...good, client: 'id:01' }, { ...good, address: '10.0.0.8' }], 0), 2, 'taken twice');
  const far = make();
  t.equal(far.restore([{ ...good, remainingMs: 1e15 }], 0), 0);
  t.equal(far.serialise(0)[0]?.remainingMs, 1000, 'a clock that was set back gives nobody a lease for years');
});

t.test('property: two clients never hold one address, and nothing grows without bound', async () => {
  const action = fc.record({
    kind: fc.constantFrom('lease', 'lease', 'lease', 'offer', 'release', 'decline', 'reserve', 'unpin', 'gone'),
    who: fc.nat(30),
    vm: fc.integer({ min: 1, max: 3 }),
    id: fc.nat(5),
    wait: fc.nat(800),
  });
  fc.assert(
    fc.property(fc.array(action, { maxLength: 120 }), (actions) => {
      const leases = make({
        network: new Cidr4(ip('10.0.0.0'), 28),
        hostAlias: ip('10.0.0.14'),
        fixed: [{ mac: formatMac(mac(3), 0), address: ip('10.0.0.5') }],
        offerMs: 500,
        quarantineMs: 700,
        maxRecords: 9,
      });
      let now = 0;
      for (const a of actions) {
        now += a.wait;
        const c = client(a.who, a.vm, a.id === 0 ? '' : `id:0${a.id}`);
        if (a.kind === 'lease') grant(leases, c, now, `n${a.id}`);
        else if (a.kind === 'offer') leases.select(c, ip(`10.0.0.${a.who}`), now);
        else if (a.kind === 'reserve') leases.reserve(c.mac, c.macText, a.id === 0 ? ip('10.0.0.7') : undefined, now);
        else if (a.kind === 'unpin') leases.unpin(c.macText, a.id === 1, now);
        else if (a.kind === 'gone') leases.vmGone(a.vm);
        else {
          const lease = leases.find(c, now);
          if (lease?.bound) leases[a.kind as 'release' | 'decline'](lease, now);
        }
        const seen = new Set<number>();
        const names = new Set<string>();
        for (const l of leases.values()) {
          if (seen.has(l.address) || (!l.fixed && !leases.pool.open(l.address))) return false;
          if (l.hostName !== '' && names.has(l.hostName)) return false;
          if (l.hostName !== '' && leases.names.lookupName(l.hostName) !== l.address) return false;
          seen.add(l.address);
          names.add(l.hostName);
        }
        if (leases.size > 10) return false;
        const copy = make({
          network: leases.pool.network,
          hostAlias: ip('10.0.0.14'),
          fixed: [{ mac: formatMac(mac(3), 0), address: ip('10.0.0.5') }],
        });
        if (copy.restore(leases.serialise(now), 0) !== 0) return false;
      }
      return true;
    }),
    { numRuns: 300 },
  );
});

t.test('property: DORA of any clients by the wire', async () => {
  fc.assert(
    fc.property(fc.array(fc.tuple(fc.nat(40), fc.nat(3), fc.nat(4000)), { maxLength: 60 }), (steps) => {
      const net = new Net({ network: new Cidr4(ip('192.168.65.0'), 27), leaseMs: 60_000 });
      const held = new Map<number, number>();
      for (const [who, id, wait] of steps) {
        net.now += wait;
        const address = net.lease(mac(who), 1, id === 0 ? [] : [[61, [255, who, id]]]);
        if (address === undefined) continue;
        const key = who * 10 + id;
        for (const [k, a] of held) if (k !== key && a === address && net.now < 60_000) return false;
        if (held.has(key) && held.get(key) !== address && net.leases.stats.reused === 0) return false;
        held.set(key, address);
      }
      return true;
    }),
    { numRuns: 100 },
  );
});
