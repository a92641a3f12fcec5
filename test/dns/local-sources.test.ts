// What every source of local names has in common: addresses of both families, PTR where there is one, and NODATA for any other type.

import type * as packet from 'dns-packet';
import t from 'tap';
import { parseHosts } from '../../src/dns/hosts.ts';
import { Guest, query, server, zonedRig } from './rig.ts';

function rig() {
  const { zones, guests, transport, responder } = zonedRig();
  responder.setServers([server('192.0.2.1')], false, 0);
  responder.setHosts(parseHosts('10.1.2.3 db.corp.example db\n2001:db8::5 six.corp.example\n127.0.1.1 laptop\n'));
  guests.names.set('web', '192.168.65.9');
  const records = [
    { name: '@', addresses: ['10.0.0.1'] },
    { name: 'api', addresses: ['10.0.0.2', '2001:db8::2'], ttl: 30 },
    { pattern: '^v[0-9]+$', addresses: ['10.0.0.3'] },
  ];
  zones.setZone({ name: 'apps.test', records, defaultAddress: '10.0.0.9' }, [(s) => /^v[0-9]+$/.test(s)]);
  zones.setName({ name: 'one.test', addresses: ['10.0.0.4'] });
  const ask = (name: string, type: string) => {
    const guest = new Guest();
    const q = query(name, type);
    responder.onQuery(q, 0, q.length, guest, 0);
    const answers = guest.raw.length === 0 ? undefined : (guest.last.answers ?? []);
    return {
      rcode: guest.lastRcode,
      data: answers?.map((a) => String((a as packet.StringAnswer).data)),
      soa: guest.raw.length === 0 ? 0 : (guest.last.authorities ?? []).filter((a) => a.type === 'SOA').length,
    };
  };
  return { transport, ask };
}

const OTHER_TYPES = ['AAAA', 'MX', 'TXT', 'SRV', 'NS', 'SOA', 'CAA', 'HTTPS', 'NAPTR', 'PTR', 'CNAME', 'DS'];

t.test('DNS-11: a name of every source has its address, and nothing of any other type, without asking anybody', (t) => {
  const { ask, transport } = rig();
  const names: Record<string, string> = {
    'host.docker.internal': '192.168.65.254',
    'gateway.containers.internal': '192.168.65.1',
    web: '192.168.65.9',
    'web.lan.example': '192.168.65.9',
    'db.corp.example': '10.1.2.3',
    laptop: '192.168.65.254',
    'one.test': '10.0.0.4',
    'apps.test': '10.0.0.1',
    'v7.apps.test': '10.0.0.3',
    'whatever.apps.test': '10.0.0.9',
  };
  for (const [name, address] of Object.entries(names)) {
    t.match(ask(name, 'A'), { rcode: 0, data: [address] }, name);
    for (const type of OTHER_TYPES) {
      const { rcode, data, soa } = ask(name, type);
      t.same({ rcode, data, soa }, { rcode: 0, data: [], soa: 1 }, `${name} ${type}: NODATA with a SOA`);
    }
  }
  t.match(ask('api.apps.test', 'AAAA'), { rcode: 0, data: ['2001:db8::2'] });
  t.match(ask('six.corp.example', 'A'), { rcode: 0, data: [] }, 'only IPv6: A is NODATA');
  t.equal(transport.sent.length, 0);
  t.end();
});

t.test(
  'DNS-11: PTR for gateway, host alias, guests, zones, names and hosts-file entries; other types of these are NODATA',
  (t) => {
    const { ask, transport } = rig();
    const reverse: Record<string, string> = {
      '1.65.168.192.in-addr.arpa': 'gateway.isthmus.internal',
      '254.65.168.192.in-addr.arpa': 'host.isthmus.internal',
      '9.65.168.192.in-addr.arpa': 'web.lan.example',
      '2.0.0.10.in-addr.arpa': 'api.apps.test',
      '1.0.0.10.in-addr.arpa': 'apps.test',
      '4.0.0.10.in-addr.arpa': 'one.test',
      '3.2.1.10.in-addr.arpa': 'db.corp.example',
    };
    for (const [name, target] of Object.entries(reverse)) {
      t.match(ask(name, 'PTR'), { rcode: 0, data: [target] }, name);
      t.match(ask(name.toUpperCase(), 'PTR'), { rcode: 0, data: [target] }, 'whatever the case');
      for (const type of ['A', 'TXT', 'SOA'])
        t.same(ask(name, type), { rcode: 0, data: [], soa: 1 }, `${name} ${type}`);
    }
    t.match(
      ask('77.65.168.192.in-addr.arpa', 'PTR'),
      { rcode: 3 },
      'nobody has it, and nobody outside may say otherwise',
    );
    t.equal(transport.sent.length, 0);
    ask('1.1.0.127.in-addr.arpa', 'PTR');
    ask('3.0.0.10.in-addr.arpa', 'PTR');
    t.equal(
      transport.sent.length,
      2,
      'the host’s own loopback entries and patterns have no name backwards: asked upstream',
    );
    t.end();
  },
);

t.test('DNS-11: what a zone without a default does not know does not exist; the zone’s own name is asked', (t) => {
  const { ask, transport } = rig();
  t.match(ask('nobody.isthmus.internal', 'A'), { rcode: 3 });
  t.match(ask('isthmus.internal', 'A'), { rcode: 0, data: [] }, 'the domain itself exists');
  ask('test', 'A');
  t.equal(transport.sent.length, 1);
  t.end();
});
