// Streams of the host, the same cases over both ways: the handles under `net.Socket`, and `net.Socket` itself.

import { createHash } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import net from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { ACCEPT_OPTIONS, dialPath } from '../../src/host/host-stream.ts';
import type { Arrival, HostStream, StreamOwner } from '../../src/host/stream.ts';
import { acceptHandles, dialHandle, HandleStream, streamBinding, takeHandle } from '../../src/host/stream-handle.ts';
import { acceptSockets, dialSocket, SocketStream } from '../../src/host/stream-socket.ts';

/** An owner that writes down what it hears. */
class Ear implements StreamOwner {
  mem: Buffer;
  readonly events: string[] = [];
  readonly chunks: Buffer[] = [];
  stream: HostStream | undefined;
  more: (bytes: number) => boolean = () => true;
  #waiting: { readonly event: string; readonly resolve: () => void }[] = [];

  constructor(size = 64 * 1024) {
    this.mem = Buffer.alloc(size);
  }

  get text(): string {
    return Buffer.concat(this.chunks).toString('latin1');
  }

  /** Resolves with the next such event, or at once if there was one. */
  heard(event: string): Promise<void> {
    if (this.events.some((e) => e.startsWith(event))) return Promise.resolve();
    return new Promise((resolve) => this.#waiting.push({ event, resolve }));
  }

  onConnect(): void {
    this.#tell('connect');
  }

  readBuffer(): Uint8Array {
    return this.mem;
  }

  onRead(bytes: number): boolean {
    this.chunks.push(Buffer.from(this.mem.subarray(0, bytes)));
    this.#tell('read');
    return this.more(bytes);
  }

  onEnd(): void {
    this.#tell('end');
  }

  onError(errno: string): void {
    this.#tell(`error ${errno}`);
  }

  onClose(): void {
    this.#tell('close');
  }

  #tell(event: string): void {
    this.events.push(event);
    const now = this.#waiting.filter((w) => event.startsWith(w.event));
    this.#waiting = this.#waiting.filter((w) => !now.includes(w));
    for (const w of now) w.resolve();
  }
}

const once = (socket: net.Socket, event: string) => new Promise<void>((resolve) => socket.once(event, () => resolve()));
const soon = () => new Promise<void>((resolve) => setImmediate(resolve));

if (streamBinding === undefined) t.fail('this Node.js has the stream handles in the shape we know');
const binding = streamBinding!;

interface Way {
  readonly name: string;
  adopt(socket: net.Socket, owner: StreamOwner): HostStream;
  dial(address: string, port: number, owner: StreamOwner): HostStream;
}

const WAYS: readonly Way[] = [
  {
    name: 'by its handle',
    adopt: (socket, owner) => new HandleStream(binding, takeHandle(socket)!, owner),
    dial: (address, port, owner) => dialHandle(binding, address, port, owner),
  },
  {
    name: 'without a handle',
    adopt: (socket, owner) => new SocketStream(socket, owner),
    dial: (address, port, owner) => dialSocket({ host: address, port }, owner),
  },
];

async function listen(t: Test, at: 'unix' | 'tcp'): Promise<net.Server> {
  const server = net.createServer({ pauseOnConnect: true, allowHalfOpen: true });
  if (at === 'unix') {
    const dir = mkdtempSync(join(tmpdir(), 'isthmus-stream-'));
    t.teardown(() => rmSync(dir, { recursive: true, force: true }));
    await new Promise<void>((resolve) => server.listen(join(dir, 's'), resolve));
  } else {
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  }
  t.teardown(() => server.close());
  return server;
}

/** A connected pair; the accepted end is the stream. */
async function pair(
  t: Test,
  at: 'unix' | 'tcp',
  way: Way,
  ear: Ear,
): Promise<{ client: net.Socket; stream: HostStream }> {
  const server = await listen(t, at);
  const coming = new Promise<net.Socket>((resolve) => server.once('connection', resolve));
  const address = server.address();
  const client =
    typeof address === 'string'
      ? net.connect({ path: address, allowHalfOpen: true })
      : net.connect({ port: (address as net.AddressInfo).port, host: '127.0.0.1', allowHalfOpen: true });
  t.teardown(() => client.destroy());
  const stream = way.adopt(await coming, ear);
  ear.stream = stream;
  t.teardown(() => stream.destroy());
  return { client, stream };
}

for (const way of WAYS) {
  for (const at of ['unix', 'tcp'] as const) {
    t.test(`${way.name}, ${at}: bytes land in our memory, in order, and both ends close by halves`, async (t) => {
      const ear = new Ear();
      const { client, stream } = await pair(t, at, way, ear);
      const sent = Buffer.alloc(3_000_000);
      for (let i = 0; i < sent.length; i++) sent[i] = (i * 7 + (i >>> 9)) & 0xff;
      client.end(sent);
      stream.resume();
      await ear.heard('end');
      const hash = (b: Buffer) => createHash('sha256').update(b).digest('hex');
      t.equal(hash(Buffer.concat(ear.chunks)), hash(sent));
      t.equal(stream.hasPeer, true);
      // Half-closed by them, still open for us.
      const back: Buffer[] = [];
      client.on('data', (chunk: Buffer) => back.push(chunk));
      const over = once(client, 'end');
      if (!stream.write(Buffer.from('and back'), () => {})) await soon();
      stream.end();
      await Promise.all([over, ear.heard('close')]);
      t.equal(Buffer.concat(back).toString(), 'and back');
      t.equal(stream.closed, true);
      t.equal(ear.events.filter((e) => e === 'close').length, 1);
    });
  }

  t.test(`${way.name}: recall() takes the memory back, the next read asks for other`, async (t) => {
    const ear = new Ear(1000);
    const { client, stream } = await pair(t, 'unix', way, ear);
    stream.recall();
    stream.resume();
    for (let i = 1; i <= 20; i++) {
      const old = ear.mem;
      client.write(`message ${i}`);
      while (ear.chunks.length < i) await soon();
      old.fill(0);
      ear.mem = Buffer.alloc(1000);
      stream.recall();
      client.write(`more of ${i}`);
      ear.chunks.length = i;
      while (ear.chunks.length === i) await soon();
      t.equal(ear.chunks.pop()?.toString(), `more of ${i}`);
      t.ok(
        old.every((b) => b === 0),
        'the memory that was taken back stays as it was',
      );
    }
    stream.destroy();
    stream.recall();
    await ear.heard('close');
  });

  t.test(
    `${way.name}: nothing is read before resume(), false pauses, resume() goes on without a byte lost`,
    async (t) => {
      const ear = new Ear(10);
      ear.more = () => false;
      const { client, stream } = await pair(t, 'unix', way, ear);
      client.end('abcdefghijklmnopqrstuvwxyz');
      await once(client, 'finish');
      await soon();
      t.same(ear.events, []);
      for (let i = 1; i <= 3; i++) {
        stream.resume();
        while (ear.chunks.length < i) await soon();
        await soon();
        t.equal(ear.chunks.length, i, 'paused: nothing comes by itself');
        if (i < 3) t.notOk(ear.events.includes('end'), 'the end does not overtake bytes');
      }
      stream.resume();
      await ear.heard('end');
      t.same(ear.chunks.map(String), ['abcdefghij', 'klmnopqrst', 'uvwxyz']);
    },
  );

  t.test(`${way.name}: destroying inside a callback ends it`, async (t) => {
    const ear = new Ear(4);
    const { client, stream } = await pair(t, 'unix', way, ear);
    ear.more = () => {
      stream.destroy();
      return true;
    };
    client.on('error', () => {});
    client.write('0123456789');
    stream.resume();
    await ear.heard('close');
    t.same(ear.events, ['read', 'close']);
  });

  t.test(
    `${way.name}: writes that the kernel does not take complete in order, and a gathering write is one piece`,
    async (t) => {
      const ear = new Ear();
      const { client, stream } = await pair(t, 'unix', way, ear);
      const big = Buffer.alloc(4_000_000, 'b');
      const done: string[] = [];
      t.equal(
        stream.write(Buffer.from('a'), () => done.push('a')),
        true,
        'a byte is taken at once',
      );
      t.equal(
        stream.write(big, () => done.push('big')),
        false,
      );
      t.equal(
        stream.writeAll([Buffer.from('c'), Buffer.from('dd')], () => done.push('pieces')),
        false,
      );
      t.same(done, [], 'nothing is done before it is told');
      let bytes = 0;
      let tail = '';
      const over = once(client, 'end');
      client.on('data', (chunk: Buffer) => {
        bytes += chunk.length;
        tail = (tail + chunk.toString('latin1')).slice(-3);
      });
      stream.end();
      await over;
      t.equal(bytes, 1 + big.length + 3);
      t.equal(tail, 'cdd');
      t.same(done, ['big', 'pieces'], 'what was taken at once is not told');
    },
  );

  t.test(`${way.name}: a write after the end, or after the close, is over at once and never thrown`, async (t) => {
    const ear = new Ear();
    const { stream } = await pair(t, 'tcp', way, ear);
    stream.end();
    await new Promise<void>((resolve) => t.equal(stream.write(Buffer.from('x'), resolve), false));
    stream.destroy();
    stream.destroy();
    stream.reset();
    stream.end();
    stream.resume();
    await new Promise<void>((resolve) => t.equal(stream.write(Buffer.from('x'), resolve), false));
    await ear.heard('close');
    t.same(ear.events, ['close']);
  });

  t.test(`${way.name}: a dial connects, says so once, and reads what comes with it`, async (t) => {
    const server = await listen(t, 'tcp');
    server.on('connection', (socket) => socket.end('hello'));
    const ear = new Ear();
    const stream = way.dial('127.0.0.1', (server.address() as net.AddressInfo).port, ear);
    stream.resume();
    await ear.heard('end');
    stream.end();
    await ear.heard('close');
    t.equal(ear.text, 'hello');
    t.same(
      ear.events.filter((e) => e !== 'read'),
      ['connect', 'end', 'close'],
    );
  });

  t.test(`${way.name}: a refused dial is an error with its name, told later, then a close`, async (t) => {
    const server = await listen(t, 'tcp');
    const { port } = server.address() as net.AddressInfo;
    await new Promise<void>((resolve) => server.close(() => resolve()));
    const ear = new Ear();
    way.dial('127.0.0.1', port, ear);
    t.same(ear.events, []);
    await ear.heard('close');
    t.same(ear.events, ['error ECONNREFUSED', 'close']);
  });

  t.test(
    `${way.name}: a dial that fails at once is told later, too; one that is destroyed says nothing but close`,
    async (t) => {
      // A broadcast address: the kernel refuses it in the call itself.
      const ear = new Ear();
      way.dial('255.255.255.255', 9, ear);
      t.same(ear.events, []);
      await ear.heard('close');
      t.match(ear.events, [/^error E(NETUNREACH|ACCES|HOSTUNREACH|ADDRNOTAVAIL)$/, 'close']);
      const server = await listen(t, 'tcp');
      const dropped = new Ear();
      way.dial('127.0.0.1', (server.address() as net.AddressInfo).port, dropped).destroy();
      await dropped.heard('close');
      t.same(dropped.events, ['close']);
    },
  );

  t.test(`${way.name}: reset resets, and the peer's reset is an error`, async (t) => {
    const ear = new Ear();
    const { client, stream } = await pair(t, 'tcp', way, ear);
    const failed = new Promise<NodeJS.ErrnoException>((resolve) => client.once('error', resolve));
    client.resume();
    stream.reset();
    t.equal((await failed).code, 'ECONNRESET');
    await ear.heard('close');
    const other = new Ear();
    const second = await pair(t, 'tcp', way, other);
    second.stream.resume();
    second.client.resetAndDestroy();
    await other.heard('close');
    t.same(other.events, ['error ECONNRESET', 'close']);
  });

  t.test(`${way.name}: many small writes and answers on one stream`, async (t) => {
    const ear = new Ear();
    const { client, stream } = await pair(t, 'tcp', way, ear);
    client.on('data', (chunk: Buffer) => client.write(chunk));
    stream.resume();
    let sent = '';
    for (let i = 0; i < 300; i++) {
      const text = `${i};`;
      sent += text;
      stream.write(Buffer.from(text), () => {});
      while (ear.text.length < sent.length) await soon();
    }
    t.equal(ear.text, sent);
  });
}

t.test('the server does not wait for adopted sockets', async (t) => {
  const ear = new Ear();
  const server = await listen(t, 'unix');
  const coming = new Promise<net.Socket>((resolve) => server.once('connection', resolve));
  const client = net.connect({ path: server.address() as string, allowHalfOpen: true });
  t.teardown(() => client.destroy());
  const stream = WAYS[0]!.adopt(await coming, ear);
  await new Promise<void>((resolve) => server.close(() => resolve()));
  t.notOk(stream.closed);
  const ended = once(client, 'end');
  client.resume();
  stream.end();
  await ended;
  stream.destroy();
});

/** A server whose clients come as arrivals, over the handle or by the fallback. */
async function arrivals(
  t: Test,
  at: net.ListenOptions,
  accept: (server: net.Server, onArrival: (arrival: Arrival) => void) => void,
): Promise<() => Promise<{ arrival: Arrival; client: net.Socket }>> {
  const server = net.createServer(ACCEPT_OPTIONS);
  await new Promise<void>((resolve) => server.listen(at, resolve));
  t.teardown(() => server.close());
  let came: (arrival: Arrival) => void = () => {};
  accept(server, (arrival) => came(arrival));
  return async () => {
    const next = new Promise<Arrival>((resolve) => {
      came = resolve;
    });
    const to = at.path === undefined ? { ...(server.address() as net.AddressInfo), host: '127.0.0.1' } : at;
    const client = net.connect({ ...to, allowHalfOpen: true } as net.NetConnectOpts);
    t.teardown(() => client.destroy());
    const [arrival] = await Promise.all([next, once(client, 'connect')]);
    return { arrival, client };
  };
}

function unixPath(t: Test): string {
  const dir = mkdtempSync(join(tmpdir(), 'isthmus-stream-'));
  t.teardown(() => rmSync(dir, { recursive: true, force: true }));
  return join(dir, 's');
}

for (const [name, accept] of [
  ['by its handle', (s: net.Server, f: (a: Arrival) => void) => t.ok(acceptHandles(binding, s, f))],
  ['without a handle', acceptSockets],
] as const) {
  for (const at of ['unix', 'tcp'] as const) {
    t.test(`${name}, ${at}: an arrival as a socket is paused, half-open, and knows both ends`, async (t) => {
      const where = at === 'unix' ? { path: unixPath(t) } : { port: 0, host: '127.0.0.1' };
      const arrive = await arrivals(t, where, accept);
      const { arrival, client } = await arrive();
      const ends = [arrival.remoteAddress, arrival.remotePort, arrival.localAddress, arrival.localPort];
      if (at === 'unix') t.same(ends, [undefined, undefined, undefined, undefined]);
      else t.same(ends, ['127.0.0.1', client.localPort, '127.0.0.1', client.remotePort]);
      const socket = arrival.socket();
      t.teardown(() => socket.destroy());
      client.end('to the socket');
      await once(client, 'finish');
      await soon();
      t.equal(socket.bytesRead, 0, 'nothing is read before it is asked for');
      t.equal(socket.remotePort, at === 'unix' ? undefined : client.localPort);
      let text = '';
      socket.on('data', (chunk: Buffer) => {
        text += chunk.toString();
      });
      socket.resume();
      await once(socket, 'end');
      t.equal(text, 'to the socket');
      let back = '';
      client.on('data', (chunk: Buffer) => {
        back += chunk.toString();
      });
      const over = once(client, 'end');
      socket.end('and back');
      await over;
      t.equal(back, 'and back', 'its own half was still open');
    });

    t.test(`${name}, ${at}: an arrival as a stream, and one that is turned away`, async (t) => {
      const where = at === 'unix' ? { path: unixPath(t) } : { port: 0, host: '127.0.0.1' };
      const arrive = await arrivals(t, where, accept);
      const { arrival, client } = await arrive();
      const ear = new Ear();
      const stream = arrival.adopt(ear);
      client.end('hi');
      stream.resume();
      await ear.heard('end');
      t.equal(stream.hasPeer, true);
      t.equal(ear.text, 'hi');
      stream.end();
      await ear.heard('close');
      const second = await arrive();
      const errors: (string | undefined)[] = [];
      second.client.on('error', (error: NodeJS.ErrnoException) => errors.push(error.code));
      second.client.on('end', () => second.client.end());
      const gone = once(second.client, 'close');
      second.client.resume();
      second.arrival.refuse();
      await gone;
      t.same(errors, at === 'unix' ? [] : ['ECONNRESET'], 'a reset where there is one');
    });
  }
}

t.test('dialPath: a unix socket, one that is not there, and a path that no socket can have', async (t) => {
  const server = await listen(t, 'unix');
  server.on('connection', (socket) => socket.pipe(socket));
  const ear = new Ear();
  const stream = dialPath(server.address() as string, ear);
  stream.resume();
  await ear.heard('connect');
  stream.write(Buffer.from('echo'), () => {});
  stream.end();
  await ear.heard('close');
  t.equal(ear.text, 'echo');
  for (const [path, errno] of [
    [unixPath(t), 'ENOENT'],
    [`/tmp/${'x'.repeat(200)}`, 'E'],
  ] as const) {
    const none = new Ear();
    dialPath(path, none).resume();
    t.same(none.events, [], 'told later');
    await none.heard('close');
    t.equal(none.events.length, 2);
    t.match(none.events[0], new RegExp(`^error ${errno}`));
  }
});
