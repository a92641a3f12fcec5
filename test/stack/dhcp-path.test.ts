import t from 'tap';
import { DropCounters } from '../../src/base/drop.ts';
import { Cidr4, formatV4 } from '../../src/ip/address.ts';
import { DhcpService } from '../../src/services/dhcp-server.ts';
import { Leases } from '../../src/services/leases.ts';
import { type FakeVm, GATEWAY, GATEWAY_MAC, ip, OUTSIDE, Rig } from './fake-link.ts';
import { BROADCAST, ethernet, type Frame, ipv4, macBytes, quad, udp } from './frames.ts';

const DISCOVER = 1;
const REQUEST = 3;

/** A rig whose gateway has the real DHCP service. */
function served(): { rig: Rig; a: FakeVm; leased: string[] } {
  const rig = new Rig();
  const network = Cidr4.parse('192.168.65.0/24')!;
  const leases = new Leases({ network, gateway: ip(GATEWAY), hostAlias: undefined, fixed: [], leaseMs: 3_600_000 });
  const leased: string[] = [];
  const mtuOf = (vm: number): number => rig.stack.ports.get(vm)!.info.mtu;
  const options = { gateway: ip(GATEWAY), dns: [ip(GATEWAY)], ntp: [], domain: 'test', search: [], routes: [], mtuOf };
  const events = { onLease: (_: Uint8Array, lease: number) => leased.push(formatV4(lease)), onRelease: () => {} };
  rig.stack.udp.serve(67, new DhcpService(options, leases, rig.stack.udp, new DropCounters(), events));
  return { rig, a: rig.vm(3), leased };
}

interface Asked {
  type: number;
  mac: string;
  options?: number[];
  broadcast?: boolean;
  ciaddr?: string;
}

function message(f: Asked): number[] {
  const head = [1, 1, 6, 0, 0xde, 0xad, 0xbe, 0xef, 0, 0, f.broadcast ? 0x80 : 0, 0, ...quad(f.ciaddr ?? '0.0.0.0')];
  const chaddr = [...new Array<number>(12).fill(0), ...macBytes(f.mac), ...new Array<number>(10 + 192).fill(0)];
  return [...head, ...chaddr, 99, 130, 83, 99, 53, 1, f.type, ...(f.options ?? []), 255];
}

/** As clients send it: from 0.0.0.0 to everyone, without a UDP checksum. */
function shout(f: Asked, checksum: number | undefined = 0): Uint8Array {
  const address = { src: '0.0.0.0', dst: '255.255.255.255' };
  const datagram = udp(
    { ...address, srcPort: 68, dstPort: 67, ...(checksum === undefined ? {} : { checksum }) },
    message(f),
  );
  return ethernet(BROADCAST, f.mac, 0x0800, ipv4({ ...address, protocol: 17 }, datagram));
}

const typeOf = (f: Frame | undefined): number | undefined => f?.udp?.payload[242];
const yiaddr = (f: Frame | undefined): string => f!.udp!.payload.subarray(16, 20).join('.');

t.test('DHCP-01 DISCOVER and REQUEST from 0.0.0.0 without a checksum; the answers go to the MAC, without ARP', (t) => {
  const { rig, a, leased } = served();
  const b = rig.vm(4);
  const [offer, ...more] = a.send(shout({ type: DISCOVER, mac: a.mac }));
  t.same(more, []);
  t.equal(typeOf(offer), 2);
  t.match(offer, {
    dst: a.mac,
    src: GATEWAY_MAC,
    ip: { src: GATEWAY, dst: yiaddr(offer), ttl: 64 },
    udp: { srcPort: 67, dstPort: 68 },
  });
  const wanted = [50, 4, ...quad(yiaddr(offer)), 54, 4, ...quad(GATEWAY)];
  const [ack] = a.send(shout({ type: REQUEST, mac: a.mac, options: wanted }, undefined));
  t.equal(typeOf(ack), 5);
  t.equal(yiaddr(ack), yiaddr(offer));
  t.same(leased, [yiaddr(offer)]);
  t.ok(
    b.take().every((f) => f.src === a.mac),
    'the others saw the broadcasts of the client, and no answer',
  );
  t.same(rig.drops(), {});
  t.equal(rig.stack.stats.datagramsToGuest, 2);
  t.end();
});

t.test('DHCP-01 with the broadcast flag the answer is a broadcast, to this VM only', (t) => {
  const { rig, a } = served();
  const b = rig.vm(4);
  const [offer] = a.send(shout({ type: DISCOVER, mac: a.mac, broadcast: true }));
  t.match(offer, { dst: BROADCAST, src: GATEWAY_MAC, ip: { dst: '255.255.255.255' } });
  t.equal(b.take().filter((f) => f.src === GATEWAY_MAC).length, 0);
  t.end();
});

t.test('DHCP-01 two VMs at once get an address each; a renewal is unicast with the address of the client', (t) => {
  const { rig, a } = served();
  const b = rig.vm(4);
  const addresses = [a, b].map((vm) => {
    const offers = vm.send(shout({ type: DISCOVER, mac: vm.mac })).filter((f) => typeOf(f) === 2);
    const options = [50, 4, ...quad(yiaddr(offers[0])), 54, 4, ...quad(GATEWAY)];
    const acks = vm.send(shout({ type: REQUEST, mac: vm.mac, options })).filter((f) => typeOf(f) === 5);
    return yiaddr(acks[0]);
  });
  t.not(addresses[0], addresses[1]);
  rig.advance(1_800_000);
  a.take();
  const src = addresses[0]!;
  const datagram = udp(
    { src, dst: GATEWAY, srcPort: 68, dstPort: 67 },
    message({ type: REQUEST, mac: a.mac, ciaddr: src }),
  );
  const [ack] = a.send(ethernet(GATEWAY_MAC, a.mac, 0x0800, ipv4({ src, dst: GATEWAY, protocol: 17 }, datagram)));
  t.equal(typeOf(ack), 5);
  t.match(ack, { dst: a.mac, ip: { dst: src } });
  t.equal(yiaddr(ack), src);
  t.end();
});

t.test(
  'DHCP rubbish at every length is taken without an answer; nobody without an address reaches anything else',
  (t) => {
    const { rig, a } = served();
    const whole = message({ type: DISCOVER, mac: a.mac });
    const address = { src: '0.0.0.0', dst: '255.255.255.255' };
    for (let length = 0; length < 243; length++) {
      const datagram = udp({ ...address, srcPort: 68, dstPort: 67 }, whole.slice(0, length));
      t.same(
        a.send(ethernet(BROADCAST, a.mac, 0x0800, ipv4({ ...address, protocol: 17 }, datagram))),
        [],
        `${length} bytes`,
      );
    }
    for (const [dst, srcPort, dstPort] of [
      [OUTSIDE, 68, 67],
      ['192.168.65.9', 68, 67],
      [GATEWAY, 68, 53],
      [GATEWAY, 5000, 67],
      [OUTSIDE, 68, 53],
    ] as const) {
      const datagram = udp({ src: '0.0.0.0', dst, srcPort, dstPort }, whole);
      t.same(a.send(ethernet(GATEWAY_MAC, a.mac, 0x0800, ipv4({ src: '0.0.0.0', dst, protocol: 17 }, datagram))), []);
    }
    t.same(rig.heard, []);
    t.equal(rig.drops().Ip4Martian, 5);
    t.equal(rig.stack.neighbours.size, 0);
    t.same(rig.bugs, []);
    t.end();
  },
);

t.test('a link that does not drain loses the answer, counted, and the next one comes', (t) => {
  const { rig, a } = served();
  a.egress.refusing = true;
  t.same(a.send(shout({ type: DISCOVER, mac: a.mac })), []);
  t.same(rig.drops(), { LinkTxFull: 1 });
  t.equal(rig.stack.stats.datagramsToGuest, 0);
  a.egress.refusing = false;
  t.equal(typeOf(a.send(shout({ type: DISCOVER, mac: a.mac }))[0]), 2);
  t.end();
});

t.test('a client that leaves out the IP checksum too (VPNKit) is served; nothing else without one is', (t) => {
  const { rig, a } = served();
  const bare = shout({ type: DISCOVER, mac: a.mac });
  bare[24] = 0;
  bare[25] = 0;
  t.equal(typeOf(a.send(bare)[0]), 2, 'OFFER');
  const other = a.udp(GATEWAY, 68, 53, [1, 2, 3]);
  other[24] = 0;
  other[25] = 0;
  t.same(a.send(other), []);
  const wrong = shout({ type: DISCOVER, mac: a.mac });
  wrong[24] = wrong[24]! ^ 1;
  t.same(a.send(wrong), []);
  t.match(rig.drops(), { Ip4BadChecksum: 2 });
  t.end();
});
