// The host's own networks as the operating system tells them, which of them the virtual network clashes with, and how that is told.

import t from 'tap';
import { loadConfig } from '../../src/daemon/config.ts';
import { chooseNetwork, clashesOf } from '../../src/daemon/network-choice.ts';
import { type ClashChange, NetworkClash } from '../../src/daemon/network-clash.ts';
import { type HostNetwork, hostNetworks, parseNetstatRoutes, parseProcRoutes } from '../../src/host/host-networks.ts';
import { Cidr4 } from '../../src/ip/address.ts';

const USUAL = Cidr4.parse('192.168.65.0/24')!;
const route = (cidr: string, device = 'tun0'): HostNetwork => ({ cidr, device, kind: 'route' });
const card = (cidr: string, device = 'eth0'): HostNetwork => ({ cidr, device, kind: 'interface' });

t.test('/proc/net/route: networks and hosts, not default routes, halves of the world or refusals', (t) => {
  const text = [
    'Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT',
    'eth0\t00000000\t0100A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0',
    'tun0\t00000000\t0100080A\t0003\t0\t0\t0\t00000080\t0\t0\t0',
    'tun0\t00000080\t0100080A\t0003\t0\t0\t0\t00000080\t0\t0\t0',
    'eth0\t0000A8C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0',
    'tun0\t0000000A\t0100080A\t0003\t0\t0\t0\t000000FF\t0\t0\t0',
    'tun0\t0941A8C0\t0100080A\t0007\t0\t0\t0\tFFFFFFFF\t0\t0\t0',
    '*\t0000630A\t00000000\t0201\t0\t0\t0\t00FFFFFF\t0\t0\t0',
    'eth1\t0000630A\t00000000\t0000\t0\t0\t0\t00FFFFFF\t0\t0\t0',
    'rubbish',
    '',
  ].join('\n');
  t.same(parseProcRoutes(text), [
    route('192.168.0.0/24', 'eth0'),
    route('10.0.0.0/8', 'tun0'),
    route('192.168.65.9/32', 'tun0'),
  ]);
  t.same(parseProcRoutes(''), []);
  t.end();
});

t.test('netstat of the BSDs: short destinations, and nothing of the neighbour table', (t) => {
  const text = [
    'Routing tables',
    '',
    'Internet:',
    'Destination        Gateway            Flags               Netif Expire',
    'default            192.168.0.1        UGScg                 en0       ',
    '0/1                10.8.0.1           UGScg               utun3       ',
    '10                 10.8.0.1           UGSc                utun3       ',
    '10.8.0.1           10.8.0.2           UH                  utun3       ',
    '127                127.0.0.1          UCS                   lo0       ',
    '172.16/12          10.8.0.1           UGSc                utun3       ',
    '192.168.65         link#19            UC             bridge100       !',
    '192.168.0.7        a4:83:e7:0:0:1     UHLWIi                en0   1188',
    '10.99              127.0.0.1          UGSR                  lo0       ',
    '999.1              10.8.0.1           UGSc                utun3       ',
  ].join('\n');
  t.same(parseNetstatRoutes(text), [
    route('10.0.0.0/8', 'utun3'),
    route('10.8.0.1/32', 'utun3'),
    route('172.16.0.0/12', 'utun3'),
    route('192.168.65.0/24', 'bridge100'),
  ]);
  t.end();
});

t.test('the networks of this very machine can be read', (t) => {
  for (const { cidr, device } of hostNetworks()) {
    t.ok(Cidr4.parse(cidr), cidr);
    t.equal(`${Cidr4.parse(cidr)}`, cidr, 'without host bits');
    t.ok(device.length > 0);
  }
  t.end();
});

t.test('a clash is any address in common, whichever is the larger', (t) => {
  const rows: [HostNetwork, boolean][] = [
    [card('192.168.65.0/24'), true],
    [card('192.168.65.0/30'), true],
    [route('192.168.65.200/32'), true],
    [route('192.168.0.0/16'), true],
    [card('192.168.64.0/24'), false],
    [card('192.168.66.0/24'), false],
    [route('10.0.0.0/8'), false],
  ];
  for (const [one, clashes] of rows) t.equal(clashesOf(USUAL, [one]).length > 0, clashes, one.cidr);
  const both = [card('192.168.65.0/24', 'eth0'), route('192.168.65.0/24', 'eth0'), route('192.168.65.0/24', 'eth1')];
  t.same(clashesOf(USUAL, both), [both[0], both[2]], 'an interface and its own route are one');
  t.end();
});

t.test('--network auto: the first that is free, always in the same order', (t) => {
  const chosen = (...networks: HostNetwork[]): string => `${chooseNetwork(networks)}`;
  t.equal(chosen(), '192.168.65.0/24');
  t.equal(chosen(card('192.168.1.0/24'), route('10.0.0.0/8')), '192.168.65.0/24');
  t.equal(chosen(card('192.168.65.0/24')), '192.168.66.0/24');
  t.equal(chosen(card('192.168.64.0/22')), '192.168.68.0/24');
  t.equal(chosen(route('192.168.0.0/16')), '172.31.65.0/24');
  t.equal(chosen(route('192.168.0.0/16'), route('172.16.0.0/12')), '10.65.65.0/24');
  const all = [route('192.168.0.0/16'), route('172.16.0.0/12'), route('10.0.0.0/8')];
  t.equal(chosen(...all), '192.168.65.0/24', 'with every private range routed, broad routes do not count');
  t.equal(chosen(...all, card('192.168.65.0/24')), '192.168.66.0/24', 'but interfaces do');
  const everywhere = [card('192.168.0.0/16'), card('172.16.0.0/12'), card('10.0.0.0/8')];
  t.equal(chooseNetwork(everywhere), undefined);
  t.end();
});

t.test('--network auto in the configuration: gateway and alias follow, --print-config tells it', async (t) => {
  const flags = new Map([
    ['network' as const, { texts: ['auto'], source: { kind: 'flag' as const, label: '--network' } }],
  ]);
  const load = (networks: HostNetwork[]) =>
    loadConfig({ flags, env: {}, uid: 1000, vmOptional: true, hostNetworks: () => networks });
  const { config, entries } = await load([card('192.168.65.0/24')]);
  t.equal(`${config.network} ${config.gateway} ${config.hostAlias}`, '192.168.66.0/24 192.168.66.1 192.168.66.254');
  t.match(
    entries.find(({ name }) => name === 'network'),
    { texts: ['192.168.66.0/24'], source: { kind: 'flag', label: '--network auto' } },
  );
  const none = [card('192.168.0.0/16'), card('172.16.0.0/12'), card('10.0.0.0/8')];
  await t.rejects(load(none), { message: /^network \(--network\): "auto" finds no private \/24/, exitCode: 64 });
});

t.test('a clash is told when it comes and when it is over, and looked for only so often', (t) => {
  let now = 0;
  let reads = 0;
  let networks: HostNetwork[] = [];
  const changes: ClashChange[] = [];
  const clash = new NetworkClash({
    network: USUAL,
    read: () => {
      reads++;
      return networks;
    },
    now: () => now,
    onChange: (change) => changes.push(change),
  });
  clash.check();
  t.same([changes, clash.warnings()], [[], []]);
  networks = [route('192.168.65.0/25')];
  clash.onTraffic(29_999);
  clash.onHint();
  t.equal(reads, 1, 'not so soon');
  now = 1000;
  clash.onHint();
  t.equal(reads, 2);
  t.match(changes, [{ appeared: [{ cidr: '192.168.65.0/25' }], gone: [] }]);
  t.match(clash.warnings(), [/192\.168\.65\.0\/24 overlaps 192\.168\.65\.0\/25, a route by tun0/]);
  clash.check();
  t.equal(changes.length, 1, 'once');
  networks = [route('192.168.65.0/25'), card('192.168.65.0/24', 'wlan0')];
  now = 31_000;
  clash.onTraffic(now);
  t.match(changes[1], { appeared: [{ device: 'wlan0' }], gone: [], clashes: [{}, {}] });
  t.match(clash.warnings()[1], /the network of interface wlan0/);
  networks = [];
  clash.check();
  t.equal(changes[2]!.gone.length, 2);
  t.same(clash.warnings(), []);
  t.end();
});
