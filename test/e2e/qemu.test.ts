// A real Linux VM under QEMU: the demo's steps as assertions, and a VM that outlives the daemon.

import { type AddressInfo, createServer } from 'node:net';
import t from 'tap';
import { startHostServices } from '../../scripts/demo/host-services.ts';
import { STEPS, type StepContext } from '../../scripts/demo/steps.ts';
import { VmGuest } from '../../scripts/demo/vm-guest.ts';
import { startDaemon } from '../helpers/daemon.ts';
import { GATEWAY, GUEST, HOST_ALIAS } from '../helpers/namespace-guest.ts';
import { bootVm, needsVm } from '../helpers/vm.ts';

const MAC = '52:54:00:1d:e3:04';
const skip = await needsVm();

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

t.test('a Linux VM gets its whole network', { skip }, async (test) => {
  const services = await startHostServices();
  test.teardown(() => services.close());
  const publishedPort = await freePort();
  const daemon = await startDaemon(test, {
    args: [
      ...['--resolv-conf', services.resolvConf, '--lease', `${MAC}=${GUEST}`, '--strict'],
      ...['--publish', `127.0.0.1:${publishedPort}:${GUEST}:8080`],
    ],
  });
  const machine = await bootVm(test, { socket: daemon.vmSocket, mac: MAC, name: 'test-vm' });
  const context: StepContext = {
    guest: new VmGuest(machine),
    services,
    publishedPort,
    guestAddress: GUEST,
    mtu: 65520,
    gateway: GATEWAY,
    hostAlias: HOST_ALIAS,
    transferBytes: 32 * 2 ** 20,
    lease: undefined,
  };
  for (const step of STEPS) {
    await test.test(step.name, async (sub) => {
      const { detail } = await step.run(context);
      sub.pass(detail);
    });
  }
  await test.test('by name through the resolver that DHCP set', async (sub) => {
    const { status, output } = await machine.run('ping -c 1 -W 3 host.isthmus.internal');
    sub.equal(status, 0, output.trim());
  });
});

t.test(
  'the daemon is killed and started again: the VM has its network back, with the same address',
  { skip },
  async (test) => {
    const services = await startHostServices();
    test.teardown(() => services.close());
    let daemon = await startDaemon(test);
    const machine = await bootVm(test, { socket: daemon.vmSocket, mac: MAC, name: 'test-vm', reconnect: true });
    const guest = new VmGuest(machine);
    const before = await guest.lease();

    await daemon.stop('SIGKILL');
    // The socket file of the killed daemon is still there: the new one has to take it over.
    daemon = await startDaemon(test, { folder: daemon.folder });
    const restarted = performance.now();
    let back = false;
    while (!back && performance.now() - restarted < 15_000) {
      back = (await machine.run(`ping -c 1 -W 1 ${GATEWAY}`)).status === 0;
    }
    test.ok(
      back,
      `the gateway answers again after ${((performance.now() - restarted) / 1000).toFixed(1)} s, without a new lease`,
    );
    const got = await guest.download(`http://${HOST_ALIAS}:${services.httpPort}/download?bytes=${2 ** 20}`);
    test.equal(got.sha256, services.downloadHash(2 ** 20), 'a download works');
    const after = await guest.lease();
    test.equal(after.address, before.address, 'asked again, DHCP gives the same address');
  },
);
