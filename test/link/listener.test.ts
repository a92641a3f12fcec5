import { chmodSync, existsSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import net from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import type { Timers } from '../../src/host/host-clock.ts';
import { OperatorError } from '../../src/host/operator-error.ts';
import { BATCH_BLOCK_BYTES, keptBlockBytes } from '../../src/link/frame-writer.ts';
import { type FrameFormat, readBlockBytes } from '../../src/link/framing.ts';
import { LinkListener, type ListenerOptions } from '../../src/link/listener.ts';
import {
  ethernetCommand,
  framed,
  initMessage,
  linkUrl,
  makeWorld,
  pattern,
  preferredCommand,
  UUID_A,
  until,
  Vm,
  type World,
} from './fake-host.ts';

function scratch(t: Test): string {
  const dir = mkdtempSync(join(tmpdir(), 'isthmus-link-'));
  t.teardown(() => rmSync(dir, { recursive: true, force: true }));
  return dir;
}

async function listening(t: Test, format: FrameFormat, world: World, options: Partial<ListenerOptions> = {}) {
  const path = join(scratch(t), 'vm.sock');
  const url = linkUrl(`${format}:${path}`);
  const listener = new LinkListener({ url, mtu: format === 'qemu' ? 65_520 : 1500, ...options }, world);
  t.teardown(() => listener.close());
  await listener.listen();
  return { listener, path };
}

async function shakeHands(path: string, uuid: string): Promise<{ vm: Vm; mac: string }> {
  const vm = await Vm.connect(path);
  vm.socket.write(Buffer.concat([initMessage(), ethernetCommand(uuid)]));
  await until('the Response', () => vm.received.length >= 49 + 258);
  const mac = vm.received.subarray(49 + 5, 49 + 11).toString('hex');
  vm.received = vm.received.subarray(49 + 258);
  return { vm, mac };
}

t.test('the socket is private, and gone with the listener', async (t) => {
  const world = makeWorld();
  const { listener, path } = await listening(t, 'qemu', world);
  t.equal(statSync(path).mode & 0o777, 0o600);
  await listener.close();
  t.notOk(existsSync(path));
  t.equal(world.memory.slab.usedBytes, 0);
  await listener.close();
});

t.test('a stale socket is taken over, a live one and a file are not', async (t) => {
  const world = makeWorld();
  const { path, listener } = await listening(t, 'qemu', world);
  const second = new LinkListener({ url: listener.url, mtu: 1500 }, world);
  const error = await second.listen().then(
    () => undefined,
    (e: unknown) => e,
  );
  t.ok(error instanceof OperatorError && error.exitCode === 69, String(error));
  const file = join(scratch(t), 'file');
  writeFileSync(file, 'text');
  chmodSync(file, 0o600);
  const third = new LinkListener(
    { url: { text: `qemu:${file}`, format: 'qemu', place: { kind: 'path', path: file } }, mtu: 1500 },
    world,
  );
  await t.rejects(third.listen(), /not a socket/);
  const vm = await Vm.connect(path);
  await until('the first still serves', () => world.host.ports.length > 0);
  vm.socket.destroy();
});

t.test('three VMs at once on one listener, each with its own port and frames', async (t) => {
  const world = makeWorld();
  world.host.echo = true;
  const { listener, path } = await listening(t, 'qemu', world);
  const vms = await Promise.all([1, 2, 3].map(() => Vm.connect(path)));
  await Promise.all(
    vms.map(async (vm, i) => {
      const sent = Array.from({ length: 40 }, (_, n) => pattern(60 + n * 1600, i * 100 + n));
      for (const frame of sent) vm.socket.write(framed('qemu', frame));
      await until('the echo', () => vm.frames('qemu').length === sent.length);
      t.ok(Buffer.concat(vm.frames('qemu')).equals(Buffer.concat(sent)));
    }),
  );
  t.equal(world.host.ports.length, 3);
  t.same([...listener.links].map((l) => l.id).sort(), [1, 2, 3]);
  t.match(world.host.ports[0]?.info, { mtu: 65_520, mtuTold: false });
  t.match(world.host.ports[0]?.info.name, /^qemu:.*#1$/);
  const totals = listener.totals();
  t.equal(totals.rxFrames, 120);
  t.equal(totals.txFrames, 120);
  t.ok(world.host.ports.every((p) => p.turns > 0));
  // An echoing turn holds its batch no longer than the turn.
  const idle = 3 * (readBlockBytes(65_520) + keptBlockBytes('qemu', 65_520));
  await until('batches are back', () => world.memory.slab.usedBytes === idle);
  vms[0]?.socket.destroy();
  await until('one is gone', () => listener.links.size === 2);
  t.equal(world.host.ports[0]?.closes, 1);
  t.equal(listener.totals().rxFrames, 120, 'counters of a link outlive it');
  for (const vm of vms) vm.socket.destroy();
  await until('all memory is back', () => world.memory.slab.usedBytes === 0);
});

t.test('a VM killed in the middle of a frame; the next one on the same socket works', async (t) => {
  const world = makeWorld();
  world.host.echo = true;
  const { path } = await listening(t, 'qemu', world);
  for (let round = 0; round < 20; round++) {
    const vm = await Vm.connect(path);
    vm.socket.write(
      Buffer.concat([framed('qemu', pattern(60, round)), framed('qemu', pattern(1514, 1)).subarray(0, round * 7)]),
    );
    await until('the whole frame', () => vm.frames('qemu').length === 1);
    t.equal(world.host.ports.at(-1)?.frames.length, 1);
    vm.socket.destroy();
    await until('the port is closed', () => world.host.ports.at(-1)?.closes === 1);
  }
  await until('all memory is back', () => world.memory.slab.usedBytes === 0);
});

t.test('a VM that ends its sending side is gone', async (t) => {
  const world = makeWorld();
  const { path } = await listening(t, 'qemu', world);
  const vm = await Vm.connect(path);
  vm.socket.end(framed('qemu', pattern(60, 1)));
  await until('closed from our side too', () => vm.closed);
  t.equal(world.host.ports[0]?.frames.length, 1);
  t.equal(world.host.ports[0]?.closes, 1);
});

t.test('noise and an over-long length end that link only, with one line; zero lengths and runts do not', async (t) => {
  const world = makeWorld();
  world.host.echo = true;
  const { listener, path } = await listening(t, 'qemu', world);
  const good = await Vm.connect(path);
  good.socket.write(
    Buffer.concat([Buffer.alloc(4), framed('qemu', pattern(5, 1)), Buffer.alloc(8), framed('qemu', pattern(60, 2))]),
  );
  await until('both frames', () => good.frames('qemu').length === 2);
  t.equal(listener.totals().rxZeroLength, 3);

  const noisy = await Vm.connect(path);
  noisy.socket.write(Buffer.alloc(70_000, 0xc7));
  await until('the noisy link is closed', () => noisy.closed);
  const overlong = await Vm.connect(path);
  const head = Buffer.alloc(4);
  head.writeUInt32BE(65_554);
  overlong.socket.write(Buffer.concat([framed('qemu', pattern(60, 3)), head]));
  await until('the over-long link is closed', () => overlong.closed);
  t.equal(world.host.ports[2]?.frames.length, 1, 'frames before it are served');
  t.same(
    world.lines.filter((l) => l.level === 'warn').map((l) => [l.event, l.fields.length]),
    [
      ['link.overlong', 0xc7c7c7c7],
      ['link.overlong', 65_554],
    ],
  );
  await until('closes are told', () => listener.links.size === 1);
  t.equal(listener.totals().rxOverlong, 2);
  good.socket.write(framed('qemu', pattern(99, 4)));
  await until('the good link lives', () => good.frames('qemu').length === 3);
});

t.test('a length split at any byte, over a real socket', async (t) => {
  const world = makeWorld();
  const { path } = await listening(t, 'qemu', world);
  const vm = await Vm.connect(path);
  const sent: Buffer[] = [];
  await until('attached', () => world.host.ports.length === 1);
  const port = world.host.ports[0];
  for (let cut = 1; cut <= 5; cut++) {
    const frame = pattern(70, cut);
    const wire = framed('qemu', frame);
    const turns = port?.turns ?? 0;
    vm.socket.write(wire.subarray(0, cut));
    await until('the piece was read', () => (port?.turns ?? 0) > turns);
    vm.socket.write(wire.subarray(cut));
    sent.push(frame);
    await until('the frame', () => port?.frames.length === sent.length);
  }
  t.same(port?.frames, sent);
  vm.socket.destroy();
});

t.test(
  'a VM that never drains: memory stays bounded; when it reads on, `writable` comes and all arrives',
  async (t) => {
    const world = makeWorld();
    const { path } = await listening(t, 'qemu', world);
    const vm = await Vm.connect(path);
    vm.socket.pause();
    await until('attached', () => world.host.ports.length === 1);
    const port = world.host.ports[0];
    if (port === undefined) return;
    const { slab } = world.memory;
    const idle = slab.usedBytes;
    const samples = Array.from({ length: 64 }, (_, i) => pattern(1514, i));
    const before = process.memoryUsage().arrayBuffers;
    const sent: Buffer[] = [];
    let refused = 0;
    for (let turn = 0; turn < 400; turn++) {
      for (let i = 0; i < 50; i++) {
        const frame = samples[sent.length % samples.length];
        if (frame !== undefined && world.host.send(port, frame)) sent.push(frame);
        else refused++;
      }
      port.egress.flush();
      if (turn % 40 === 0) await new Promise((resolve) => setImmediate(resolve));
      if (slab.usedBytes > idle + 2 * BATCH_BLOCK_BYTES) t.fail(`slab holds ${slab.usedBytes}`);
    }
    t.ok(refused > 10_000, `${refused} refused of 20,000`);
    const grown = process.memoryUsage().arrayBuffers - before;
    t.ok(grown < 1_000_000, `${grown} bytes outside of the packet memory`);
    t.equal(port.writableCalls, 0);
    // Room comes back: a last frame is sent from `writable` itself.
    const last = pattern(60, 77);
    port.onWritable = () => {
      port.onWritable = undefined;
      if (world.host.send(port, last)) sent.push(last);
    };
    vm.socket.resume();
    await until('everything', () => vm.frames('qemu').length === sent.length && port.writableCalls > 0);
    t.equal(port.writableCalls, 1);
    t.ok(Buffer.concat(vm.frames('qemu')).equals(Buffer.concat(sent)));
    await until('batches are back', () => slab.usedBytes === idle);
    vm.socket.destroy();
  },
);

t.test('a VM that dies while batches are in flight gives all memory back', async (t) => {
  const world = makeWorld();
  const { path } = await listening(t, 'qemu', world);
  const vm = await Vm.connect(path);
  vm.socket.pause();
  await until('attached', () => world.host.ports.length === 1);
  const port = world.host.ports[0];
  if (port === undefined) return;
  while (world.host.send(port, pattern(60_000, 1)));
  vm.socket.destroy();
  await until('the port is closed', () => port.closes === 1);
  await until('all memory is back', () => world.memory.slab.usedBytes === 0);
  t.notOk(world.host.send(port, pattern(60, 1)), 'frames for a gone VM are refused');
  t.equal(port.writableCalls, 0);
});

t.test('the stack ends a link from inside a frame: memory stays valid until it has returned', async (t) => {
  const world = makeWorld();
  const { path } = await listening(t, 'qemu', world);
  const vm = await Vm.connect(path);
  await until('attached', () => world.host.ports.length === 1);
  const port = world.host.ports[0];
  if (port === undefined) return;
  let usedInside = 0;
  port.onFrame = () => {
    port.egress.close('operator');
    usedInside = world.memory.slab.usedBytes;
  };
  vm.socket.write(Buffer.concat([framed('qemu', pattern(60, 1)), framed('qemu', pattern(60, 2))]));
  await until('closed', () => vm.closed);
  t.equal(port.frames.length, 1, 'the second frame is not handed on');
  t.ok(usedInside > 0);
  t.equal(port.closes, 1);
  await until('all memory is back', () => world.memory.slab.usedBytes === 0);
  t.match(
    world.lines.find((l) => l.event === 'link.closed'),
    { fields: { reason: 'operator' } },
  );
});

t.test('no packet memory: the VM waits, and is served when there is some; one that waits can be ended', async (t) => {
  const world = makeWorld(1024 * 1024);
  const timers: { at: number; run: () => void }[] = [];
  const manual: Timers = {
    after: (at, run) => {
      const entry = { at, run };
      timers.push(entry);
      return () => timers.splice(timers.indexOf(entry) >>> 0, 1);
    },
  };
  const { slab } = world.memory;
  const all = slab.alloc(slab.size);
  const { listener, path } = await listening(t, 'qemu', { ...world, timers: manual });
  const vm = await Vm.connect(path);
  vm.socket.write(framed('qemu', pattern(60, 1)));
  await until('it waits', () => timers.length === 1);
  timers.shift()?.run();
  t.equal(timers.length, 1, 'still no memory: it asks again later');
  t.equal(world.lines.filter((l) => l.event === 'link.memory').length, 1, 'one line');
  slab.free(all);
  timers.shift()?.run();
  await until('the frame sent meanwhile', () => world.host.ports[0]?.frames.length === 1);
  t.equal(listener.totals().memoryWaits, 2);

  const rest = [];
  for (let off = slab.alloc(4096); off >= 0; off = slab.alloc(4096)) rest.push(off);
  const second = await Vm.connect(path);
  await until('it waits', () => timers.length === 1);
  await listener.close();
  await until('ended', () => second.closed && vm.closed);
  for (const off of rest) slab.free(off);
  t.equal(slab.usedBytes, 0);
});

t.test('VMs beyond the limit are turned away', async (t) => {
  const world = makeWorld();
  const { listener, path } = await listening(t, 'qemu', world, { maxLinks: 2 });
  const vms = [await Vm.connect(path), await Vm.connect(path)];
  await until('two', () => world.host.ports.length === 2);
  const third = await Vm.connect(path);
  await until('turned away', () => third.closed);
  t.equal(listener.refused, 1);
  vms[0]?.socket.destroy();
  await until('room again', () => listener.links.size === 1);
  const fourth = await Vm.connect(path);
  await until('served', () => world.host.ports.length === 3);
  for (const vm of [...vms, fourth]) vm.socket.destroy();
});

t.test('vpnkit: handshake, then frames both ways; the MTU is told', async (t) => {
  const world = makeWorld();
  world.host.echo = true;
  const { path } = await listening(t, 'vpnkit', world);
  const { vm, mac } = await shakeHands(path, UUID_A);
  t.equal(mac, '020000000001');
  t.match(world.host.ports[0]?.info, { mtu: 1500, mtuTold: true });
  const sent = Array.from({ length: 30 }, (_, i) => pattern(60 + 48 * i, i));
  for (const frame of sent) vm.socket.write(framed('vpnkit', frame));
  await until('the echo', () => vm.frames('vpnkit').length === sent.length);
  t.ok(Buffer.concat(vm.frames('vpnkit')).equals(Buffer.concat(sent)));
  vm.socket.destroy();
});

t.test('vpnkit: the same UUID twice, also at once, is the same VM', async (t) => {
  const world = makeWorld();
  const { path } = await listening(t, 'vpnkit', world);
  const first = await shakeHands(path, UUID_A);
  const again = await shakeHands(path, UUID_A);
  const other = await shakeHands(path, UUID_A.replace('9a', '9b'));
  t.equal(again.mac, first.mac);
  t.not(other.mac, first.mac);
  t.equal(world.host.ports.length, 3);
  first.vm.socket.destroy();
  await until('one connection less', () => world.identities.gone.length === 1);
  t.same(world.identities.gone, [UUID_A]);
  for (const { vm } of [again, other]) vm.socket.destroy();
  await until('each is given back once', () => world.identities.gone.length === 3);
});

t.test('vpnkit: what is refused is closed, told where VPNKit tells, and logged', async (t) => {
  const world = makeWorld();
  const { listener, path } = await listening(t, 'vpnkit', world);
  const unknown = ethernetCommand(UUID_A);
  unknown[0] = 6;
  const cases: [string, Buffer, number][] = [
    ['wrong version', initMessage(1), 49],
    ['unknown command', Buffer.concat([initMessage(), unknown]), 49],
    ['no UUID', Buffer.concat([initMessage(), ethernetCommand('hello')]), 49],
    ['refused address', Buffer.concat([initMessage(), preferredCommand(UUID_A, 0x01010101)]), 49 + 258],
    ['noise', Buffer.alloc(5000, 0x33), 49],
  ];
  for (const [what, bytes, answer] of cases) {
    const vm = await Vm.connect(path);
    vm.socket.write(bytes);
    await until(`${what}: closed`, () => vm.closed);
    t.equal(vm.received.length, answer, what);
  }
  t.equal(world.host.ports.length, 0, 'none reached the stack');
  t.same(world.identities.gone, [], 'what was refused is not given back');
  t.equal(world.lines.filter((l) => l.event === 'link.handshake.failed').length, cases.length);
  await until('gone', () => listener.links.size === 0);
  t.equal(listener.totals().handshakeFailures, cases.length);
  t.equal(world.memory.slab.usedBytes, 0);
});

t.test('vpnkit: a client that says nothing is closed after 10 s', async (t) => {
  const world = makeWorld();
  const due: { delayMs: number; run: () => void }[] = [];
  const manual: Timers = {
    after: (delayMs, run) => {
      due.push({ delayMs, run });
      return () => {};
    },
  };
  const { path } = await listening(t, 'vpnkit', { ...world, timers: manual });
  const vm = await Vm.connect(path);
  vm.socket.write(initMessage().subarray(0, 48));
  await until('the limit is set', () => due.length === 1);
  t.equal(due[0]?.delayMs, 10_000);
  due[0]?.run();
  await until('closed', () => vm.closed);
  await until('memory is back', () => world.memory.slab.usedBytes === 0);
});

t.test('vsock: a hypervisor forwards the guest-dialled port to uds_path_PORT in pieces of its own', async (t) => {
  const world = makeWorld();
  world.host.echo = true;
  const dir = scratch(t);
  const port = 6655;
  const path = join(dir, `v.sock_${port}`);
  const url = linkUrl(`vpnkit:${path}`);
  const listener = new LinkListener({ url, mtu: 1500 }, world);
  t.teardown(() => listener.close());
  await listener.listen();

  // The stand-in for the hypervisor: what the guest writes to its vsock leaves in odd pieces, one virtio packet each.
  const guestSide = join(dir, 'guest');
  const hypervisor = net.createServer((guest) => {
    const uds = net.connect(path);
    const pieces = [1, 3, 41, 2, 577, 4096, 7, 65_535];
    let n = 0;
    const forward = (from: net.Socket, to: net.Socket) => {
      from.on('data', (chunk: Buffer) => {
        for (let at = 0; at < chunk.length; ) {
          const size = pieces[n++ % pieces.length] ?? 1;
          to.write(chunk.subarray(at, at + size));
          at += size;
        }
      });
      from.on('close', () => to.destroy());
      from.on('error', () => to.destroy());
    };
    forward(guest, uds);
    forward(uds, guest);
  });
  await new Promise<void>((resolve) => hypervisor.listen(guestSide, resolve));
  t.teardown(() => hypervisor.close());

  const { vm, mac } = await shakeHands(guestSide, UUID_A);
  t.equal(mac, '020000000001');
  const sent = Array.from({ length: 200 }, (_, i) => pattern(14 + ((i * 97) % 1500), i));
  for (const frame of sent) vm.socket.write(framed('vpnkit', frame));
  await until('the echo', () => vm.frames('vpnkit').length === sent.length);
  t.ok(Buffer.concat(vm.frames('vpnkit')).equals(Buffer.concat(sent)));
  vm.socket.destroy();
  await until('the end passes through too', () => world.host.ports[0]?.closes === 1);
});
