// Sockets towards DNS servers that the network has moved away under: bound to an address that the host has no more, or that is not the one
// by which the server is reached now. The UDP is made up, so that the kernel of before and the kernel of now can be told apart.

import * as packet from 'dns-packet';
import t, { type Test } from 'tap';
import { AddressTexts } from '../../src/forwarder/address-texts.ts';
import { SENT, type UdpHandle, type UdpHandleOwner, type UdpHandles } from '../../src/host/udp-handle.ts';
import { aRecords, query, response } from '../dns/rig.ts';
import { ServiceRig, until, WireServer } from './dns-rig.ts';

const EINVAL = -22;
const SERVFAIL = 2;

const answerA = (q: Buffer): Buffer =>
  response(q, { answers: aRecords(packet.decode(q).questions?.[0]?.name ?? '', 1) });
const rcode = (b: Buffer): number => b.readUInt16BE(2) & 15;

/** UDP over networks that follow each other: a socket belongs to that of its birth, and each has its own idea of what is sent on it. */
class Networks implements UdpHandles {
  /** What happens to a question: an answer, nothing, or an errno. */
  readonly fates: ('answer' | 'silence' | number)[] = ['answer'];
  sent = 0;
  open = 0;

  create(owner: UdpHandleOwner): UdpHandle {
    const born = this.fates.length - 1;
    let closed = false;
    this.open++;
    return {
      port: 1,
      address: '192.0.2.2',
      bind: () => '',
      connect: () => '',
      send: (bytes) => {
        this.sent++;
        const fate = this.fates[born]!;
        if (typeof fate === 'number') return fate;
        const answer = answerA(Buffer.from(bytes));
        if (fate === 'answer') setImmediate(() => closed || owner.onDatagram(answer, 0, answer.length, '', 0));
        return SENT;
      },
      sendTo: () => EINVAL,
      close: () => {
        if (!closed) this.open--;
        closed = true;
      },
    };
  }

  inherit(): string {
    return 'ENOTSUP';
  }

  /** Another network: sockets of before have this fate from now on. */
  change(before: 'silence' | number, now: 'answer' | 'silence' | number = 'answer'): void {
    this.fates.fill(before);
    this.fates.push(now);
  }
}

function rigOf(t: Test, networks: Networks): ServiceRig {
  const rig = new ServiceRig({
    sockets: { handles: networks, texts: new AddressTexts() },
    upstreams: ['192.0.2.1'],
  });
  t.teardown(() => rig.close());
  return rig;
}

/** Questions at once, so that several sockets are open. @returns their rcodes, and how long the slowest took. */
async function burst(rig: ServiceRig, count: number, prefix: string): Promise<{ rcodes: number[]; ms: number }> {
  const started = performance.now();
  const ports = Array.from({ length: count }, (_, i) => rig.send(query(`${prefix}${i}.example`, 'A')));
  await until(() => ports.every((p) => rig.answers.has(p)), 10_000);
  const ms = Math.max(...ports.map((p) => rig.answeredAt.get(p)!)) - started;
  return { rcodes: [...new Set(ports.map((p) => rcode(rig.answers.get(p)!)))], ms };
}

t.test('DNS-10: the address of open sockets is gone: the question goes once more from a new one', async (t) => {
  const networks = new Networks();
  const rig = rigOf(t, networks);
  t.same((await burst(rig, 40, 'a')).rcodes, [0]);
  t.ok(rig.service.upstream.udpSockets > 4, `${rig.service.upstream.udpSockets} sockets are open`);
  networks.change(EINVAL);
  const { rcodes, ms } = await burst(rig, 40, 'b');
  t.same(rcodes, [0], 'no SERVFAIL for a server that can be reached');
  t.ok(ms < 500, `and at once: ${ms.toFixed(0)} ms`);
  t.notOk(rig.service.responder.resolver.servers.all[0]!.suspect, 'nothing is held against it');
});

t.test('DNS-10: no network at all: each question is tried on a new socket once, and told at once', async (t) => {
  const networks = new Networks();
  const rig = rigOf(t, networks);
  await burst(rig, 20, 'a');
  networks.change(EINVAL, EINVAL);
  const before = networks.sent;
  const { rcodes, ms } = await burst(rig, 1, 'b');
  t.same(rcodes, [SERVFAIL]);
  t.equal(networks.sent - before, 2, 'on the old socket and on a new one');
  t.ok(ms < 500, `${ms.toFixed(0)} ms`);
  t.equal(networks.open, rig.service.upstream.udpSockets, 'no socket is left behind');
});

t.test('DNS-10: open sockets lead nowhere, and nobody says so: one lookup waits, not each', async (t) => {
  const networks = new Networks();
  const rig = rigOf(t, networks);
  await burst(rig, 40, 'a');
  const open = rig.service.upstream.udpSockets;
  t.ok(open > 4, `${open} sockets are open`);
  networks.change('silence');
  const first = await burst(rig, 1, 'b');
  t.same(first.rcodes, [0]);
  t.ok(first.ms < 1500, `the first: ${first.ms.toFixed(0)} ms`);
  for (let i = 0; i < 20; i++) {
    const { rcodes, ms } = await burst(rig, 1, `c${i}-`);
    t.same(rcodes, [0]);
    t.ok(ms < 300, `one of the following: ${ms.toFixed(0)} ms`);
  }
});

t.test('DNS-10: a TCP connection that says nothing is left for another', async (t) => {
  let dead = false;
  const server = await new WireServer((q, tcp) => (tcp && !dead ? answerA(q) : undefined)).listen();
  t.teardown(() => server.close());
  const rig = new ServiceRig({ resolvConf: `nameserver ${server.text}\noptions use-vc\n` });
  t.teardown(() => rig.close());
  t.equal(rcode(await rig.ask(query('a.example', 'A'))), 0);
  t.equal(server.tcpConnections, 1);
  dead = true;
  const port = rig.send(query('b.example', 'A'));
  await until(() => server.tcpQueries === 2);
  // What comes by another connection is answered again.
  server.tcp.once('connection', () => {
    dead = false;
  });
  await until(() => rig.answers.has(port));
  t.equal(rcode(rig.answers.get(port)!), 0, 'asked anew on a second connection');
  t.equal(server.tcpConnections, 2);
  const started = performance.now();
  t.equal(rcode(await rig.ask(query('c.example', 'A'))), 0);
  t.ok(performance.now() - started < 500, 'which is used from then on');
  t.equal(server.tcpConnections, 2);
});
