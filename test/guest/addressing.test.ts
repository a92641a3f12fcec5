// The embedded guest against a whole network: DHCP, ARP, ping, DNS, NTP.

import { createRequire } from 'node:module';
import t from 'tap';
import type { DNS_TYPES } from '../../src/guest/dns-codec.ts';
import { WireServer } from '../forwarder/dns-rig.ts';
import { codeOf, GATEWAY, HOST, Rig } from './rig.ts';

const dnsPacket = createRequire(import.meta.url)('dns-packet') as typeof import('dns-packet');

const MAC_A = '52:54:00:00:00:0a';
const MAC_B = '52:54:00:00:00:0b';

t.test('DHCP-01 an address with every option that was asked for', async (t) => {
  const rig = await Rig.start(t, ['--domain', 'vm.example', '--search', 'a.vm.example', '--search', 'b.vm.example']);
  const guest = await rig.plug({ mac: MAC_A, hostName: 'alpha' });
  t.equal(guest.address, undefined);
  const lease = await guest.dhcp();
  t.match(lease, {
    prefix: 24,
    router: GATEWAY,
    server: GATEWAY,
    dns: [GATEWAY],
    ntp: [GATEWAY],
    domain: 'vm.example',
    search: ['a.vm.example', 'b.vm.example'],
    mtu: 65520,
  });
  t.equal(lease.leaseSeconds, 3600);
  t.equal(guest.address, lease.address);
  t.equal(guest.stack.egress.mtu, 65520, 'option 26 is applied');
  const plain = await rig.guest({ framing: 'vpnkit' });
  t.equal(plain.lease?.mtu, 1500, 'a vpnkit link has 1,500');
});

t.test('DHCP-02 the address is stable by MAC, through every way to ask for it', async (t) => {
  const rig = await Rig.start(t);
  const a = await rig.guest({ mac: MAC_A });
  const b = await rig.guest({ mac: MAC_B, dhcpBroadcast: true });
  const address = a.address!;
  t.not(b.address, address);
  t.equal((await a.dhcpRenew('renew')).address, address, 'renewed');
  t.equal((await a.dhcpRenew('rebind')).address, address, 'rebound');
  t.equal((await a.dhcp()).address, address, 'discovered again');
  await a.close();
  const again = await rig.guest({ mac: MAC_A });
  t.equal(again.address, address, 'after a reconnect');
  await again.close();
  const rebooted = await rig.plug({ mac: MAC_A });
  t.equal((await rebooted.dhcpReboot(address)).address, address, 'INIT-REBOOT');
  await rebooted.dhcpRelease();
  t.equal(rebooted.address, undefined);
  await rig.until(() => rig.log.lines.some((l) => l.event === 'dhcp.release'), 'the release was heard');
  t.equal((await rebooted.dhcp()).address, address, 'after a release');
  t.equal(b.address, (await b.dhcpRenew()).address, 'the other VM kept its own');
});

t.test('DHCP-04 a wrong address is refused at once, a declined one is not given again', async (t) => {
  const rig = await Rig.start(t);
  const a = await rig.guest({ mac: MAC_A });
  const b = await rig.plug({ mac: MAC_B });
  t.equal(await codeOf(b.dhcpReboot('10.0.0.5')), 'EADDRNOTAVAIL', 'of another network');
  t.equal(
    await codeOf(b.dhcpReboot(a.address!, 100)),
    'ETIMEDOUT',
    "another VM's: RFC 2131 4.3.2, silence to a stranger",
  );
  const first = (await b.dhcp()).address;
  const second = (await b.dhcpDecline()).address;
  t.not(second, first);
  t.not(second, a.address);
  t.equal(await codeOf((await rig.plug()).dhcpRenew()), 'EADDRNOTAVAIL', 'nothing to renew without a lease');
});

t.test('vpnkit: the same UUID has the same MAC and address, also while it is connected', async (t) => {
  const rig = await Rig.start(t);
  const uuid = '0123abcd-0000-4000-8000-000000000001';
  const one = await rig.guest({ framing: 'vpnkit', uuid });
  const two = await rig.plug({ framing: 'vpnkit', uuid });
  t.equal(two.mac, one.mac);
  t.equal(two.link.vif?.mtu, 1500);
  await one.close();
  t.equal((await two.dhcp()).address, one.address);
  t.ok((await two.ping(GATEWAY)).intact);
  const wanted = await rig.guest({
    framing: 'vpnkit',
    preferredAddress: '192.168.65.77',
    uuid: uuid.replace(/1$/, '2'),
  });
  t.equal(wanted.address, '192.168.65.77', 'the preferred address');
  t.equal(await codeOf(rig.plug({ framing: 'vpnkit', uuid: 'not a uuid' })), 'ECONNRESET', 'no UUID: closed');
});

t.test('ICMP-01 gateway and host alias answer pings of every size, reassembled', async (t) => {
  const rig = await Rig.start(t);
  const small = await rig.guest({ mtu: 1500 });
  const large = await rig.guest();
  for (const guest of [small, large]) {
    for (const address of [GATEWAY, HOST]) {
      for (const bytes of [0, 1, 56, 1472, 1473, 8000, 65_492, 65_507]) {
        const reply = await guest.ping(address, { bytes });
        t.ok(reply.intact, `${bytes} bytes to ${address}, MTU ${guest.stack.egress.mtu}`);
      }
    }
  }
  t.equal(await codeOf(small.ping(GATEWAY, { bytes: 65_508 })), 'EMSGSIZE');
  t.ok(small.stats.largestPacketReceived <= 1500);
  t.ok(large.stats.largestPacketReceived > 60_000);
  t.equal(await codeOf(small.ping('203.0.113.9', { ttl: 1 })), 'EHOSTUNREACH', 'TTL exceeded at the gateway');
  t.equal(small.stack.icmp.pinging + large.stack.icmp.pinging, 0);
});

t.test('ARP-01 VMs find each other and the gateway, and nobody answers for an unused address', async (t) => {
  const rig = await Rig.start(t);
  const a = await rig.guest();
  const b = await rig.guest();
  t.ok((await a.ping(b.address!)).intact, 'VM to VM');
  t.ok((await b.ping(a.address!, { bytes: 20_000 })).intact, 'fragmented or not');
  t.equal(b.stats.arpReplies, 1, 'asked once; the answer was used both ways');
  t.equal(await codeOf(a.ping('192.168.65.200', { timeoutMs: 100 })), 'ETIMEDOUT');
  t.equal(await codeOf(a.connect('192.168.65.200', 1)), 'EHOSTUNREACH', 'RFC 1122 2.3.2: told after three requests');
});

t.test('DNS-01 built-in names over UDP and TCP', async (t) => {
  const rig = await Rig.start(t, ['--domain', 'vm.example', '--dns', '127.0.0.1:9']);
  const guest = await rig.guest({ hostName: 'alpha' });
  for (const tcp of [false, true]) {
    const ask = async (name: string, type: keyof typeof DNS_TYPES = 'A'): Promise<string> => {
      const reply = await guest.resolve(name, type, { tcp });
      return reply.rcode === 0 ? reply.answers.map((r) => r.data).join(' ') : `rcode ${reply.rcode}`;
    };
    const over = tcp ? 'TCP' : 'UDP';
    for (const name of ['host.docker.internal', 'host.isthmus.internal', 'HOST.LIMA.internal.']) {
      t.equal(await ask(name), HOST, `${name} over ${over}`);
    }
    t.equal(await ask('gateway.docker.internal'), GATEWAY, over);
    t.equal(await ask('alpha'), guest.address, `the VM's own name over ${over}`);
    t.equal(await ask('alpha.vm.example'), guest.address, over);
    t.equal(await ask('printer.example'), '10.9.8.7', `hosts file over ${over}`);
    t.equal(await ask('host.docker.internal', 'AAAA'), '', `NODATA over ${over}`);
    t.equal(await ask('nobody.isthmus.internal'), 'rcode 3', `NXDOMAIN over ${over}`);
    t.equal(await ask('254.65.168.192.in-addr.arpa', 'PTR'), 'host.isthmus.internal', over);
  }
});

t.test('DNS-06 an answer too large for UDP comes by TCP', async (t) => {
  const texts = Array.from({ length: 40 }, (_, i) => `${i}-${'x'.repeat(200)}`);
  const server = await new WireServer((query) => {
    const { id, questions } = dnsPacket.decode(query);
    const answers = texts.map((data) => ({ type: 'TXT' as const, name: 'big.example', ttl: 5, data }));
    return dnsPacket.encode({ type: 'response', id: id ?? 0, flags: 0x180, questions: questions ?? [], answers });
  }).listen();
  t.teardown(() => server.close());
  const rig = await Rig.start(t, ['--dns', `127.0.0.1:${server.port}`]);
  const guest = await rig.guest({ mtu: 1500 });
  const cut = await guest.resolve('big.example', 'TXT', { keepTruncated: true });
  t.ok(cut.truncated);
  t.ok(cut.bytes <= 1472);
  const whole = await guest.resolve('big.example', 'TXT');
  t.notOk(whole.truncated);
  t.strictSame(whole.answers.map((r) => r.data).sort(), [...texts].sort());
});

t.test("NTP-01 the host's time", async (t) => {
  const rig = await Rig.start(t);
  const guest = await rig.guest();
  const reply = await guest.ntp();
  t.ok(Math.abs(reply.serverMs - Date.now()) < 1000);
  t.ok(Math.abs(reply.offsetMs) < 100);
  t.equal(reply.stratum, 3);
  t.equal(reply.leap, 0);
});

t.test('a socket where nobody listens, and no address', async (t) => {
  const rig = await Rig.start(t);
  t.equal(await codeOf(rig.plug({ path: `${rig.dir}/none` })), 'ENOENT');
  await t.rejects(rig.plug({ mac: 'nonsense' }), TypeError);
  const guest = await rig.plug();
  t.equal(await codeOf(guest.connect(GATEWAY, 53)), 'ENETUNREACH');
  t.equal(await codeOf(guest.ping(GATEWAY)), 'ENETUNREACH');
  t.throws(() => guest.udp().send(Buffer.from('x'), GATEWAY, 7), { code: 'ENETUNREACH' });
  guest.configure({ address: '192.168.65.50', prefix: 24, router: GATEWAY });
  t.ok((await guest.ping(GATEWAY)).intact, 'an address set by hand');
  await rig.network.stop(1000);
  t.match(await guest.closed, /closed/);
  t.equal(await codeOf(guest.dhcp(50)), 'ETIMEDOUT', 'the network has gone');
});
