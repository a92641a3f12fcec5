import { createHash } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import net from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { adoptSocket, type OnRead } from '../../src/host/adopt-socket.ts';

/** A connected pair; the accepted end is paused. `faked`: as if the handle could not be had. */
async function pair(
  t: Test,
  at: 'unix' | 'tcp',
  faked: boolean,
): Promise<{ client: net.Socket; accepted: net.Socket }> {
  const server = net.createServer({ pauseOnConnect: true, allowHalfOpen: true });
  if (at === 'unix') {
    const dir = mkdtempSync(join(tmpdir(), 'isthmus-adopt-'));
    t.teardown(() => rmSync(dir, { recursive: true, force: true }));
    await new Promise<void>((resolve) => server.listen(join(dir, 's'), resolve));
  } else {
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  }
  t.teardown(() => server.close());
  const coming = new Promise<net.Socket>((resolve) => server.once('connection', resolve));
  const address = server.address();
  const client =
    typeof address === 'string'
      ? net.connect({ path: address, allowHalfOpen: true })
      : net.connect({ port: (address as net.AddressInfo).port, allowHalfOpen: true });
  t.teardown(() => client.destroy());
  const accepted = await coming;
  t.teardown(() => accepted.destroy());
  if (!faked) return { client, accepted };
  const hidden = new Proxy(accepted, {
    get(target, key) {
      if (key === '_handle') return undefined;
      const value: unknown = Reflect.get(target, key, target);
      return typeof value === 'function' ? value.bind(target) : value;
    },
    set: (target, key, value) => Reflect.set(target, key, value, target),
  });
  return { client, accepted: hidden };
}

const once = (socket: net.Socket, event: string) => new Promise<void>((resolve) => socket.once(event, () => resolve()));

for (const faked of [false, true]) {
  const way = faked ? 'without a handle' : 'by its handle';
  for (const at of ['unix', 'tcp'] as const) {
    t.test(`${way}, ${at}: bytes land in our memory, in order, and both ends close by halves`, async (t) => {
      const { client, accepted } = await pair(t, at, faked);
      const mem = Buffer.alloc(100_000);
      const hash = createHash('sha256');
      let bytes = 0;
      let foreign = 0;
      const onread: OnRead = {
        buffer: () => mem.subarray(1000, 66_000),
        callback: (n, buf) => {
          if (buf.buffer !== mem.buffer) foreign++;
          hash.update(mem.subarray(1000, 1000 + n));
          bytes += n;
          return true;
        },
      };
      const socket = adoptSocket(accepted, { onread, allowHalfOpen: true });
      const sent = Buffer.alloc(3_000_000);
      for (let i = 0; i < sent.length; i++) sent[i] = (i * 7 + (i >>> 9)) & 0xff;
      client.end(sent);
      const ended = once(socket, 'end');
      socket.resume();
      await ended;
      t.equal(bytes, sent.length);
      t.equal(foreign, 0);
      t.equal(hash.digest('hex'), createHash('sha256').update(sent).digest('hex'));
      // Half-closed by them, still open for us.
      const chunks: Buffer[] = [];
      client.on('data', (chunk: Buffer) => chunks.push(chunk));
      const over = once(client, 'end');
      const closed = once(socket, 'close');
      socket.end('and back');
      await Promise.all([over, closed]);
      t.equal(Buffer.concat(chunks).toString(), 'and back');
    });
  }

  t.test(`${way}: nothing is read before resume(), false pauses, resume() goes on without a byte lost`, async (t) => {
    const { client, accepted } = await pair(t, 'unix', faked);
    const mem = Buffer.alloc(10);
    const got: string[] = [];
    let early = true;
    let wake: () => void = () => {};
    const socket = adoptSocket(accepted, {
      allowHalfOpen: true,
      onread: {
        buffer: () => mem,
        callback: (n) => {
          if (early) got.push('early');
          got.push(mem.toString('latin1', 0, n));
          wake();
          return false;
        },
      },
    });
    client.end('abcdefghijklmnopqrstuvwxyz');
    let ended = false;
    socket.on('end', () => {
      ended = true;
      wake();
    });
    await once(client, 'finish');
    await new Promise((resolve) => setImmediate(resolve));
    early = false;
    for (let i = 1; i <= 3; i++) {
      const next = new Promise<void>((resolve) => {
        wake = resolve;
      });
      socket.resume();
      await next;
      // Paused: nothing comes by itself.
      await new Promise((resolve) => setImmediate(resolve));
      t.equal(got.length, i);
      t.equal(ended && i < 3, false, 'the end does not overtake bytes');
    }
    const end = new Promise<void>((resolve) => {
      wake = resolve;
    });
    socket.resume();
    if (!ended) await end;
    t.same(got, ['abcdefghij', 'klmnopqrst', 'uvwxyz']);
    t.ok(ended);
    socket.destroy();
  });

  t.test(`${way}: destroying inside a callback ends it`, async (t) => {
    const { client, accepted } = await pair(t, 'unix', faked);
    let calls = 0;
    const socket: net.Socket = adoptSocket(accepted, {
      allowHalfOpen: false,
      onread: {
        buffer: () => Buffer.alloc(4),
        callback: () => {
          calls++;
          socket.destroy();
          return true;
        },
      },
    });
    const closed = once(socket, 'close');
    client.on('error', () => {});
    client.write('0123456789');
    socket.resume();
    await closed;
    t.equal(calls, 1);
  });
}

t.test('the server does not wait for adopted sockets', async (t) => {
  const { client, accepted } = await pair(t, 'unix', false);
  const server = (accepted as unknown as { server: net.Server }).server;
  const socket = adoptSocket(accepted, {
    allowHalfOpen: true,
    onread: { buffer: () => Buffer.alloc(10), callback: () => true },
  });
  await new Promise<void>((resolve) => server.close(() => resolve()));
  t.notOk(socket.destroyed);
  const ended = once(client, 'end');
  client.resume();
  socket.end();
  await ended;
});
