// The two ways to a UDP socket against one another: each case runs over the handle and over node:dgram. Then all of it once more in a
// process whose sends are never done at once (a flag that Node has for its own tests).

import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import t, { type Test } from 'tap';
import { dgramUdp } from '../../src/host/udp-dgram.ts';
import {
  errnoName,
  PENDING,
  PortUse,
  SENT,
  type UdpHandle,
  type UdpHandleOwner,
  type UdpHandles,
} from '../../src/host/udp-handle.ts';
import { udpHandles } from '../../src/host/udp-handles.ts';
import { nativeUdp, READ_BYTES } from '../../src/host/udp-native.ts';
import { deadPort, overBoth, server } from '../forwarder/udp-rig.ts';

const SLOW = '--test-udp-no-try-send';
const slow = process.execArgv.includes(SLOW);
const LOCAL = '127.0.0.1';
const bytes = (text: string): Uint8Array => Uint8Array.from(Buffer.from(text));

/** A handle with what it told. */
class Ear implements UdpHandleOwner {
  readonly handle: UdpHandle;
  readonly heard: string[] = [];
  readonly from: string[] = [];
  readonly errors: string[] = [];
  readonly sent: string[] = [];
  onEach: () => void = () => {};
  #wake: () => void = () => {};

  constructor(t: Test, handles: UdpHandles, family: 4 | 6 = 4) {
    this.handle = handles.create(this, family);
    t.teardown(() => this.handle.close());
  }

  onDatagram(buf: Uint8Array, off: number, len: number, address: string, port: number): void {
    this.heard.push(Buffer.from(buf.subarray(off, off + len)).toString());
    this.from.push(address === '' ? '' : `${address}:${port}`);
    this.onEach();
    this.#wake();
  }

  onReceiveError(errno: string): void {
    this.errors.push(errno);
    this.#wake();
  }

  onSent(errno: string): void {
    this.sent.push(errno);
    this.#wake();
  }

  async until(done: () => boolean): Promise<void> {
    while (!done()) await new Promise<void>((resolve) => (this.#wake = resolve));
  }

  /** Sends, and waits until that is over. @returns the errno name. */
  async over(status: number): Promise<string> {
    if (status !== PENDING) return status === SENT ? '' : errnoName(status);
    const at = this.sent.length;
    await this.until(() => this.sent.length > at);
    return this.sent[at]!;
  }
}

overBoth.test('binds alone, or claims a port that others may join; the rest is an errno name', async (t, handles) => {
  const a = new Ear(t, handles);
  t.same([a.handle.port, a.handle.address], [0, '']);
  t.equal(a.handle.bind(LOCAL, 0, PortUse.Claim), '');
  t.equal(a.handle.address, LOCAL);
  const { port } = a.handle;
  t.ok(port > 0);
  t.equal(new Ear(t, handles).handle.bind(LOCAL, port, PortUse.Alone), 'EADDRINUSE');
  t.equal(new Ear(t, handles).handle.bind('0.0.0.0', port, PortUse.Claim), 'EADDRINUSE');
  const b = new Ear(t, handles);
  t.equal(b.handle.bind(LOCAL, port, PortUse.Join), '');
  t.equal(b.handle.port, port);
  const alone = new Ear(t, handles);
  t.equal(alone.handle.bind(LOCAL, 0, PortUse.Alone), '');
  t.equal(new Ear(t, handles).handle.bind(LOCAL, alone.handle.port, PortUse.Join), 'EADDRINUSE', 'nobody may join');
  t.equal(new Ear(t, handles).handle.bind('203.0.113.1', 0, PortUse.Alone), 'EADDRNOTAVAIL');
  alone.handle.close();
  alone.handle.close();
  t.same([alone.handle.port, alone.handle.address], [0, ''], 'closed');
});

overBoth.test(
  'sends and hears, with and without a fixed remote: empty, small, largest, too large',
  async (t, handles) => {
    const s = await server(t, '');
    const free = new Ear(t, handles);
    const fixed = new Ear(t, handles);
    t.equal(free.handle.bind('0.0.0.0', 0, PortUse.Alone), '');
    t.equal(fixed.handle.bind('0.0.0.0', 0, PortUse.Alone), '');
    t.equal(fixed.handle.connect(LOCAL, s.port), '');
    const largest = 'x'.repeat(65_507);
    for (const body of ['one', '', largest, 'two']) {
      t.equal(await free.over(free.handle.sendTo(bytes(body), LOCAL, s.port)), '');
      t.equal(await fixed.over(fixed.handle.send(bytes(body))), '');
      for (const e of [free, fixed]) await e.until(() => e.heard.length > 0);
      t.ok(free.heard.pop() === body && fixed.heard.pop() === body, `${body.length} bytes there and back`);
    }
    t.equal(free.from[0], `${LOCAL}:${s.port}`);
    t.equal(await fixed.over(fixed.handle.send(new Uint8Array(65_508))), 'EMSGSIZE');
    t.equal(await free.over(free.handle.sendTo(new Uint8Array(65_508), LOCAL, s.port)), 'EMSGSIZE');
    t.equal(await fixed.over(fixed.handle.send(bytes('after it'))), '');
    await fixed.until(() => fixed.heard.length > 0);
    t.same(fixed.heard, ['after it']);
  },
);

overBoth.test('IPv6, and only that', async (t, handles) => {
  const a = new Ear(t, handles, 6);
  if (a.handle.bind('::1', 0, PortUse.Claim) !== '') {
    t.pass('no IPv6 here');
    return;
  }
  const b = new Ear(t, handles, 6);
  t.equal(b.handle.bind('::', 0, PortUse.Alone), '');
  t.equal(new Ear(t, handles).handle.bind('0.0.0.0', b.handle.port, PortUse.Alone), '', 'the IPv4 port is free');
  t.equal(b.handle.connect('::1', a.handle.port), '');
  t.equal(await b.over(b.handle.send(bytes('six'))), '');
  await a.until(() => a.heard.length === 1);
  t.same([a.heard, a.from], [['six'], [`::1:${b.handle.port}`]]);
  t.equal(await a.over(a.handle.sendTo(bytes('back'), '::1', b.handle.port)), '');
  await b.until(() => b.heard.length === 1);
  const c = new Ear(t, handles, 6);
  t.equal(c.handle.bind('::', 0, PortUse.Alone), '');
  t.not(c.handle.connect('fe80::1%nosuchif', 53), '', 'a zone that is not there');
});

overBoth.test('a remote that refuses is an error of the socket, which lives on', async (t, handles) => {
  const port = await deadPort();
  const e = new Ear(t, handles);
  t.equal(e.handle.bind(LOCAL, 0, PortUse.Alone), '');
  t.equal(e.handle.connect(LOCAL, port), '');
  for (let i = 1; i <= 3; i++) {
    t.equal(await e.over(e.handle.send(bytes('x'))), '');
    await e.until(() => e.errors.length === i);
  }
  t.same(e.errors, ['ECONNREFUSED', 'ECONNREFUSED', 'ECONNREFUSED']);
});

overBoth.test('bursts come whole and in order, also where they are drained', async (t, handles) => {
  const [remote, e] = [new Ear(t, handles), new Ear(t, handles)];
  t.equal(remote.handle.bind(LOCAL, 0, PortUse.Alone), '');
  t.equal(e.handle.bind(LOCAL, 0, PortUse.Alone), '');
  t.equal(e.handle.connect(LOCAL, remote.handle.port), '');
  const wanted: string[] = [];
  for (const burst of [1, 1, 100, 1, 5, 100, 100, 2, 1, 1, 100]) {
    for (let i = 0; i < burst; i++) {
      // Some are empty, as datagrams may be.
      wanted.push(i % 9 === 4 ? '' : `${wanted.length}${'.'.repeat(i * 10)}`);
      if (remote.handle.sendTo(bytes(wanted.at(-1)!), LOCAL, e.handle.port) < PENDING) t.fail('not sent');
    }
    await e.until(() => e.heard.length === wanted.length);
  }
  t.same(e.heard, wanted);
  const drained = e.from.filter((f) => f === '').length;
  t.ok(
    e.from.every((f) => f === '' || f === `${LOCAL}:${remote.handle.port}`),
    'all are from the remote',
  );
  if (t.name.endsWith('[handle]')) t.ok(drained > 100, `${drained} drained`);
  else t.equal(drained, 0, 'dgram names every sender');
});

overBoth.test('closed from inside a burst: nothing more is told', async (t, handles) => {
  const [remote, e] = [new Ear(t, handles), new Ear(t, handles)];
  remote.handle.bind(LOCAL, 0, PortUse.Alone);
  e.handle.bind(LOCAL, 0, PortUse.Alone);
  e.handle.connect(LOCAL, remote.handle.port);
  const burst = async (n: number): Promise<void> => {
    let left = n;
    for (let i = 0; i < n; i++) {
      if (remote.handle.sendTo(bytes(`${i}`), LOCAL, e.handle.port) === SENT) left--;
    }
    const at = remote.sent.length;
    await remote.until(() => remote.sent.length - at >= left);
  };
  await burst(100);
  await e.until(() => e.heard.length === 100);
  e.onEach = () => {
    if (e.heard.length === 110) e.handle.close();
  };
  await burst(50);
  await e.until(() => e.heard.length === 110);
  for (let i = 0; i < 5; i++) await new Promise((resolve) => setImmediate(resolve));
  t.equal(e.heard.length, 110);
  t.ok(e.handle.send(bytes('x')) < PENDING, 'nor sent');
});

const native = nativeUdp({ buf: new Uint8Array(READ_BYTES + 8), off: 8 });

t.test('the handle: what is special to it', { skip: native ? false : 'this Node has no such handle' }, async (t) => {
  const handles = native!;
  const [remote, stranger, e] = [new Ear(t, handles), new Ear(t, handles), new Ear(t, handles)];
  for (const x of [remote, stranger, e]) t.equal(x.handle.bind(LOCAL, 0, PortUse.Alone), '');
  t.equal(await stranger.over(stranger.handle.sendTo(bytes('me first'), LOCAL, e.handle.port)), '');
  t.equal(e.handle.connect(LOCAL, remote.handle.port), '');
  t.equal(await remote.over(remote.handle.sendTo(bytes('mine'), LOCAL, e.handle.port)), '');
  await e.until(() => e.heard.length === 2 || (slow && e.heard.length === 1));
  t.ok(
    e.heard.every((body, i) => e.from[i] === `${LOCAL}:${(body === 'mine' ? remote : stranger).handle.port}`),
    'a datagram from before the connect is told with its sender',
  );

  // An error that a drain meets: the remote is gone when the owner answers in the middle of a burst.
  const gone = new Ear(t, handles);
  gone.handle.bind(LOCAL, 0, PortUse.Alone);
  const f = new Ear(t, handles);
  f.handle.bind(LOCAL, 0, PortUse.Alone);
  f.handle.connect(LOCAL, gone.handle.port);
  for (let round = 0; round < 4; round++) {
    for (let i = 0; i < 50; i++) gone.handle.sendTo(bytes('x'), LOCAL, f.handle.port);
    await f.until(() => f.heard.length === 50 * (round + 1));
  }
  t.ok(f.from.includes(''), 'drains');
  f.onEach = () => {
    if (f.heard.length === 205) {
      gone.handle.close();
      f.handle.send(bytes('y'));
    }
  };
  for (let i = 0; i < 50; i++) gone.handle.sendTo(bytes('x'), LOCAL, f.handle.port);
  await f.until(() => f.heard.length === 250 || (slow && f.heard.length >= 205));
  await f.until(() => f.errors.length > 0 || slow);
  if (!slow) t.same(f.errors, ['ECONNREFUSED']);

  // Sends to somewhere, more than go out at once: whether done now or later, each is told of once.
  const sink = await server(t, '');
  const g = new Ear(t, handles);
  g.handle.bind(LOCAL, 0, PortUse.Alone);
  let pending = 0;
  for (let i = 0; i < 300; i++) if (g.handle.sendTo(bytes(`${i}`), LOCAL, sink.port) === PENDING) pending++;
  t.equal(pending, slow ? 300 : 0);
  g.handle.close();
  await g.until(() => g.sent.length === pending);
  t.ok(
    g.sent.every((errno) => errno === '' || errno === 'ECANCELED'),
    'also after close',
  );
});

t.test('without the binding, or with another shape of it, node:dgram is taken', async (t) => {
  const holder = process as unknown as { binding: unknown };
  const { binding } = holder;
  const shapes: [string, unknown][] = [
    ['none', undefined],
    [
      'throws',
      () => {
        throw new Error('No such module');
      },
    ],
    ['empty', () => ({})],
    [
      'no methods',
      () => ({ UDP: class {}, SendWrap: class {}, constants: { UV_UDP_IPV6ONLY: 1, UV_UDP_REUSEADDR: 4 } }),
    ],
    ['no constants', () => ({ UDP: class {}, SendWrap: class {} })],
  ];
  for (const [what, shape] of shapes) {
    holder.binding = shape;
    try {
      t.equal(nativeUdp(), undefined, what);
      const e = new Ear(t, udpHandles());
      t.equal(e.handle.constructor, dgramUdp().create(e, 4).constructor);
    } finally {
      holder.binding = binding;
    }
  }
  const s = await server(t, 'hello ');
  const e = new Ear(t, udpHandles());
  e.handle.bind(LOCAL, 0, PortUse.Alone);
  t.equal(await e.over(e.handle.sendTo(bytes('you'), LOCAL, s.port)), '');
  await e.until(() => e.heard.length === 1);
  t.same(e.heard, ['hello you']);
});

if (!slow) {
  t.test('all of it with sends that are never done at once', async (t) => {
    const able = spawnSync(process.execPath, [SLOW, '-e', '0']).status === 0;
    if (!able) {
      t.pass('this Node has no such flag');
      return;
    }
    const run = spawnSync(process.execPath, [SLOW, fileURLToPath(import.meta.url)], {
      env: { ...process.env, TAP: '1' },
      encoding: 'utf8',
    });
    t.equal(run.status, 0, run.stdout + run.stderr);
  });
}
