// TCP end to end: an embedded guest, the daemon's network in this process, real servers on the host's loopback.

import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import t, { type Test } from 'tap';
import type { EmbeddedGuest } from '../../src/guest/embedded-guest.ts';
import type { GuestSocket } from '../../src/guest/guest-socket.ts';
import {
  closedPort,
  echo,
  howEnded,
  serve,
  sink,
  source,
  sourceHash,
  type TestServer,
} from '../helpers/host-servers.ts';
import { codeOf, HOST, Rig, readAll } from './rig.ts';

const MIB = 1024 * 1024;

async function server(t: Test, starting: Promise<TestServer>): Promise<TestServer> {
  const server = await starting;
  t.teardown(() => server.close());
  return server;
}

/** Fetches `bytes` and hashes them. */
async function download(guest: EmbeddedGuest, port: number, bytes: number): Promise<{ bytes: number; sha256: string }> {
  const socket = await guest.connect(HOST, port);
  socket.write(`${bytes}\n`);
  const hash = createHash('sha256');
  let got = 0;
  for await (const chunk of socket.iterator({ destroyOnReturn: false })) {
    hash.update(chunk as Buffer);
    got += (chunk as Buffer).length;
  }
  socket.end();
  return { bytes: got, sha256: hash.digest('hex') };
}

/** Sends `bytes`, then FIN. @returns what the far side says it got, and what was sent. */
async function upload(guest: EmbeddedGuest, port: number, bytes: number): Promise<{ said: string; sent: string }> {
  const socket = await guest.connect(HOST, port);
  const hash = createHash('sha256');
  const piece = Buffer.alloc(100_003);
  for (let left = bytes, n = 0; left > 0; n++) {
    piece.fill(n & 255).writeUInt32BE(n);
    const chunk = Buffer.from(piece.subarray(0, Math.min(left, piece.length)));
    hash.update(chunk);
    left -= chunk.length;
    if (!socket.write(chunk)) await once(socket, 'drain');
  }
  socket.end();
  return { said: (await readAll(socket)).toString(), sent: `${bytes} ${hash.digest('hex')}\n` };
}

for (const mtu of [1500, 65520]) {
  t.test(`tens of megabytes each way arrive whole, MTU ${mtu}`, async (t) => {
    const rig = await Rig.start(t);
    const guest = await rig.guest({ mtu });
    const [from, to] = [await server(t, source()), await server(t, sink())];
    const before = rig.holdings();
    const bytes = (mtu === 1500 ? 24 : 64) * MIB + 7;
    const [long, short] = [sourceHash(bytes), sourceHash(8 * MIB)];
    t.strictSame(await download(guest, from.port, bytes), { bytes, sha256: long });
    const { said, sent } = await upload(guest, to.port, bytes);
    t.equal(said, sent);
    const both = await Promise.all([
      download(guest, from.port, 8 * MIB),
      download(guest, from.port, 8 * MIB),
      upload(guest, to.port, 8 * MIB).then(({ said, sent }) => said === sent),
      upload(guest, to.port, 8 * MIB).then(({ said, sent }) => said === sent),
    ]);
    const got = { bytes: 8 * MIB, sha256: short };
    t.strictSame(both, [got, got, true, true], 'four flows at once');
    // Tail probes and time-outs may come of a machine that had no time for this process; holes may not.
    t.equal(rig.metric('tcp_fast_recoveries_total') + guest.stats.tcp.fastRecoveries, 0, 'nothing was lost');
    t.equal(rig.metric('tcp_out_of_order_total') + guest.stats.tcp.outOfOrder, 0);
    t.equal(rig.metric('tcp_bugs_total'), 0);
    await rig.until(() => rig.metric('tcp_flows') === 0, 'flows have ended');
    t.equal(rig.holdings().slab, before.slab, 'packet memory is back');
    t.ok(rig.metric('slab_peak_bytes') < 24 * MIB, 'bounded memory');
  });
}

t.test('half-close both ways', async (t) => {
  const rig = await Rig.start(t);
  const guest = await rig.guest();
  const answerAtEnd = await server(
    t,
    serve(
      (socket) => {
        let text = '';
        socket.on('data', (chunk: Buffer) => {
          text += chunk.toString();
        });
        socket.on('end', () => socket.end(`you said ${text}`));
      },
      { allowHalfOpen: true },
    ),
  );
  const first = await guest.connect(HOST, answerAtEnd.port);
  first.end('hello');
  t.equal((await readAll(first)).toString(), 'you said hello', "the guest's FIN first");

  let heard = '';
  const hostEndsFirst = await server(
    t,
    serve(
      (socket) => {
        socket.end('bye');
        socket.on('data', (chunk: Buffer) => {
          heard += chunk.toString();
        });
      },
      { allowHalfOpen: true },
    ),
  );
  const second = await guest.connect(HOST, hostEndsFirst.port);
  t.equal((await readAll(second)).toString(), 'bye', "the host's FIN first");
  second.write('still ');
  second.end('talking');
  await rig.until(() => heard === 'still talking', 'the host hears the rest');
  await rig.until(() => rig.metric('tcp_flows') === 0 && hostEndsFirst.sockets.size === 0, 'all has ended');
  t.equal(rig.metric('tcp_resets_to_guest_total') + rig.metric('tcp_resets_from_guest_total'), 0, 'no RST anywhere');
});

t.test('a refused port is refused at once', async (t) => {
  const rig = await Rig.start(t);
  const guest = await rig.guest();
  await guest.ping(HOST);
  const port = await closedPort();
  const start = performance.now();
  t.equal(await codeOf(guest.connect(HOST, port)), 'ECONNREFUSED');
  t.ok(performance.now() - start < 50, 'within 50 ms');
  t.equal(await codeOf(guest.connect('192.168.65.1', 81)), 'ECONNREFUSED', "a gateway's port without service");
  t.strictSame({ ...rig.holdings(), slab: 0 }, { ...NOTHING, vms: 1 });
});

const NOTHING = { flows: 0, opening: 0, sockets: 0, udpFlows: 0, timers: 0, timeWaits: 0, slab: 0, vms: 0 };

t.test('what cannot be reached is told so', async (t) => {
  const rig = await Rig.start(t);
  const guest = await rig.guest({ tcp: { rtoInitialMs: 50, synRetries: 1 } });
  await guest.ping(HOST);
  const start = performance.now();
  t.equal(await codeOf(guest.connect('169.254.169.254', 80)), 'EHOSTUNREACH', 'link-local: prohibited');
  t.ok(performance.now() - start < 50, 'at once');
  t.equal(await codeOf(guest.connect('224.0.0.1', 80)), 'ENETUNREACH', 'TCP to a group has no sense');
  t.equal(await codeOf(guest.connect('127.0.0.1', 80)), 'ETIMEDOUT', 'TCP-SYN-23: a martian is dropped');
  t.equal(rig.drops('TcpMartian'), 2);
});

t.test('a reset stays a reset, both ways', async (t) => {
  const rig = await Rig.start(t);
  const guest = await rig.guest();
  let atHost = '';
  const accepted: Socket[] = [];
  const waiting = await server(
    t,
    serve((socket) => {
      accepted.push(socket);
      socket.on('data', () => {});
      socket.once('error', (error: NodeJS.ErrnoException) => {
        atHost = error.code ?? '';
      });
      socket.on('end', () => {
        atHost = howEnded(socket);
      });
    }),
  );
  const first = await guest.connect(HOST, waiting.port);
  first.write('x');
  await rig.until(() => accepted.length === 1, 'accepted');
  first.resetAndDestroy();
  await rig.until(() => atHost !== '', 'the host hears');
  t.equal(atHost, 'ECONNRESET', 'guest to host');

  const second = await guest.connect(HOST, waiting.port);
  second.write('x');
  await rig.until(() => accepted.length === 2, 'accepted');
  const failed = codeOf(readAll(second));
  accepted[1]!.resetAndDestroy();
  t.equal(await failed, 'ECONNRESET', 'host to guest');
  t.equal(second.destroyed, true);
  await rig.until(() => rig.metric('tcp_flows') === 0 && rig.metric('tcp_host_sockets') === 0, 'nothing is left');
  t.equal(rig.metric('timers'), 0);
});

t.test('a reset that comes together with data: the data arrives, and then the reset', async (t) => {
  const rig = await Rig.start(t);
  const guest = await rig.guest();
  const saysAndResets = (socket: Socket): void => {
    socket.on('error', () => {});
    socket.write('all that there is', () => socket.resetAndDestroy());
  };
  for (const guestEndsFirst of [false, true]) {
    const peer = serve(
      (socket) => {
        socket.once(guestEndsFirst ? 'end' : 'data', () => saysAndResets(socket));
        socket.resume();
      },
      { allowHalfOpen: true },
    );
    const { port } = await server(t, peer);
    for (let i = 0; i < 5; i++) {
      const socket = await guest.connect(HOST, port);
      let text = '';
      socket.on('data', (chunk: Buffer) => {
        text += chunk.toString();
      });
      const how = new Promise<string>((resolve) => {
        socket.once('error', (error: NodeJS.ErrnoException) => resolve(error.code ?? ''));
        socket.once('end', () => resolve('end'));
      });
      socket.write('x');
      if (guestEndsFirst) socket.end();
      const name = `${guestEndsFirst ? "after the guest's FIN" : 'both directions open'}, ${i}`;
      t.equal(await how, 'ECONNRESET', name);
      t.equal(text, 'all that there is', name);
    }
  }
  await rig.until(() => rig.metric('tcp_flows') === 0 && rig.metric('tcp_host_sockets') === 0, 'nothing is left');
});

t.test('back-pressure is the window: a reader that stops holds the sender, memory stays bounded', async (t) => {
  const rig = await Rig.start(t);
  const guest = await rig.guest();
  const from = await server(t, source());
  const slow = await guest.connect(HOST, from.port);
  slow.write(`${32 * MIB}\n`);
  await once(slow, 'readable');
  const sent = (): number => rig.metric('tcp_host_bytes_to_guest_total');
  let last = -1;
  await rig.until(() => {
    const same = sent() === last;
    last = sent();
    return same && last > 0 && rig.metric('tcp_host_reads_paused_total') > 0;
  }, 'the sender stands still');
  t.ok(last < 12 * MIB, `${last} bytes are under way and no more`);
  t.ok(rig.holdings().slab < 8 * MIB);
  t.equal((await readAll(slow)).length, 32 * MIB, 'and goes on');
  slow.end();

  const stuck: Socket[] = [];
  const deaf = await server(
    t,
    serve((socket) => {
      socket.pause();
      stuck.push(socket);
    }),
  );
  const up = await guest.connect(HOST, deaf.port);
  let taken = 0;
  const piece = Buffer.alloc(256 * 1024, 7);
  let stalled = false;
  while (!stalled && taken < 64 * MIB) {
    taken += piece.length;
    if (!up.write(piece)) stalled = !(await drained(up));
  }
  t.ok(stalled, 'the guest is held');
  t.ok(taken < 32 * MIB);
  t.ok(rig.holdings().slab < 8 * MIB);
  let got = 0;
  stuck[0]!.on('data', (chunk: Buffer) => {
    got += chunk.length;
  });
  stuck[0]!.resume();
  up.end();
  await rig.until(() => got === taken, 'everything arrives');
  up.resume();
  await once(up, 'close');
});

/** Whether a socket drains within a moment. */
async function drained(socket: GuestSocket): Promise<boolean> {
  const moment = new AbortController();
  const timer = setTimeout(() => moment.abort(), 400);
  try {
    await once(socket, 'drain', { signal: moment.signal });
    return true;
  } catch {
    return false;
  } finally {
    clearTimeout(timer);
  }
}

t.test('flows that fall quiet after a large download give their rings back, and read on', async (t) => {
  const rig = await Rig.start(t);
  const guest = await rig.guest();
  const hosts: Socket[] = [];
  const talker = await server(
    t,
    serve((socket) => {
      hosts.push(socket);
    }),
  );
  const before = rig.holdings().slab;
  const flows = await Promise.all(Array.from({ length: 8 }, () => guest.connect(HOST, talker.port)));
  await rig.until(() => hosts.length === flows.length, 'all are connected');
  const got = flows.map(() => createHash('sha256'));
  const bytes = flows.map(() => 0);
  for (const [i, flow] of flows.entries()) {
    flow.on('data', (chunk: Buffer) => {
      got[i]!.update(chunk);
      bytes[i]! += chunk.length;
    });
  }
  const sent = hosts.map(() => createHash('sha256'));
  const rounds = [6 * MIB, 1, 6 * MIB, 300, 6 * MIB];
  let total = 0;
  for (const [round, length] of rounds.entries()) {
    total += length;
    const piece = Buffer.alloc(length, round + 1);
    for (const [i, host] of hosts.entries()) {
      host.write(piece);
      sent[i]!.update(piece);
    }
    await rig.until(() => bytes.every((n) => n === total), `round ${round} has arrived`, 20_000);
    // Nothing says anything now, and nothing is closed.
    await rig.until(() => rig.holdings().slab === before, 'packet memory is back', 10_000);
  }
  t.strictSame(got.map((h) => h.digest('hex')).sort(), sent.map((h) => h.digest('hex')).sort());
  for (const flow of flows) flow.destroy();
});

t.test('a published TCP port', async (t) => {
  const rig = await Rig.start(t, ['--publish', '127.0.0.1:0:80', '--publish', 'tcp:127.0.0.1:0:192.168.65.50:81']);
  const [any, fixed] = rig.publish.map((p) => Number(p.host.split(':')[1]));
  const nobody = connect(any!, '127.0.0.1');
  const [refused] = (await once(nobody, 'error')) as [NodeJS.ErrnoException];
  t.equal(refused.code, 'ECONNRESET', 'no VM: reset');

  const guest = await rig.guest();
  guest.listen(80, (socket) => {
    t.equal(socket.remoteAddress, HOST, "the host's loopback is the host alias");
    socket.pipe(socket);
  });
  t.throws(() => guest.listen(80, () => {}), { code: 'EADDRINUSE' });
  const client = connect(any!, '127.0.0.1');
  const hash = createHash('sha256');
  let got = 0;
  client.on('data', (chunk: Buffer) => {
    hash.update(chunk);
    got += chunk.length;
  });
  const body = Buffer.alloc(8 * MIB + 3, 'published ');
  client.end(body);
  await once(client, 'end');
  t.equal(got, body.length);
  t.equal(hash.digest('hex'), createHash('sha256').update(body).digest('hex'));

  const silent = connect(fixed!, '127.0.0.1');
  guest.configure({ address: '192.168.65.50', prefix: 24, router: '192.168.65.1' });
  const [error] = (await once(silent, 'error')) as [NodeJS.ErrnoException];
  t.equal(error.code, 'ECONNRESET', 'nobody listens in the guest: RST');

  guest.listen(81, (socket) => {
    socket.on('error', () => {});
    socket.once('data', () => socket.resetAndDestroy());
  });
  const cut = connect(fixed!, '127.0.0.1');
  cut.write('x');
  const [reset] = (await once(cut, 'error')) as [NodeJS.ErrnoException];
  t.equal(reset.code, 'ECONNRESET', "the guest's RST reaches the client as RST");
  await rig.until(() => rig.metric('tcp_flows') === 0 && rig.metric('tcp_host_sockets') === 0, 'nothing is left');
});

t.test('TCP between VMs goes through the switch', async (t) => {
  const rig = await Rig.start(t);
  const [a, b] = [await rig.guest(), await rig.guest({ mtu: 1500 })];
  b.listen(7, (socket) => socket.pipe(socket));
  const socket = await a.connect(b.address!, 7);
  const body = Buffer.alloc(2 * MIB, 'between VMs ');
  socket.end(body);
  t.ok((await readAll(socket)).equals(body));
  t.equal(rig.metric('tcp_passive_opens_total'), 0, 'the daemon saw frames, not connections');
  t.equal(await codeOf(a.connect(b.address!, 8)), 'ECONNREFUSED');
  const echoed = await server(t, echo());
  const out = await b.connect(HOST, echoed.port);
  out.end('both at once');
  t.equal((await readAll(out)).toString(), 'both at once');
});
