// The embedded guest against a whole network: DHCP, ARP, ping, DNS, NTP.

import t from 'tap';
import { codeOf, GATEWAY, HOST, Rig } from './rig.ts';

const MAC_A = '52:54:00:00:00:0a';
const MAC_B = '52:54:00:00:00:0b';

t.test('DHCP gives an address and every option that was asked for', async (t) => {
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
  t.ok(lease.leaseSeconds >= 60);
  t.equal(guest.address, lease.address);
  t.equal(guest.stack.egress.mtu, 65520, 'option 26 is applied');
});
