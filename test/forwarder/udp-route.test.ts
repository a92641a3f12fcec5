// A VPN that comes and goes, as a flow's sockets see it: addresses and routes of a network namespace change under them.
// Needs user namespaces and iproute2; the test runs itself inside one.

import { execFileSync, spawnSync } from 'node:child_process';
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { Destinations } from '../../src/forwarder/destination.ts';
import { UdpForwarder } from '../../src/forwarder/udp-forwarder.ts';
import { Cidr4, parseAddress } from '../../src/ip/address.ts';
import type { LinkPort } from '../../src/stack/ports.ts';
import { context, overBoth } from './udp-rig.ts';

const INSIDE = 'ISTHMUS_TEST_INSIDE_NAMESPACE';

if (process.env[INSIDE] === undefined) {
  const able =
    spawnSync('unshare', ['-rn', 'ip', 'link', 'add', 'd0', 'type', 'veth', 'peer', 'name', 'd1']).status === 0;
  t.test(
    'a flow survives routes and addresses that change',
    { skip: able ? false : 'no network namespace with a veth pair can be made here' },
    (t) => {
      const run = spawnSync('unshare', ['-rn', process.execPath, fileURLToPath(import.meta.url)], {
        env: { ...process.env, [INSIDE]: '1', TAP: '1' },
        encoding: 'utf8',
      });
      t.equal(run.status, 0, run.stdout + run.stderr);
      t.end();
    },
  );
} else {
  const ip = (text: string) => parseAddress(text)!;
  const sh = (line: string): void => {
    execFileSync('ip', line.split(' '));
  };
  sh('link set lo up');
  sh('link add d0 type veth peer name d1');
  sh('link set d1 up');
  sh('link set d0 up');

  overBoth.test('UDP: the source address goes, the route goes, both come back', async (t, handles) => {
    let now = 0;
    sh('addr add 10.9.0.1/24 dev d0');
    const codes: number[] = [];
    const gateway = ip('192.168.65.1');
    const f = new UdpForwarder({
      destinations: new Destinations({ network: new Cidr4(gateway.v4, 24), gateway, hostAlias: undefined }),
      sender: { sendDatagram: () => true, sendUnreachable: (code) => codes.push(code) },
      clock: { now: () => now },
      onDeadlineChanged: () => {},
      sockets: context(handles),
    });
    t.teardown(() => f.close());
    const remote = ip('10.9.0.9');
    const vm = { id: 1 } as LinkPort;
    const send = async (dst = remote, port = 4000): Promise<void> => {
      const meta = {
        vm,
        macBuf: new Uint8Array(6),
        macOff: 0,
        src: ip('192.168.65.3'),
        srcPort: 7000,
        dst,
        dstPort: port,
      };
      f.onDatagram(meta, new Uint8Array(4), 0, 4, now);
      while (f.arena.inFlight > 0) await new Promise((resolve) => setImmediate(resolve));
    };
    await send();
    const flow = [...f.flows()][0]!;
    t.same([codes, flow.reopened], [[], 0]);

    // The address that B was connected from is gone: sends fail until B is made anew.
    now = 1000;
    sh('addr del 10.9.0.1/24 dev d0');
    sh('addr add 10.9.0.2/24 dev d0');
    await send();
    t.same([codes, flow.reopened], [[], 1], 'sent from the new address, nothing lost');

    // No route at all: the guest is told.
    now = 3000;
    sh('addr del 10.9.0.2/24 dev d0');
    await send();
    await send();
    t.same([...new Set(codes)], [0], 'net unreachable');
    const told = codes.length;
    t.ok(told >= 1);
    await send(ip('198.51.100.1'));
    t.equal(codes.length, told + 1, 'another remote without route: told as well');

    // The route is back, with a remote that answers from an address of its own.
    now = 9000;
    sh('addr add 10.9.0.3/24 dev d0');
    sh('addr add 10.9.0.9/32 dev lo');
    t.teardown(() => {
      sh('addr del 10.9.0.3/24 dev d0');
      sh('addr del 10.9.0.9/32 dev lo');
    });
    const server = createSocket('udp4');
    server.bind(4000, '10.9.0.9');
    await once(server, 'listening');
    t.teardown(() => {
      server.close();
    });
    const heard = once(server, 'message');
    await send();
    t.equal((await heard)[1].port, 7000, 'same source port');
    t.equal(codes.length, told + 1);
  });
}
