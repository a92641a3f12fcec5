// A VPN that comes and goes, as a flow's sockets see it: addresses and routes of a network namespace change under them.
// Needs user namespaces and iproute2; the test runs itself inside one.

import { execFileSync, spawnSync } from 'node:child_process';
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { Destinations } from '../../src/forwarder/destination.ts';
import { Outbound, type OutboundRule } from '../../src/forwarder/outbound.ts';
import { UdpForwarder, type UdpForwarderOptions } from '../../src/forwarder/udp-forwarder.ts';
import type { UdpHandles } from '../../src/host/udp-handle.ts';
import { Cidr4, type IpAddress, parseAddress } from '../../src/ip/address.ts';
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

  const network = new Cidr4(ip('192.168.65.0').v4, 24);
  const gateway = ip('192.168.65.1');

  /** A forwarder that notes the codes of its errors, and sends of one guest's port. */
  function rig(handles: UdpHandles, more: Partial<UdpForwarderOptions> = {}) {
    const it = { now: 0, flows: 0, codes: [] as number[], mtus: [] as number[], noRoutes: 0 };
    const f = new UdpForwarder({
      destinations: new Destinations({ network, gateway, hostAlias: undefined }),
      sender: {
        sendDatagram: () => true,
        sendUnreachable: (code, mtu) => {
          it.codes.push(code);
          it.mtus.push(mtu);
        },
      },
      clock: { now: () => it.now },
      onDeadlineChanged: () => {},
      onNoRoute: () => it.noRoutes++,
      onFlow: () => it.flows++,
      sockets: context(handles),
      ...more,
    });
    const vm = { id: 1 } as LinkPort;
    const send = async (dst: IpAddress, port = 4000, length = 4): Promise<void> => {
      const mac = { vm, macBuf: new Uint8Array(6), macOff: 0 };
      const meta = { ...mac, src: ip('192.168.65.3'), srcPort: 7000, dst, dstPort: port };
      f.onDatagram(meta, new Uint8Array(length), 0, length, it.now);
      while (f.arena.inFlight > 0) await new Promise((resolve) => setImmediate(resolve));
    };
    return { f, it, send };
  }

  /** Source addresses of the sockets connected to an address, by the kernel. */
  function sourcesTo(remote: string): string[] {
    const hex = (text: string): string =>
      text
        .split('.')
        .reverse()
        .map((byte) => Number(byte).toString(16).padStart(2, '0').toUpperCase())
        .join('');
    const rows = readFileSync('/proc/self/net/udp', 'latin1').split('\n').slice(1);
    return rows
      .map((row) => row.trim().split(/\s+/))
      .filter((fields) => fields[2]?.startsWith(`${hex(remote)}:`))
      .map((fields) => [6, 4, 2, 0].map((at) => Number.parseInt(fields[1]!.slice(at, at + 2), 16)).join('.'));
  }

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

  overBoth.test(
    'UDP: the route moves while the old address stays: the source follows once nothing comes back',
    async (t, handles) => {
      sh('link add e0 type veth peer name e1');
      sh('link set e1 up');
      sh('link set e0 up');
      sh('addr add 10.9.1.1/24 dev d0');
      sh('addr add 10.9.2.1/24 dev e0');
      sh('route add 10.78.0.0/16 dev d0 src 10.9.1.1');
      t.teardown(() => {
        sh('link del e0');
        sh('addr del 10.9.1.1/24 dev d0');
      });
      const { f, it, send } = rig(handles);
      t.teardown(() => f.close());
      await send(ip('10.78.0.9'));
      t.same(sourcesTo('10.78.0.9'), ['10.9.1.1']);
      sh('route replace 10.78.0.0/16 dev e0 src 10.9.2.1');
      it.now = 4000;
      await send(ip('10.78.0.9'));
      t.same(sourcesTo('10.78.0.9'), ['10.9.1.1'], 'an answer may still come');
      it.now = 9001;
      await send(ip('10.78.0.9'));
      t.same(sourcesTo('10.78.0.9'), ['10.9.2.1'], 'none has come for 5 s');
      await send(ip('10.78.0.10'));
      t.same(it.codes, [], 'nobody was told of anything');
    },
  );

  overBoth.test(
    'UDP: rules for the source address: a flow for each, and an error while it is missing',
    async (t, handles) => {
      sh('addr add 10.9.3.1/24 dev d0');
      sh('addr add 10.9.3.2/24 dev d0');
      t.teardown(() => {
        sh('addr del 10.9.3.2/24 dev d0');
        sh('addr del 10.9.3.1/24 dev d0');
      });
      const rule = (cidr: string, address: string): OutboundRule => ({
        network: Cidr4.parse(cidr)!,
        address: ip(address),
      });
      const outbound = new Outbound([
        rule('10.9.3.0/24', '10.9.3.2'),
        rule('10.9.3.77/32', '10.9.3.1'),
        rule('10.9.3.88/32', '10.9.3.8'),
      ]);
      const { f, it, send } = rig(handles, { outbound });
      t.teardown(() => f.close());
      await send(ip('10.9.3.9'));
      await send(ip('10.9.3.77'));
      await send(ip('10.9.3.10'));
      t.same(sourcesTo('10.9.3.9'), ['10.9.3.2']);
      t.same(sourcesTo('10.9.3.77'), ['10.9.3.1'], 'the most specific');
      t.equal(f.size, 2, 'destinations of one rule share a flow');
      t.equal(it.flows, 2, 'and whoever watches the networks is told of each');
      t.same(it.codes, []);
      await send(ip('10.9.3.88'));
      t.same(it.codes, [0], 'network unreachable: the host has no such address');
      t.equal(f.size, 2);
    },
  );

  overBoth.test(
    'UDP: routes that refuse: one error for one datagram, and the word of the route',
    async (t, handles) => {
      const rows = [
        ['unreachable', 1],
        ['prohibit', 13],
        ['blackhole', 0],
        ['throw', 0],
      ] as const;
      for (const [i, [kind, code]] of rows.entries()) {
        sh(`route add ${kind} 10.98.${i}.0/24`);
        const { f, it, send } = rig(handles);
        await send(ip(`10.98.${i}.9`));
        t.same(it.codes, [code], kind);
        if (kind !== 'prohibit') t.equal(it.noRoutes, 1, 'whoever watches the routes has a hint');
        f.close();
        sh(`route del ${kind} 10.98.${i}.0/24`);
      }
    },
  );
}
