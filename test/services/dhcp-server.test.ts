// The DHCP server row by row: DHCP-01 to DHCP-05, every destination and state of RFC 2131 4.1 and 4.3.

import t from 'tap';
import { Drop } from '../../src/base/drop.ts';
import { Cidr4, formatV4 } from '../../src/ip/address.ts';
import type { DatagramService } from '../../src/stack/ports.ts';
import { BROADCAST, bytesOf, codes, ip, mac, Net, option, type Request } from './dhcp-fixture.ts';

const GW = '192.168.65.1';
const ASKED = [1, 3, 6, 12, 15, 26, 28, 42, 51, 58, 59, 119, 121];

t.test('fits the border type of the stack', async (t) => {
  const service: DatagramService = new Net().service;
  t.type(service.onDatagram, 'function');
});

t.test('DHCP-01 RFC 2131 4.3.1: DISCOVER gives OFFER', async (t) => {
  const net = new Net();
  const r = net.say({ type: 1, xid: 0xdeadbeef | 0, options: [[55, ASKED]] });
  if (r === undefined) throw new Error('no offer');
  t.equal(r.msg.op, 2);
  t.equal(r.msg.xid, 0xdeadbeef | 0);
  t.equal(r.msg.messageType, 2);
  t.equal(formatV4(r.msg.yiaddr), '192.168.65.3');
  t.equal(r.msg.siaddr, 0);
  t.same(option(r.msg, 54), bytesOf(ip(GW)));
  t.same(option(r.msg, 51), bytesOf(3600));
  t.same(option(r.msg, 58), bytesOf(1800));
  t.same(option(r.msg, 59), bytesOf(3150));
  t.same(option(r.msg, 1), [255, 255, 255, 0]);
  t.same(option(r.msg, 3), bytesOf(ip(GW)));
  t.same(option(r.msg, 6), bytesOf(ip(GW)));
  t.ok(r.bytes.length >= 300, 'BOOTP floor');
  const order = codes(r.bytes);
  t.equal(order[0], 53, 'message type first');
  t.ok(order.indexOf(1) < order.indexOf(3), 'RFC 2132 3.3: mask before router');
  t.equal(order.at(-1), 255);
  t.same([...r.bytes.slice(28, 44)], [...mac(1), ...new Array(10).fill(0)], 'chaddr');
});

t.test('DHCP-01: a client without option 55 (VPNKit’s Go client) still gets what it needs', async (t) => {
  const r = new Net().say({ type: 1, xid: 1, flags: 0x8000 });
  t.same(codes(r?.bytes ?? new Uint8Array()), [53, 54, 51, 58, 59, 1, 3, 6, 15, 255]);
  t.equal(r?.mac, undefined);
  t.equal(r?.ip, BROADCAST);
});

t.test('DHCP-02 RFC 2131 4.3.2 SELECTING', async (t) => {
  await t.test('with our server id: ACK', async (t) => {
    const net = new Net();
    net.say({ type: 1 });
    const r = net.say({
      type: 3,
      options: [
        [50, '192.168.65.3'],
        [54, GW],
        [12, [...Buffer.from('Web')]],
      ],
    });
    t.equal(r?.msg.messageType, 5);
    t.equal(formatV4(r?.msg.yiaddr ?? 0), '192.168.65.3');
    t.same(net.events, [`lease 82.84.0.0.0.1 ${ip('192.168.65.3') >>> 0} web`]);
  });
  await t.test('with another server id: silence, and the offer is free', async (t) => {
    const net = new Net();
    net.say({ type: 1 });
    t.equal(
      net.say({
        type: 3,
        options: [
          [50, '192.168.65.3'],
          [54, '192.168.65.9'],
        ],
      }),
      undefined,
    );
    t.equal(net.leases.size, 0);
    t.equal(net.drops.get(Drop.DhcpIgnored), 1);
    t.equal(formatV4(net.lease(mac(2)) ?? 0), '192.168.65.3', 'the next client gets it');
  });
  await t.test('another server chosen by a bound client: its lease stays', async (t) => {
    const net = new Net();
    net.lease(mac(1));
    net.say({
      type: 3,
      options: [
        [50, '192.168.65.3'],
        [54, '192.168.65.9'],
      ],
    });
    t.equal(net.leases.size, 1);
  });
  await t.test('another address than offered: NAK', async (t) => {
    const net = new Net();
    net.say({ type: 1 });
    t.equal(
      net.say({
        type: 3,
        options: [
          [50, '192.168.65.77'],
          [54, GW],
        ],
      })?.msg.messageType,
      6,
    );
  });
  await t.test('the offer was forgotten but the address is free: ACK; taken: NAK', async (t) => {
    const net = new Net();
    const select: Request = {
      type: 3,
      mac: mac(7),
      options: [
        [50, '192.168.65.9'],
        [54, GW],
      ],
    };
    t.equal(net.say(select)?.msg.messageType, 5);
    t.equal(net.say({ ...select, mac: mac(8) })?.msg.messageType, 6);
  });
});

t.test('DHCP-02 RFC 2131 4.3.2 INIT-REBOOT', async (t) => {
  const net = new Net();
  net.lease(mac(1));
  const reboot = (m: Uint8Array, address: string) => net.say({ type: 3, mac: m, options: [[50, address]] });
  t.equal(reboot(mac(1), '192.168.65.3')?.msg.messageType, 5, 'right address');
  t.equal(reboot(mac(1), '192.168.65.4')?.msg.messageType, 6, 'another address than ours');
  const nak = reboot(mac(9), '10.0.0.5');
  t.equal(nak?.msg.messageType, 6, 'wrong net, unknown client');
  t.equal(nak?.msg.yiaddr, 0);
  t.equal(nak?.mac, undefined, 'NAK is broadcast');
  t.equal(nak?.ip, BROADCAST);
  t.equal(option(nak?.msg ?? net.sent[0]!.msg, 51), undefined, 'no lease in a NAK');
  t.equal(reboot(mac(9), '192.168.65.50'), undefined, 'unknown client: silence');
  net.now += 7_200_000;
  t.equal(reboot(mac(1), '192.168.65.3')?.msg.messageType, 5, 'expired but remembered');
});

t.test('DHCP-02 RFC 2131 4.3.2 RENEWING and REBINDING', async (t) => {
  const net = new Net();
  net.lease(mac(1));
  net.now += 1_800_000;
  const r = net.say({ type: 3, ciaddr: '192.168.65.3', flags: 0x8000 }, 1, '192.168.65.3');
  t.equal(r?.msg.messageType, 5);
  t.equal(formatV4(r?.ip ?? 0), '192.168.65.3', 'unicast to ciaddr, whatever the broadcast flag');
  t.same(r?.mac, mac(1));
  t.equal(formatV4(r?.msg.ciaddr ?? 0), '192.168.65.3');
  net.now += 3_599_000;
  t.ok([...net.leases.values()][0]?.active(net.now), 'the lease was extended');
  t.equal(net.say({ type: 3, ciaddr: '192.168.65.9' })?.msg.messageType, 6, 'not its address: NAK');
  t.equal(
    net.say({ type: 3, ciaddr: '192.168.65.40', mac: mac(4) })?.msg.messageType,
    5,
    'lost lease file: it keeps it',
  );
  t.equal(net.say({ type: 3, ciaddr: '192.168.65.40', mac: mac(5) })?.msg.messageType, 6, 'another client has it');
  t.equal(net.say({ type: 3, ciaddr: '10.1.1.1', mac: mac(6) })?.msg.messageType, 6, 'wrong net');
  t.equal(net.say({ type: 3, ciaddr: GW, mac: mac(6) })?.msg.messageType, 6, 'the gateway’s own');
  t.equal(net.say({ type: 3 }), undefined, 'neither address nor server: silence');
});

t.test('DHCP-03 RFC 2131 4.1: where replies go', async (t) => {
  const rows: [string, Request, { mac: Uint8Array | undefined; ip: string; port: number }][] = [
    ['no address, no flag: chaddr and yiaddr', { type: 1 }, { mac: mac(1), ip: '192.168.65.3', port: 68 }],
    ['broadcast flag', { type: 1, flags: 0x8000 }, { mac: undefined, ip: '255.255.255.255', port: 68 }],
    ['ciaddr', { type: 3, ciaddr: '192.168.65.3' }, { mac: mac(1), ip: '192.168.65.3', port: 68 }],
    ['giaddr: the relay, port 67', { type: 1, giaddr: '192.168.65.9' }, { mac: mac(99), ip: '192.168.65.9', port: 67 }],
    [
      'giaddr wins over flag and ciaddr',
      { type: 3, ciaddr: '192.168.65.3', giaddr: '192.168.65.9', flags: 0x8000 },
      { mac: mac(99), ip: '192.168.65.9', port: 67 },
    ],
    ['NAK', { type: 3, options: [[50, '10.0.0.1']] }, { mac: undefined, ip: '255.255.255.255', port: 68 }],
    ['NAK with ciaddr', { type: 3, ciaddr: '10.0.0.1' }, { mac: undefined, ip: '255.255.255.255', port: 68 }],
  ];
  for (const [name, r, want] of rows) {
    const sent = new Net().say(r, 1, '', mac(99));
    t.same({ mac: sent?.mac, ip: formatV4(sent?.ip ?? 0), port: sent?.port }, want, name);
  }
  const net = new Net();
  const nak = net.say({ type: 3, giaddr: '192.168.65.9', options: [[50, '10.0.0.1']] }, 1, '', mac(99));
  t.equal(nak?.msg.flags, 0x8000, 'RFC 2131 4.3.2: a relay is told to broadcast the NAK');
  t.equal(formatV4(nak?.ip ?? 0), '192.168.65.9');
  t.equal(net.say({ type: 1, giaddr: '10.9.9.9' }), undefined, 'relay of another network: there is no pool for it');
  t.equal(net.say({ type: 1 }, 7)?.vmId, 7, 'the link it came from');
});

t.test('DHCP-04: addresses', async (t) => {
  await t.test('same client same address, two clients never share', async (t) => {
    const net = new Net();
    const a = net.lease(mac(1));
    const b = net.lease(mac(2));
    t.not(a, b);
    net.now += 1e9;
    t.equal(net.lease(mac(2)), b, 'by chaddr');
    const id: Request['options'] = [[61, [255, 1, 2, 3, 4]]];
    const c = net.lease(mac(3), 1, id);
    t.equal(net.lease(mac(4), 1, id), c, 'by option 61, whatever the MAC');
    t.not(net.lease(mac(3), 1, [[61, [255, 9]]]), c, 'another identifier on one MAC is another client');
    t.equal(net.lease(mac(1), 1, [[61, [1, ...mac(1)]]]), a, 'an identifier that is the MAC is the MAC');
  });
  await t.test('VMs cloned from one image with one identifier are two clients', async (t) => {
    const net = new Net();
    const id: Request['options'] = [[61, [255, 7, 7, 7]]];
    const a = net.lease(mac(1), 1, id);
    const b = net.lease(mac(2), 2, id);
    t.not(a, b);
    net.service.vmGone(1);
    net.now += 10;
    t.equal(net.lease(mac(2), 2, id), b, 'and stay so when one has gone');
  });
  await t.test('requested address if free', async (t) => {
    const net = new Net();
    const want = (m: number, a: string) =>
      formatV4(net.say({ type: 1, mac: mac(m), options: [[50, a]] })?.msg.yiaddr ?? 0);
    t.equal(want(1, '192.168.65.77'), '192.168.65.77');
    t.equal(want(2, '192.168.65.77'), '192.168.65.3');
    for (const [i, bad] of [
      '192.168.65.0',
      GW,
      '192.168.65.2',
      '192.168.65.254',
      '192.168.65.255',
      '8.8.8.8',
    ].entries())
      t.not(want(10 + i, bad), bad);
  });
  await t.test('exhausted pool: silence; then the oldest expired is reused', async (t) => {
    const net = new Net({ network: new Cidr4(ip('192.168.65.0'), 29), hostAlias: ip('192.168.65.6') });
    for (let i = 1; i <= 3; i++) {
      net.now += 1000;
      t.equal(formatV4(net.lease(mac(i)) ?? 0), `192.168.65.${i + 2}`);
    }
    t.equal(net.lease(mac(4)), undefined);
    t.equal(net.leases.stats.exhausted, 1);
    net.say({ type: 7, mac: mac(2), ciaddr: '192.168.65.4', options: [[54, GW]] });
    t.equal(formatV4(net.lease(mac(4)) ?? 0), '192.168.65.4', 'RELEASE frees');
    net.now += 1e8;
    t.equal(formatV4(net.lease(mac(5)) ?? 0), '192.168.65.3', 'expired longest ago');
    t.equal(formatV4(net.lease(mac(3)) ?? 0), '192.168.65.5', 'the others keep theirs');
  });
  await t.test('DECLINE quarantines', async (t) => {
    const net = new Net();
    net.lease(mac(1));
    const decline: Request = {
      type: 4,
      options: [
        [50, '192.168.65.3'],
        [54, GW],
      ],
    };
    t.equal(
      net.say({
        ...decline,
        options: [
          [50, '192.168.65.3'],
          [54, '192.168.65.7'],
        ],
      }),
      undefined,
    );
    t.equal(net.leases.stats.quarantined, 0, 'for another server');
    net.say(decline, 2);
    t.equal(net.leases.stats.quarantined, 0, 'another VM cannot decline for it');
    net.say({ ...decline, mac: mac(2) });
    t.equal(net.leases.stats.quarantined, 0, 'not its address');
    t.equal(net.say(decline), undefined, 'no reply');
    t.equal(net.leases.stats.quarantined, 1);
    t.equal(formatV4(net.lease(mac(1)) ?? 0), '192.168.65.4', 'another one for the client');
    t.equal(formatV4(net.lease(mac(2)) ?? 0), '192.168.65.5', 'and nobody gets it');
    net.now += 600_001;
    t.equal(formatV4(net.lease(mac(3)) ?? 0), '192.168.65.3', 'until the quarantine ends');
  });
  await t.test('RELEASE keeps the memory, not the name', async (t) => {
    const net = new Net();
    net.lease(mac(1), 1, [[12, [...Buffer.from('web')]]]);
    t.equal(net.leases.names.lookupName('WEB'), ip('192.168.65.3'));
    const release: Request = { type: 7, ciaddr: '192.168.65.3', options: [[54, GW]] };
    net.say(release, 2);
    t.equal(net.leases.names.lookupName('web'), ip('192.168.65.3'), 'another VM cannot release it');
    net.say(release);
    t.equal(net.leases.names.lookupName('web'), undefined);
    t.equal(net.events.at(-1), `release 82.84.0.0.0.1 ${ip('192.168.65.3') >>> 0}`);
    net.lease(mac(2));
    t.equal(formatV4(net.lease(mac(1)) ?? 0), '192.168.65.3');
  });
  await t.test('INFORM: ACK without yiaddr and lease', async (t) => {
    const net = new Net();
    const r = net.say({ type: 8, ciaddr: '192.168.65.200', flags: 0x8000, options: [[55, ASKED]] });
    t.equal(r?.msg.messageType, 5);
    t.equal(r?.msg.yiaddr, 0);
    for (const code of [51, 58, 59]) t.equal(option(r!.msg, code), undefined, `no option ${code}`);
    t.same(option(r!.msg, 6), bytesOf(ip(GW)));
    t.equal(formatV4(r?.ip ?? 0), '192.168.65.200');
    t.equal(net.leases.size, 0);
    t.equal(formatV4(net.say({ type: 8 }, 1, '192.168.65.201')?.ip ?? 0), '192.168.65.201', 'ciaddr missing: source');
    t.equal(net.say({ type: 8 }), undefined, 'neither');
    t.equal(net.say({ type: 8, ciaddr: '8.8.8.8' }), undefined, 'not of this network');
  });
  await t.test('fixed leases', async (t) => {
    const net = new Net({
      fixed: [
        { mac: '52:54:00:00:00:05', address: ip('192.168.65.3') },
        { mac: '52:54:00:00:00:06', address: ip('192.168.65.2') },
      ],
    });
    t.equal(formatV4(net.lease(mac(1)) ?? 0), '192.168.65.4', 'not for others');
    t.equal(formatV4(net.lease(mac(5), 1, [[61, [255, 1]]]) ?? 0), '192.168.65.3', 'by MAC, whatever the identifier');
    t.equal(formatV4(net.lease(mac(6)) ?? 0), '192.168.65.2', 'also outside the range');
    const reboot: Request = { type: 3, mac: mac(5), options: [[50, '192.168.65.9']] };
    t.equal(net.say(reboot)?.msg.messageType, 6);
    net.say({
      type: 4,
      mac: mac(5),
      options: [
        [50, '192.168.65.3'],
        [54, GW],
      ],
    });
    t.equal(formatV4(net.lease(mac(5)) ?? 0), '192.168.65.3', 'a decline does not take it away');
    t.not(net.lease(mac(8), 1, [[61, [1, ...mac(5)]]]), ip('192.168.65.3'), 'not to be had by naming the MAC');
  });
});

t.test('DHCP-05: options', async (t) => {
  await t.test('only what was asked for, in that order', async (t) => {
    const net = new Net();
    const got = (list: number[], vm = 1) => codes(net.say({ type: 1, options: [[55, list]] }, vm)!.bytes);
    const always = [53, 54, 51, 58, 59];
    t.same(got([6, 3, 1]), [...always, 6, 1, 3, 255], 'but the mask before the router');
    t.same(got([26]), [...always, 26, 255]);
    t.same(got([6, 6, 200, 0, 255, 53, 54, 6]), [...always, 6, 255], 'repeats, unknown and our own');
    t.same(got([]), [...always, 255]);
    t.same(got([119, 42, 28, 15]), [...always, 119, 42, 28, 15, 255]);
  });
  await t.test('values', async (t) => {
    const net = new Net();
    const all: Request = { type: 1, options: [[55, ASKED]] };
    const m = net.say(all)!.msg;
    t.same(option(m, 26), [0xff, 0xf0], 'MTU of the link');
    t.same(option(m, 15), [...Buffer.from('isthmus.internal')]);
    t.same(option(m, 28), bytesOf(ip('192.168.65.255')));
    t.same(option(m, 42), bytesOf(ip(GW)));
    t.equal(option(m, 12), undefined, 'no name yet');
    t.equal(option(m, 121), undefined, 'not configured');
    const search = '\x04corp\x07example\x00\x03lab\xc0\x00';
    t.same(option(m, 119), [...Buffer.from(search, 'latin1')], 'RFC 3397 compressed');
    t.same(option(net.say(all, 2)!.msg, 26), [0x05, 0xdc], 'per link');
    net.lease(mac(1), 1, [[12, [...Buffer.from('web')]]]);
    t.same(option(net.say(all)!.msg, 12), [...Buffer.from('web')]);
    net.service.setDomains('', []);
    const later = net.say(all)!.msg;
    t.equal(option(later, 15), undefined);
    t.equal(option(later, 119), undefined, 'and never an empty one');
  });
  await t.test('RFC 3442: 121 omits 3 and carries the default route', async (t) => {
    const routes = [{ network: new Cidr4(ip('10.8.0.0'), 13), router: ip('192.168.65.7') }];
    const net = new Net({}, { routes });
    const r = net.say({ type: 1, options: [[55, [1, 3, 121]]] });
    t.equal(option(r!.msg, 3), undefined);
    t.same(option(r!.msg, 121), [13, 10, 8, ...bytesOf(ip('192.168.65.7')), 0, ...bytesOf(ip(GW))]);
    t.same(option(net.say({ type: 1, options: [[55, [1, 3]]] })!.msg, 3), bytesOf(ip(GW)), 'not asked for: 3 as ever');
  });
  await t.test('RFC 6842: option 61 is echoed, also in a NAK; RFC 3046: option 82 to a relay', async (t) => {
    const id = [255, 1, 2, 3];
    const net = new Net();
    t.same(option(net.say({ type: 1, options: [[61, id]] })!.msg, 61), id);
    t.same(
      option(
        net.say({
          type: 3,
          options: [
            [61, id],
            [50, '10.0.0.1'],
          ],
        })!.msg,
        61,
      ),
      id,
    );
    const relayed = net.say({ type: 1, giaddr: '192.168.65.9', options: [[82, [1, 1, 7]]] });
    t.same(option(relayed!.msg, 82), [1, 1, 7]);
    t.equal(option(net.say({ type: 1, options: [[82, [1, 1, 7]]] })!.msg, 82), undefined);
  });
  await t.test('option 57: size is respected, options overflow to file and sname', async (t) => {
    const search = Array.from({ length: 30 }, (_, i) => `department-${i}.example${i}.org`);
    const net = new Net({}, { search });
    const ask = (max: number[] | undefined) =>
      net.say({ type: 1, options: [[55, ASKED], [61, new Array(200).fill(7)], ...(max ? [[57, max] as const] : [])] })!;
    const small = ask(undefined);
    t.ok(small.bytes.length <= 548, 'without it 576 less headers');
    t.equal(small.msg.u8(52), 1, 'the file field is in use');
    t.same(option(small.msg, 61)?.length, 200);
    t.same(option(small.msg, 3), bytesOf(ip(GW)), 'the essential ones are in');
    t.ok(ask([1, 0]).bytes.length <= 548, 'below 576 is not legal and not believed');
    const large = ask([5, 220]);
    t.ok(large.bytes.length <= 1472);
    t.equal(large.msg.u8(52), -1);
    t.ok((option(large.msg, 119)?.length ?? 0) > (option(small.msg, 119)?.length ?? 0));
    t.ok(ask([255, 255]).bytes.length <= 1472, 'never above a packet of 1500');
  });
  await t.test('lease time: what was asked for, within limits', async (t) => {
    const net = new Net();
    const granted = (s: number) => net.say({ type: 1, options: [[51, bytesOf(s)]] })!.msg.i32(51);
    t.equal(granted(600), 600);
    t.equal(granted(1), 60);
    t.equal(granted(-1), 3600);
  });
  await t.test('RFC 4039 rapid commit', async (t) => {
    const net = new Net();
    const r = net.say({ type: 1, options: [[80, []]] });
    t.equal(r?.msg.messageType, 5);
    t.same(option(r!.msg, 80), []);
    t.ok([...net.leases.values()][0]?.bound);
  });
});

t.test('DHCP-06: what is not for us is silence, and counted', async (t) => {
  const net = new Net();
  for (const type of [2, 5, 6, 9, 10, 13, 200]) t.equal(net.say({ type }), undefined, `type ${type}`);
  t.equal(net.service.stats.ignored, 7);
  t.equal(net.say({}), undefined, 'BOOTP');
  t.equal(net.say({ type: 0 }), undefined);
  t.equal(net.say({ type: 1, mac: new Uint8Array(6) }), undefined, 'zero MAC');
  t.equal(net.say({ type: 1, mac: Uint8Array.of(1, 0, 0x5e, 0, 0, 1) }), undefined, 'group MAC');
  t.equal(net.service.stats.malformed, 4);
  t.equal(net.leases.size, 0);
});
