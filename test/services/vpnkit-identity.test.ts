// Identities of VPNKit VMs: one UUID, one MAC and address, in the handshake and by DHCP, over connections and restarts.

import t from 'tap';
import { Cidr4, formatV4 } from '../../src/ip/address.ts';
import { formatMac } from '../../src/services/client-key.ts';
import { MAX_IDENTITIES, VpnkitIdentities } from '../../src/services/vpnkit-identity.ts';
import { ip, Net } from './dhcp-fixture.ts';

const uuid = (n: number) => `c3d8a1f0-0000-4000-8000-${n.toString(16).padStart(12, '0')}`;
const NUL = '\0'.repeat(36);

function make(net = new Net()): { net: Net; ids: VpnkitIdentities; who: (u: string, p?: string) => string } {
  let seed = 1;
  const ids = new VpnkitIdentities(net.leases, { i32: () => (seed = Math.imul(seed, 1664525) + 1013904223) });
  const who = (u: string, preferred?: string) => {
    const r = ids.identify(u, preferred === undefined ? undefined : ip(preferred), net.now);
    return r.ok ? `${formatMac(r.mac, 0)} ${formatV4(r.address)}` : r.invalid ? 'invalid' : r.reason;
  };
  return { net, ids, who };
}

t.test('the same UUID is the same MAC and address, also while connected', async (t) => {
  const { who } = make();
  t.equal(who(uuid(1)), '02:50:00:00:00:01 192.168.65.3');
  t.equal(who(uuid(2)), '02:50:00:00:00:02 192.168.65.4');
  t.equal(who(uuid(1)), '02:50:00:00:00:01 192.168.65.3');
  t.equal(who(uuid(1).toUpperCase()), '02:50:00:00:00:01 192.168.65.3', 'in any case');
  t.equal(who(uuid(1), '192.168.65.3'), '02:50:00:00:00:01 192.168.65.3', 'asking for what it has');
});

t.test('preferred addresses', async (t) => {
  const { net, who } = make();
  t.equal(who(uuid(1), '192.168.65.250'), '02:50:00:00:00:01 192.168.65.250');
  t.match(who(uuid(1), '192.168.65.9'), /already has the address 192\.168\.65\.250, not the preferred 192\.168\.65\.9/);
  t.match(who(uuid(2), '192.168.65.2'), /192\.168\.65\.2 is outside 192\.168\.65\.3 to 192\.168\.65\.254/);
  t.match(who(uuid(2), '10.0.0.3'), /outside/);
  t.match(who(uuid(2), '192.168.65.250'), /in use/);
  t.match(who(uuid(2), '192.168.65.254'), /in use/, 'the host alias');
  net.lease(Uint8Array.of(2, 0, 0, 0, 0, 9));
  t.match(who(uuid(2), '192.168.65.3'), /in use/, 'leased by DHCP');
  t.equal(who(uuid(2)), '02:50:00:00:00:02 192.168.65.4', 'refusals used up no number');
  net.now += 1e8;
  t.equal(who(uuid(3), '192.168.65.3'), '02:50:00:00:00:03 192.168.65.3', 'an expired lease gives way');
});

t.test('UUIDs that are none', async (t) => {
  const { ids, who } = make();
  for (const bad of ['x', uuid(1).slice(1), `${uuid(1)}0`, `${uuid(1).slice(0, 35)}g`, `${uuid(1).slice(0, 35)}\0`]) {
    t.equal(who(bad), 'invalid', JSON.stringify(bad));
  }
  t.equal(ids.size, 0);
});

t.test('the NUL UUID is a new identity each time, gone with its connection', async (t) => {
  const { net, ids, who } = make();
  t.equal(who(NUL), '02:50:00:00:00:01 192.168.65.3');
  const second = ids.identify('', undefined, net.now);
  if (!second.ok) throw new Error('no identity');
  t.match(second.uuid, /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/, 'RFC 9562 5.4');
  t.equal(formatV4(second.address), '192.168.65.4');
  ids.disconnected(second.uuid, net.now);
  t.equal(ids.size, 1);
  t.equal(who(NUL), '02:50:00:00:00:03 192.168.65.4', 'the address is free, the MAC is not used again');
  t.same(ids.serialise().identities, []);
});

t.test('DHCP gives exactly the address of the handshake', async (t) => {
  const { net, ids } = make();
  const r = ids.identify(uuid(1), ip('192.168.65.77'), net.now);
  if (!r.ok) throw new Error('no identity');
  const discover = net.say({ type: 1, xid: 0x01000000, flags: 0x8000, mac: r.mac });
  t.equal(formatV4(discover?.msg.yiaddr ?? 0), '192.168.65.77', 'a client that only discovers');
  t.equal(formatV4(net.lease(r.mac, 4, [[61, [255, 1, 2, 3]]]) ?? 0), '192.168.65.77', 'whatever its identifier');
  net.say(
    {
      type: 4,
      mac: r.mac,
      options: [
        [50, '192.168.65.77'],
        [54, '192.168.65.1'],
      ],
    },
    4,
  );
  net.say({ type: 7, mac: r.mac, ciaddr: '192.168.65.77' }, 4);
  t.equal(formatV4(net.lease(r.mac, 4) ?? 0), '192.168.65.77', 'a decline or release takes nothing away');
  net.now += 1e9;
  t.equal(formatV4(net.lease(r.mac, 5) ?? 0), '192.168.65.77');
});

t.test('no address left; then the one unconnected longest gives way', async (t) => {
  const { net, ids, who } = make(new Net({ network: new Cidr4(ip('192.168.65.0'), 29), hostAlias: undefined }));
  for (let i = 1; i <= 4; i++) who(uuid(i));
  t.equal(who(uuid(5)), 'no address is left in 192.168.65.0/29');
  t.equal(net.lease(Uint8Array.of(2, 0, 0, 0, 0, 9)), undefined, 'for DHCP either');
  who(uuid(2));
  net.now += 5;
  ids.disconnected(uuid(3), net.now);
  net.now += 5;
  ids.disconnected(uuid(1), net.now);
  ids.disconnected(uuid(2), net.now);
  t.equal(who(uuid(3)), '02:50:00:00:00:03 192.168.65.5', 'back again: the same');
  net.now += 5;
  ids.disconnected(uuid(3), net.now);
  t.equal(who(uuid(5)), '02:50:00:00:00:05 192.168.65.3', 'that of the first; the second is still connected once');
  t.equal(who(uuid(1)), '02:50:00:00:00:01 192.168.65.5', 'its MAC for ever, its address while there is room');
});

t.test('identities survive a restart with their addresses', async (t) => {
  const a = make();
  a.who(uuid(1));
  a.who(uuid(2), '192.168.65.88');
  a.who(NUL);
  const leases = JSON.parse(JSON.stringify(a.net.leases.serialise(a.net.now))) as unknown[];
  const ids = JSON.parse(JSON.stringify(a.ids.serialise())) as unknown;
  const b = make();
  t.equal(b.net.leases.restore(leases, b.net.now), 0);
  t.equal(b.ids.restore(ids), 0);
  t.equal(b.who(uuid(9)), '02:50:00:00:00:04 192.168.65.5', 'the number of the NUL UUID is not given again');
  t.equal(b.who(uuid(2)), '02:50:00:00:00:02 192.168.65.88');
  t.equal(b.who(uuid(1)), '02:50:00:00:00:01 192.168.65.3');
  const bad: [unknown, number][] = [
    [null, 1],
    [{}, 1],
    [{ identities: 7 }, 1],
    [{ nextNumber: -1, identities: [null, {}, { uuid: 'x', number: 1 }, { uuid: uuid(1), number: 1.5 }] }, 4],
    [
      {
        identities: [
          { uuid: uuid(1), number: 1 },
          { uuid: uuid(2), number: 1 },
          { uuid: uuid(1), number: 2 },
        ],
      },
      2,
    ],
  ];
  for (const [data, refused] of bad) t.equal(make().ids.restore(data), refused, JSON.stringify(data));
});

t.test('too many UUIDs: the one seen longest ago is forgotten, never a connected one', async (t) => {
  const { ids, net, who } = make();
  const identities = Array.from({ length: MAX_IDENTITIES }, (_, i) => ({ uuid: uuid(i), number: i + 1 }));
  t.equal(ids.restore({ identities }), 0);
  who(uuid(0));
  who(uuid(90_000));
  t.equal(ids.size, MAX_IDENTITIES);
  t.equal(ids.forgotten, 1);
  t.match(who(uuid(0)), '02:50:00:00:00:01');
  t.match(who(uuid(1)), '02:50:00:00:10:02', 'forgotten: a new number');
  ids.disconnected('nobody', net.now);
  ids.disconnected(uuid(5), net.now);
});
