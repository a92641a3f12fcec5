// Published ports with real machines on both sides: a Linux guest behind a TAP device, and clients in another network namespace, with an
// address of their own. What the guest's accept() and recvfrom() see is what its programs log.

import t from 'tap';
import { CLIENT, HOST as HOST_ADDRESS, HostNamespaces } from '../helpers/host-namespaces.ts';
import { Namespace } from '../helpers/namespace.ts';
import { GATEWAY, GUEST, GuestAgent, HOST_ALIAS } from '../helpers/namespace-guest.ts';
import { needsNamespace } from '../helpers/requirements.ts';

const skip = needsNamespace();
const MAC = '52:54:00:00:00:0a';

t.test('a guest sees the real client, TCP and UDP', { skip }, async (t) => {
  const machines = HostNamespaces.create(t);
  // A client inside the virtual network's range and one on the host's link: as themselves they could not be answered.
  machines.addClientAddress('192.168.65.77');
  machines.addClientAddress('169.254.7.7');
  machines.addClientAddress('8.8.8.8');
  await machines.startDaemon([
    ...['--lease', `${MAC}=${GUEST}`],
    ...['--publish', `0.0.0.0:7000:${GUEST}:7777`, '--publish', `0.0.0.0:7000:${GUEST}:7777/udp`],
  ]);
  const namespace = Namespace.create(t);
  await namespace.plug({ socket: machines.vmSocket, mtu: 65520, mac: MAC });
  namespace.address(`${GUEST}/24`, GATEWAY);
  const guest = await GuestAgent.start(namespace);
  const client = await machines.agent('client');
  const host = await machines.agent('host');

  const early = await client.call('connect', HOST_ADDRESS, 7000);
  t.equal(early.outcome, 'connected', 'by the kernel, which knows nothing of the guest');
  t.match(
    await client.call('resetOrWait', HOST_ADDRESS, 7000, false),
    /reset|ECONNRESET/,
    'reset until the guest listens',
  );
  await guest.call('serveWho', 7777);

  const remote = await client.call('askWho', HOST_ADDRESS, 7000);
  t.equal(remote.tcp, `${CLIENT} ${remote.tcpPort}`, 'accept() shows address and port of the client');
  t.equal(remote.udp, `${CLIENT} ${remote.udpPort}`, 'recvfrom() too, and the answer finds its way');

  const far = await client.call('askWho', HOST_ADDRESS, 7000, '8.8.8.8');
  t.equal(far.tcp, `8.8.8.8 ${far.tcpPort}`, 'an address far away');
  t.equal(far.udp, `8.8.8.8 ${far.udpPort}`);

  const clash = await client.call('askWho', HOST_ADDRESS, 7000, '192.168.65.77');
  t.equal(
    clash.tcp.split(' ')[0],
    GATEWAY,
    'a client that has an address of the network is not taken for another guest',
  );
  t.equal(clash.udp.split(' ')[0], GATEWAY);

  const linkLocal = await client.call('askWho', HOST_ADDRESS, 7000, '169.254.7.7');
  t.equal(linkLocal.tcp.split(' ')[0], GATEWAY, 'the guest would look for it on its own link');
  t.equal(linkLocal.udp.split(' ')[0], GATEWAY);

  const local = await host.call('askWho', '127.0.0.1', 7000);
  t.equal(local.tcp, `${HOST_ALIAS} ${local.tcpPort}`, "the host's loopback is the host alias");
  t.equal(local.udp, `${HOST_ALIAS} ${local.udpPort}`);

  const self = await host.call('askWho', HOST_ADDRESS, 7000);
  t.equal(self.tcp, `${HOST_ADDRESS} ${self.tcpPort}`, 'the host by its own address is that address');
  t.equal(self.udp, `${HOST_ADDRESS} ${self.udpPort}`);

  const many = await Promise.all(Array.from({ length: 20 }, () => client.call('askWho', HOST_ADDRESS, 7000)));
  for (const one of many) {
    t.equal(one.tcp, `${CLIENT} ${one.tcpPort}`, 'many at once are kept apart');
    t.equal(one.udp, `${CLIENT} ${one.udpPort}`);
  }
});
