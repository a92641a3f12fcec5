// What the gateway does for a real Linux guest behind a TAP device: DHCP, DNS, ping, UDP of all sizes, published ports; and that
// the capture of it all is clean to tshark.

import { execFileSync } from 'node:child_process';
import { createSocket } from 'node:dgram';
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createConnection } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import { startHostServices, UPSTREAM_ADDRESS, UPSTREAM_NAME } from '../../scripts/demo/host-services.ts';
import { projectRoot } from '../../scripts/project.ts';
import { startDaemon } from '../helpers/daemon.ts';
import { source, sourceHash, udpEcho } from '../helpers/host-servers.ts';
import { Namespace } from '../helpers/namespace.ts';
import { GATEWAY, GUEST, HOST_ALIAS, NamespaceGuest } from '../helpers/namespace-guest.ts';
import { firstReason, needsNamespace, needsProgram, programPath } from '../helpers/requirements.ts';

const MAC = '52:54:00:1d:e3:02';
const skipBusybox = firstReason(needsNamespace(), needsProgram('busybox'));

/** busybox's DHCP client in the namespace, with the script of the test VM made to write into `folder`. */
async function dhcp(namespace: Namespace, folder: string): Promise<Record<string, string>> {
  const busybox = programPath('busybox')!;
  const script = join(folder, 'script');
  const text = readFileSync(join(projectRoot, 'scripts/vm/guest/udhcpc.script'), 'utf8')
    .replace('#!/bin/busybox', `#!${busybox}`)
    .replaceAll('/run/lease', `${folder}/lease`)
    .replaceAll('/etc/resolv.conf', `${folder}/resolv.conf`);
  writeFileSync(script, text);
  chmodSync(script, 0o755);
  rmSync(join(folder, 'lease'), { force: true });
  const options = ['-O', 'mtu', '-O', 'search', '-O', 'ntpsrv', '-x', 'hostname:ns-guest'];
  const args = ['udhcpc', '-i', namespace.device, '-f', '-q', '-n', '-t', '5', '-T', '1', '-s', script, ...options];
  const { status, stderr, stdout } = await namespace.exec(busybox, args);
  if (status !== 0) throw new Error(`udhcpc: ${stderr}${stdout}`);
  const lines = readFileSync(join(folder, 'lease'), 'utf8').trim().split('\n');
  return Object.fromEntries(lines.map((line) => line.split(/=(.*)/s).slice(0, 2)));
}

t.test(
  'DHCP-01 to DHCP-03: a real client gets its lease, and keeps it over restarts of the daemon',
  { skip: skipBusybox },
  async (test) => {
    const folder = mkdtempSync(join(tmpdir(), 'isthmus-dhcp-'));
    test.teardown(() => rmSync(folder, { recursive: true, force: true }));
    const namespace = Namespace.create(test);
    let daemon = await startDaemon(test, { args: ['--mtu', '9000'] });
    await namespace.plug({ socket: daemon.vmSocket, mtu: 9000, mac: MAC });
    const lease = await dhcp(namespace, folder);
    test.match(lease.ip, /^192\.168\.65\.\d+$/);
    test.equal(lease.mask, '24');
    test.equal(lease.router, GATEWAY);
    test.equal(lease.dns, GATEWAY);
    test.equal(lease.ntp, GATEWAY);
    test.equal(lease.mtu, '9000');
    test.equal(lease.domain, 'isthmus.internal');
    test.equal(lease.server, GATEWAY);

    await namespace.unplug();
    await daemon.stop();
    daemon = await startDaemon(test, { args: ['--mtu', '9000'], folder: daemon.folder });
    // Another VM comes first and must not get the address of the first.
    const other = Namespace.create(test);
    await other.plug({ socket: daemon.vmSocket, mtu: 9000, mac: '52:54:00:1d:e3:03' });
    test.not((await dhcp(other, folder)).ip, lease.ip, 'another VM gets another address');
    await namespace.plug({ socket: daemon.vmSocket, mtu: 9000, mac: MAC });
    test.equal((await dhcp(namespace, folder)).ip, lease.ip, 'the same VM gets the same address');
  },
);

t.test(
  'vpnkit framing: the same UUID gives the same MAC and address, and TCP works',
  { skip: skipBusybox },
  async (test) => {
    const folder = mkdtempSync(join(tmpdir(), 'isthmus-vpnkit-'));
    test.teardown(() => rmSync(folder, { recursive: true, force: true }));
    const daemon = await startDaemon(test, { framing: 'vpnkit' });
    const server = await source(test);
    const uuid = '6d0e4b5c-3a2f-4e1d-8c7b-9a8f7e6d5c4b';
    const seen: { mac: string; ip: string | undefined }[] = [];
    for (let i = 0; i < 2; i++) {
      const namespace = Namespace.create(test);
      const mac = await namespace.plug({ socket: daemon.vmSocket, framing: 'vpnkit', mtu: 1500, uuid });
      seen.push({ mac, ip: (await dhcp(namespace, folder)).ip });
      await namespace.close();
    }
    test.same(seen[0], seen[1]);
    const guest = await NamespaceGuest.start(test, daemon, {
      framing: 'vpnkit',
      mtu: 1500,
      uuid,
      address: seen[0]!.ip!,
    });
    const bytes = 16 * 2 ** 20;
    const [result] = await guest.agent.call('download', HOST_ALIAS, server.port, bytes, 1);
    test.equal(result?.sha256, sourceHash(bytes), 'a download over it has the right hash');
  },
);

t.test('a guest uses everything, and tshark finds nothing to complain of', { skip: skipBusybox }, async (test) => {
  const services = await startHostServices();
  test.teardown(() => services.close());
  const daemon = await startDaemon(test, {
    args: [
      ...['--dns', `127.0.0.1:${services.dnsPort}`, '--lease', `${MAC}=${GUEST}`, '--strict'],
      ...['--publish', `127.0.0.1:0:${GUEST}:7777`, '--publish', `udp:127.0.0.1:0:${GUEST}:7777`],
      ...['--pcap', 'guest.pcapng'],
    ],
  });
  const guest = await NamespaceGuest.start(test, daemon, { mtu: 65520, mac: MAC });
  const udp = await udpEcho(test);
  const server = await source(test);
  const busybox = programPath('busybox')!;

  await test.test('the daemon is an ordinary user without privileges or raw sockets', async (sub) => {
    const { uids, capabilities } = daemon.identity();
    sub.ok(
      uids.every((uid) => uid !== 0),
      `user ids ${uids.join()}`,
    );
    sub.equal(capabilities, 0n, 'no effective capability');
    for (const table of ['raw', 'raw6', 'packet', 'icmp']) {
      const text = readFileSync(`/proc/${daemon.pid}/net/${table}`, 'utf8');
      const inodes = new Set(text.match(/\b\d{4,}\b/g) ?? []);
      const own = execFileSync('ls', ['-l', `/proc/${daemon.pid}/fd`], { encoding: 'utf8' }).matchAll(
        /socket:\[(\d+)\]/g,
      );
      sub.notOk(
        [...own].some((found) => inodes.has(found[1]!)),
        `no ${table} socket`,
      );
    }
  });

  await test.test('ICMP-02: ping of every size', async (sub) => {
    for (const address of [GATEWAY, HOST_ALIAS]) {
      for (const size of [0, 1, 56, 1472, 1473, 8000, 65_492, 65_507]) {
        const args = ['ping', '-c', '1', '-W', '2', '-s', String(size), address];
        const { status, stdout } = await guest.namespace.exec(busybox, args);
        sub.equal(status, 0, `${address}, ${size} bytes${status === 0 ? '' : `: ${stdout}`}`);
      }
    }
  });

  await test.test('DNS by a real client', async (sub) => {
    const ask = async (name: string): Promise<string> =>
      (await guest.namespace.exec(busybox, ['nslookup', '-type=a', name, GATEWAY])).stdout;
    sub.match(await ask('host.isthmus.internal'), HOST_ALIAS);
    sub.match(await ask('gateway.docker.internal'), GATEWAY);
    sub.match(await ask(UPSTREAM_NAME), UPSTREAM_ADDRESS);
    sub.match(await ask(`no-such-name.${UPSTREAM_NAME}`), /NXDOMAIN/);
  });

  await test.test('UDP: echo of every size, fragments included', async (sub) => {
    const sizes = [0, 1, 512, 1472, 1473, 9000, 40_000, 65_507];
    sub.same(await guest.agent.call('udpEcho', HOST_ALIAS, udp.port, sizes), sizes);
  });

  await test.test('UDP: the same with a small MTU in the guest', async (sub) => {
    execFileSync('ip', ['-n', guest.namespace.name, 'link', 'set', guest.namespace.device, 'mtu', '1500']);
    const sizes = [1472, 1473, 9000, 40_000, 65_507];
    sub.same(await guest.agent.call('udpEcho', HOST_ALIAS, udp.port, sizes), sizes);
    execFileSync('ip', ['-n', guest.namespace.name, 'link', 'set', guest.namespace.device, 'mtu', '65520']);
  });

  await test.test('published ports, TCP and UDP', async (sub) => {
    await guest.agent.call('serveEcho', 7777);
    const published = daemon.ready.publish as { protocol: string; host: string }[];
    const portOf = (protocol: string): number =>
      Number(
        published
          .find((p) => p.protocol === protocol)!
          .host.split(':')
          .at(-1),
      );
    const tcp = await new Promise<string>((resolve, reject) => {
      const socket = createConnection(portOf('tcp'), '127.0.0.1', () => socket.end('over TCP'));
      let text = '';
      socket.on('data', (chunk: Buffer) => {
        text += chunk.toString();
      });
      socket.on('end', () => resolve(text));
      socket.on('error', reject);
    });
    sub.equal(tcp, 'over TCP');
    const socket = createSocket('udp4');
    const answer = await new Promise<string>((resolve) => {
      socket.once('message', (message) => resolve(message.toString()));
      socket.send('over UDP', portOf('udp'), '127.0.0.1');
      setTimeout(() => resolve('no answer'), 3000).unref();
    });
    socket.close();
    sub.equal(answer, 'over UDP');
  });

  await test.test('TCP both ways for the capture', async (sub) => {
    const [down] = await guest.agent.call('download', HOST_ALIAS, server.port, 2 ** 22, 1);
    sub.equal(down?.sha256, sourceHash(2 ** 22));
    sub.equal(await guest.agent.call('resetOrWait', HOST_ALIAS, services.halfClosePort, true), 'close', 'and a reset');
  });

  await test.test('tshark reads the capture without complaint', { skip: needsProgram('tshark') }, async (sub) => {
    await daemon.stop();
    const checks = ['ip', 'tcp', 'udp'].flatMap((layer) => ['-o', `${layer}.check_checksum:TRUE`]);
    // Echoed bytes may look like RTCP, and then like bad RTCP, to whoever guesses.
    const guesses = ['rtcp_udp', 'rtp_udp', 'stun_udp'].flatMap((name) => ['--disable-heuristic', name]);
    const filter = '_ws.malformed || ip.checksum.status == 0 || tcp.checksum.status == 0 || udp.checksum.status == 0';
    const capture = join(daemon.folder, 'guest.pcapng');
    const bad = execFileSync('tshark', ['-r', capture, ...checks, ...guesses, '-Y', filter], {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    sub.equal(bad, '', 'no bad checksum, nothing malformed');
  });
});
