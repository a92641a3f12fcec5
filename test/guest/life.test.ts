// What VMs do to a network over time: they are killed, come back, are many, send noise, hold flows and make thousands of them.
// After each, everything that was held is free again.

import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import t, { type Test } from 'tap';
import type { EmbeddedGuest } from '../../src/guest/embedded-guest.ts';
import type { GuestSocket } from '../../src/guest/guest-socket.ts';
import { echo, howEnded, serve, source, type TestServer, udpEcho } from '../helpers/host-servers.ts';
import { GATEWAY, HOST, Rig, readAll } from './rig.ts';

const MIB = 1024 * 1024;
const MAC = '52:54:00:00:00:0a';

async function server(t: Test, starting: Promise<TestServer>): Promise<TestServer> {
  const server = await starting;
  t.teardown(() => server.close());
  return server;
}

for (const framing of ['qemu', 'vpnkit'] as const) {
  t.test(`a VM killed mid-transfer frees everything at once, the next one works (${framing})`, async (t) => {
    const rig = await Rig.start(t);
    const empty = rig.holdings();
    const from = await server(t, source());
    const resets: string[] = [];
    const to = await server(
      t,
      serve((socket) => {
        socket.on('data', () => {});
        socket.on('error', (error: NodeJS.ErrnoException) => resets.push(error.code ?? ''));
        // Node 20 tells a reset behind data as an end.
        socket.on('end', () => resets.push(howEnded(socket)));
      }),
    );
    const uuid = '0123abcd-0000-4000-8000-00000000000a';
    const guest = await rig.guest({ mac: MAC, framing, uuid });
    const address = guest.address;
    const udp = await udpEcho();
    t.teardown(() => udp.close());
    await guest.udp().exchange(Buffer.from('x'), HOST, udp.port);
    const failures: (string | undefined)[] = [];
    for (let i = 0; i < 8; i++) {
      const down = await guest.connect(HOST, from.port);
      down.on('error', (error: NodeJS.ErrnoException) => failures.push(error.code));
      down.write(`${1024 * MIB}\n`);
      down.resume();
      const up = await guest.connect(HOST, to.port);
      up.on('error', (error: NodeJS.ErrnoException) => failures.push(error.code));
      const more = (): void => {
        while (!up.destroyed && up.write(Buffer.alloc(65_536, i)));
        up.once('drain', more);
      };
      more();
    }
    await rig.until(() => rig.metric('tcp_host_bytes_to_guest_total') > 8 * MIB, 'transfers run');
    t.equal(rig.holdings().flows, 16);
    t.equal(rig.holdings().udpFlows, 1);
    const killedAt = performance.now();
    await guest.close();
    t.strictSame(failures, new Array(16).fill('ENETDOWN'), "the guest's programs are told");
    await rig.until(() => rig.metric('vms') === 0, 'the VM is gone');
    t.ok(performance.now() - killedAt < 200, 'at once');
    t.strictSame({ ...rig.holdings(), slab: 0 }, { ...empty, slab: 0 }, 'no flow, socket or timer is left');
    await rig.until(() => rig.holdings().slab === empty.slab, 'packet memory is back');
    await rig.until(() => from.sockets.size === 0 && to.sockets.size === 0, 'host sockets are closed');
    t.strictSame(new Set(resets), new Set(['ECONNRESET']), 'by reset, not by FIN');

    const next = await rig.guest({ mac: MAC, framing, uuid });
    t.equal(next.address, address);
    const again = await next.connect(HOST, from.port);
    again.end('1000\n');
    t.equal((await readAll(again)).length, 1000);
  });
}

t.test('several VMs at once, broadcast flooded to all others, unicast to its port only', async (t) => {
  const rig = await Rig.start(t);
  const guests: EmbeddedGuest[] = [];
  for (let i = 0; i < 6; i++) guests.push(await rig.guest({ framing: i % 2 === 0 ? 'qemu' : 'vpnkit' }));
  t.equal(new Set(guests.map((g) => g.address)).size, 6);
  for (const guest of guests) await guest.ping(GATEWAY);
  const counts = (): number[] => guests.map((g) => g.stats.framesReceived);
  const before = counts();
  const sender = guests[0]!;
  const frame = Buffer.alloc(60);
  frame.fill(0xff, 0, 6);
  frame.set(sender.stack.mac, 6);
  frame.writeUInt16BE(0x88b5, 12);
  for (let i = 0; i < 500; i++) if (!sender.sendFrame(frame)) t.fail('refused');
  await rig.until(() => counts().every((n, i) => i === 0 || n >= before[i]! + 500), 'all have heard all');
  t.strictSame(
    counts().map((n, i) => n - before[i]!),
    [0, 500, 500, 500, 500, 500],
    'and the sender nothing',
  );
  const unicast = Buffer.from(frame);
  unicast.set(guests[3]!.stack.mac, 0);
  const after = counts();
  for (let i = 0; i < 100; i++) sender.sendFrame(unicast);
  await rig.until(() => counts()[3] === after[3]! + 100, 'arrived');
  t.strictSame(
    counts().map((n, i) => n - after[i]!),
    [0, 0, 0, 100, 0, 0],
  );
  t.equal(guests[3]!.stats.notForUs, 0);
  await guests[3]!.close();
  await rig.until(() => rig.metric('vms') === 5, 'one has left');
  t.ok((await sender.ping(guests[2]!.address!)).intact, 'the others go on');
});

t.test('noise harms nobody', async (t) => {
  const rig = await Rig.start(t);
  const victim = await rig.guest();
  const noisy = await rig.guest();
  const echoed = await server(t, echo());
  const line = await victim.connect(HOST, echoed.port);
  const own = await noisy.connect(HOST, echoed.port);
  let seed = 12345;
  const random = (below: number): number => {
    seed = (Math.imul(seed, 1103515245) + 12345) & 0x7fffffff;
    return (seed >>> 8) % below;
  };
  const gatewayMac = Buffer.from('f61636bcf9c6', 'hex');
  for (let n = 0; n < 6000; n++) {
    const frame = Buffer.alloc(random(4) === 0 ? random(20) : random(1600));
    for (let i = 0; i < frame.length; i++) frame[i] = random(256);
    // Ever more of it is right, so that every layer gets its share.
    if (n % 4 > 0 && frame.length > 14) {
      frame.set(n % 8 < 4 ? gatewayMac : Buffer.alloc(6, 0xff), 0);
      frame.set(noisy.stack.mac, 6);
      frame.writeUInt16BE([0x0800, 0x0806, 0x86dd, 0x8100][random(4)]!, 12);
    }
    if (n % 4 > 1 && frame.length > 34) {
      frame.writeUInt16BE(0x0800, 12);
      frame[14] = 0x45;
      frame.writeUInt16BE(frame.length - 14, 16);
      frame.writeUInt16BE(random(3) === 0 ? random(65_536) : 0, 20);
      frame[22] = 64;
      frame[23] = [1, 6, 17, random(256)][random(4)]!;
      frame.writeUInt32BE(noisy.stack.address >>> 0, 26);
      frame.writeUInt32BE(0xc0a84101, 30);
      checksum(frame, 14, 34, 24);
    }
    while (!noisy.sendFrame(frame)) await sleep(1);
    if (n % 500 === 499) await sleep(0);
  }
  line.write('still here');
  const [chunk] = (await once(line, 'data')) as [Buffer];
  t.equal(chunk.toString(), 'still here', "another VM's connection lives");
  own.end('and mine');
  t.equal((await readAll(own)).toString(), 'and mine', "the noisy VM's own lives too");
  t.ok((await noisy.ping(GATEWAY, { bytes: 3000 })).intact);
  t.equal(rig.metric('stack_bugs_total'), 0);
  t.equal(rig.network.health().status, 'ok');
  t.ok(rig.metric('dropped_total') > 3000, 'counted, each with its reason');
  line.destroy();
});

/** RFC 1071 over [from, to) into `at`. */
function checksum(buf: Buffer, from: number, to: number, at: number): void {
  buf.writeUInt16BE(0, at);
  let sum = 0;
  for (let i = from; i < to; i += 2) sum += buf.readUInt16BE(i);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  buf.writeUInt16BE(~sum & 0xffff, at);
}

t.test('a broken stream ends its own link and no other', async (t) => {
  const rig = await Rig.start(t);
  const other = await rig.guest();
  const guest = await rig.guest();
  guest.link.writeRaw(Buffer.from([0, 0, 0, 0, 0, 0, 0, 5, 1, 2, 3, 4, 5]));
  t.ok((await guest.ping(GATEWAY)).intact, 'a length of zero and a runt are survived');
  t.equal(rig.metric('link_rx_zero_length_total'), 1);
  t.equal(rig.drops('LinkRunt'), 1);
  guest.link.writeRaw(Buffer.from([0x7f, 0xff, 0xff, 0xff, 1]));
  t.match(await guest.closed, /closed|ECONNRESET|EPIPE/);
  t.ok(rig.log.lines.some((l) => l.event === 'link.overlong'));
  t.ok((await other.ping(GATEWAY)).intact);
});

t.test('a VM that does not drain holds up nobody, and no memory grows', async (t) => {
  const rig = await Rig.start(t);
  const [deaf, other] = [await rig.guest(), await rig.guest()];
  const from = await server(t, source());
  const starved = await deaf.connect(HOST, from.port);
  starved.on('error', () => {});
  starved.resume();
  starved.write(`${256 * MIB}\n`);
  await rig.until(() => deaf.stats.bytesReceived > MIB, 'it runs');
  deaf.link.pause();
  await rig.until(() => rig.metric('tcp_host_reads_paused_total') > 0, 'the host is held');
  const fine = await other.connect(HOST, from.port);
  fine.end(`${16 * MIB}\n`);
  t.equal((await readAll(fine)).length, 16 * MIB);
  t.ok((await other.ping(GATEWAY)).intact);
  t.ok(rig.holdings().slab < 8 * MIB, `${rig.holdings().slab} bytes held`);
  const before = deaf.stats.bytesReceived;
  deaf.link.resume();
  await rig.until(() => deaf.stats.bytesReceived > before + 8 * MIB, 'it goes on when it drains again');
});

t.test('2,000 held flows are all alive', async (t) => {
  const rig = await Rig.start(t);
  const guest = await rig.guest();
  const echoed = await server(t, echo());
  const before = rig.holdings();
  const FLOWS = 2000;
  const sockets: GuestSocket[] = [];
  for (let i = 0; i < FLOWS; i += 100) {
    sockets.push(...(await Promise.all(Array.from({ length: 100 }, () => guest.connect(HOST, echoed.port)))));
  }
  t.equal(rig.holdings().flows, FLOWS);
  t.equal(rig.holdings().sockets, FLOWS);
  t.equal(rig.holdings().slab, before.slab, 'an idle flow holds no packet memory');
  let alive = 0;
  await Promise.all(
    sockets.map(async (socket, i) => {
      socket.end(`flow ${i}`);
      if ((await readAll(socket)).toString() === `flow ${i}`) alive++;
    }),
  );
  t.equal(alive, FLOWS);
  await rig.until(() => rig.holdings().flows === 0 && rig.holdings().sockets === 0, 'all have ended');
  await rig.until(() => echoed.sockets.size === 0, 'on the host too');
  t.strictSame(rig.holdings(), before);
});

t.test('thousands of short flows leave nothing behind', async (t) => {
  const rig = await Rig.start(t, ['--publish', '127.0.0.1:0:80']);
  const guest = await rig.guest();
  const echoed = await server(t, echo());
  await guest.ping(HOST);
  const before = rig.holdings();
  let done = 0;
  const worker = async (flows: number): Promise<void> => {
    for (let i = 0; i < flows; i++) {
      const socket = await guest.connect(HOST, echoed.port);
      socket.end('short');
      if ((await readAll(socket)).toString() === 'short') done++;
    }
  };
  await Promise.all(Array.from({ length: 16 }, () => worker(200)));
  t.equal(done, 3200);
  await rig.until(() => rig.holdings().flows === 0 && rig.holdings().sockets === 0, 'all have ended');
  t.strictSame(rig.holdings(), before, 'flows, timers, sockets and packet memory are back');

  guest.listen(80, (socket) => socket.pipe(socket));
  const port = Number(rig.publish[0]!.host.split(':')[1]);
  let served = 0;
  const client = async (flows: number): Promise<void> => {
    for (let i = 0; i < flows; i++) if ((await exchange(port, 'published')) === 'published') served++;
  };
  await Promise.all(Array.from({ length: 8 }, () => client(100)));
  t.equal(served, 800);
  await rig.until(() => rig.holdings().flows === 0 && rig.holdings().sockets === 0, 'all have ended');
  // The clients ended first, so the daemon's side is in TIME-WAIT, which holds a timer and nothing else.
  const { timeWaits, timers, ...rest } = rig.holdings();
  t.match(before, rest, 'flows, sockets and packet memory are back');
  t.equal(timeWaits, 800);
  t.equal(timers, 800);
  t.equal(guest.stack.tcp.flows, 0);
  t.equal(rig.metric('tcp_resets_to_guest_total') + rig.metric('tcp_resets_from_guest_total'), 0);
});

/** One exchange with a host port: sends, shuts down, reads to the end. */
function exchange(port: number, text: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket: Socket = connect({ port, host: '127.0.0.1', allowHalfOpen: true });
    let got = '';
    socket.on('data', (chunk: Buffer) => {
      got += chunk.toString();
    });
    socket.on('error', reject);
    socket.on('close', () => resolve(got));
    socket.end(text);
  });
}
