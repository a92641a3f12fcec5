import t from 'tap';
import { parseHosts } from '../../src/dns/hosts.ts';
import { GATEWAY_NAMES, HOST_NAMES, Source } from '../../src/dns/local-names.ts';
import { Policy } from '../../src/dns/policy.ts';
import { reverseName } from '../../src/dns/reverse.ts';
import { Guests, ip, localNames } from './rig.ts';

function policy(): { p: Policy; guests: Guests } {
  const guests = new Guests();
  guests.names.set('web', '192.168.65.3');
  guests.names.set('wpad', '192.168.65.4');
  return { p: new Policy(localNames(guests)), guests };
}

t.test('DNS-11: built-in names, both families', async (t) => {
  const { p } = policy();
  for (const n of HOST_NAMES) {
    const a = p.lookup(n);
    t.equal(a?.source, Source.HostAlias, n);
    t.same(a?.addresses.map(String), ['192.168.65.254', 'fd65:6973:7468::254']);
  }
  for (const n of GATEWAY_NAMES) t.same(p.lookup(n)?.addresses.map(String), ['192.168.65.1', 'fd65:6973:7468::1'], n);
  t.equal(p.lookup('example.org'), undefined);
  t.equal(p.lookup('xhost.docker.internal'), undefined);
  t.equal(p.lookup('.'), undefined);
});

t.test('DNS-11: RFC 6761 6.3: localhost stays in the guest', async (t) => {
  const { p } = policy();
  for (const n of ['localhost', 'a.b.localhost']) t.same(p.lookup(n)?.addresses.map(String), ['127.0.0.1', '::1'], n);
  t.same(p.lookup('1.0.0.127.in-addr.arpa')?.names, ['localhost']);
  t.same(p.lookup(reverseName(ip('::1')))?.names, ['localhost']);
});

t.test('VMs by their DHCP host names, bare and in both domains', async (t) => {
  const { p, guests } = policy();
  for (const n of ['web', 'web.lan.example', 'web.isthmus.internal']) {
    t.same(p.lookup(n)?.addresses.map(String), ['192.168.65.3'], n);
  }
  t.equal(p.lookup('web.example.org'), undefined);
  t.equal(p.lookup('other.lan.example'), undefined, 'the operator’s domain may exist outside');
  t.equal(p.lookup('wpad'), undefined, 'a VM cannot become the proxy configuration of the others');
  const before = p.version;
  guests.version++;
  t.not(p.version, before);
});

t.test('what is ours alone does not exist elsewhere', async (t) => {
  const { p } = policy();
  t.equal(p.lookup('nobody.isthmus.internal')?.exists, false);
  t.equal(p.lookup('isthmus.internal')?.exists, true);
  t.equal(p.lookup('9.65.168.192.in-addr.arpa')?.exists, false);
  t.equal(p.lookup('9.66.168.192.in-addr.arpa'), undefined);
});

t.test('PTR for gateway, host alias and guests', async (t) => {
  const { p } = policy();
  const ptr = (a: string) => p.lookup(reverseName(ip(a)))?.names;
  t.same(ptr('192.168.65.1'), ['gateway.isthmus.internal']);
  t.same(ptr('fd65:6973:7468::1'), ['gateway.isthmus.internal']);
  t.same(ptr('192.168.65.254'), ['host.isthmus.internal']);
  t.same(ptr('192.168.65.3'), ['web.lan.example']);
});

t.test('the hosts file comes after the built-in names', async (t) => {
  const { p } = policy();
  const before = p.version;
  p.setHosts(
    parseHosts(
      [
        '10.9.9.9 host.docker.internal web',
        '10.1.2.3 db.corp.example',
        '127.0.1.1 laptop',
        '::1 laptop',
        '0.0.0.0 ads.example',
        '192.168.65.77 static',
      ].join('\n'),
    ),
  );
  t.not(p.version, before);
  t.equal(p.lookup('host.docker.internal')?.source, Source.HostAlias);
  t.equal(p.lookup('web')?.source, Source.Guest);
  t.same(p.lookup('db.corp.example')?.addresses.map(String), ['10.1.2.3']);
  t.same(p.lookup('3.2.1.10.in-addr.arpa')?.names, ['db.corp.example']);
  t.same(
    p.lookup('laptop')?.addresses.map(String),
    ['192.168.65.254', 'fd65:6973:7468::254'],
    'the host’s loopback is the host alias for a guest',
  );
  t.equal(p.lookup('1.1.0.127.in-addr.arpa'), undefined);
  t.same(p.lookup('ads.example')?.addresses.map(String), ['0.0.0.0']);
});
