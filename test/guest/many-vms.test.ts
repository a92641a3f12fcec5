// Sixteen VMs on one network: addresses and names of their own, unicast to nobody else, isolation of single ones, and one that does not read
// its socket slows no other.

import { createHash } from 'node:crypto';
import { connect as connectSocket } from 'node:net';
import t, { type Test } from 'tap';
import { Isolation } from '../../src/daemon/isolation.ts';
import type { EmbeddedGuest } from '../../src/guest/embedded-guest.ts';
import type { VmPort } from '../../src/stack/vm-port.ts';
import { codeOf, GATEWAY, HOST, Rig, readAll } from './rig.ts';

const COUNT = 16;
const mac = (i: number): string => `52:54:00:00:01:${i.toString(16).padStart(2, '0')}`;

/** Frames that a guest got and that are for another MAC than its own or a group's. */
function strayCounter(): { of: (i: number) => number; onFrame: (i: number) => (frame: Buffer) => void } {
  const strays = new Map<number, number>();
  return {
    of: (i) => strays.get(i) ?? 0,
    onFrame: (i) => (frame) => {
      const to = frame.toString('hex', 0, 6);
      if ((frame[0]! & 1) === 0 && to !== mac(i).replaceAll(':', '')) strays.set(i, (strays.get(i) ?? 0) + 1);
    },
  };
}

async function all(rig: Rig, onFrame?: (i: number) => (frame: Buffer) => void): Promise<EmbeddedGuest[]> {
  const numbers = Array.from({ length: COUNT }, (_, i) => i);
  return Promise.all(
    numbers.map((i) =>
      rig.guest({ mac: mac(i), hostName: `vm${i}`, ...(onFrame === undefined ? {} : { onFrame: onFrame(i) }) }),
    ),
  );
}

async function fetchAll(from: EmbeddedGuest, to: string, port: number): Promise<Buffer> {
  const socket = await from.connect(to, port);
  socket.end();
  return readAll(socket);
}

t.test(
  '16 VMs: addresses are unique, DNS knows each name, all reach all, and nobody hears what is not for it',
  async (t) => {
    const rig = await Rig.start(t);
    const strays = strayCounter();
    const guests = await all(rig, strays.onFrame);
    t.equal(new Set(guests.map((g) => g.address)).size, COUNT);
    for (const [i, guest] of guests.entries()) {
      guest.listen(80, (socket) => void socket.on('error', () => {}).end(`vm${i}`));
      const asker = guests[(i + 1) % COUNT]!;
      for (const name of [`vm${i}`, `VM${i}.isthmus.internal`]) {
        const reply = await asker.resolve(name);
        t.ok(JSON.stringify(reply).includes(guest.address!), name);
      }
    }
    const { framesSwitched } = { framesSwitched: rig.metric('stack_frames_switched_total') };
    const answers = await Promise.all(
      guests.flatMap((a) => guests.map(async (b) => (a === b ? '' : String(await fetchAll(a, b.address!, 80))))),
    );
    t.same(
      answers,
      guests.flatMap((_a, i) => guests.map((_b, j) => (i === j ? '' : `vm${j}`))),
      'all 240 pairs',
    );
    t.ok(rig.metric('stack_frames_switched_total') > framesSwitched);
    t.equal(rig.metric('tcp_passive_opens_total'), 0, 'not one of these connections went through our TCP');
    for (let i = 0; i < COUNT; i++) t.equal(strays.of(i), 0, `vm${i} got no frame of another`);
    t.equal(rig.drops('EthUnknownDestination'), 0);

    for (const [i, guest] of guests.entries()) {
      const { forward } = await rig.network.forwards.add({
        listen: { kind: 'tcp', address: '127.0.0.1', port: 0 },
        target: { kind: 'guest', guest: i % 2 === 0 ? `vm${i}` : guest.mac, port: 80 },
      });
      t.equal(await read(Number(forward.bound[0]!.split(':')[1])), `vm${i}`, 'published by its name or MAC');
    }
  },
);

function read(port: number): Promise<string> {
  return new Promise((resolve, reject) => {
    let text = '';
    const socket = connectSocket(port, '127.0.0.1');
    socket.on('data', (chunk: Buffer) => {
      text += chunk.toString();
    });
    socket.on('error', reject);
    socket.on('end', () => resolve(text));
  });
}

t.test(
  'one VM that does not drain: others go on at full speed, among themselves and through the gateway',
  async (t) => {
    const rig = await Rig.start(t);
    const [a, b] = [await rig.guest(), await rig.guest()];
    const body = Buffer.alloc(24 * 2 ** 20, 'between VMs ');
    const sum = createHash('sha256').update(body).digest('hex');
    a.listen(9, (socket) => void socket.on('error', () => {}).end(body));
    const timed = async (): Promise<number> => {
      const started = performance.now();
      const got = await fetchAll(b, a.address!, 9);
      const ms = performance.now() - started;
      t.equal(createHash('sha256').update(got).digest('hex'), sum);
      return ms;
    };
    await timed();
    const free = Math.min(await timed(), await timed(), await timed());

    // A VM that says one thing and then never reads its socket: the kernel's buffer fills, then ours refuses.
    const stuck = connectSocket(rig.qemu);
    t.teardown(() => stuck.destroy());
    stuck.pause();
    stuck.write(framed(ethernet('ff:ff:ff:ff:ff:ff', mac(99), 60)));
    await rig.until(() => rig.metric('vms') === 3, 'it is there');
    const frame = ethernet(mac(99), a.mac, 1514);
    await rig.until(
      () => {
        for (let i = 0; i < 200; i++) a.sendFrame(frame);
        return rig.drops('LinkTxFull') > 100;
      },
      'what it does not take is dropped and counted',
      20_000,
    );
    const beside = Math.min(await timed(), await timed(), await timed());
    t.comment(`24 MiB between two VMs: ${free.toFixed(0)} ms alone, ${beside.toFixed(0)} ms beside one that is stuck`);
    t.ok(beside < free * 2 + 50, `not slowed: ${beside} against ${free} ms`);
    t.ok((await b.ping(GATEWAY)).intact);
  },
);

/** A frame of nobody's protocol. */
function ethernet(to: string, from: string, bytes: number): Buffer {
  const frame = Buffer.alloc(bytes);
  Buffer.from(to.replaceAll(':', ''), 'hex').copy(frame);
  Buffer.from(from.replaceAll(':', ''), 'hex').copy(frame, 6);
  frame.writeUInt16BE(0x88b5, 12);
  return frame;
}

function framed(frame: Buffer): Buffer {
  const length = Buffer.alloc(4);
  length.writeUInt32BE(frame.length);
  return Buffer.concat([length, frame]);
}

async function isolated(
  t: Test,
  args: string[],
): Promise<{ rig: Rig; a: EmbeddedGuest; b: EmbeddedGuest; c: EmbeddedGuest }> {
  const rig = await Rig.start(t, args);
  const [a, b, c] = [
    await rig.guest({ mac: mac(1) }),
    await rig.guest({ mac: mac(2) }),
    await rig.guest({ mac: mac(3) }),
  ];
  for (const guest of [a, b, c]) guest.listen(80, (socket) => void socket.on('error', () => {}).end(guest.address));
  return { rig, a, b, c };
}

const reaches = async (from: EmbeddedGuest, to: EmbeddedGuest): Promise<boolean> =>
  (await from.ping(to.address!, { timeoutMs: 300 }).then(
    () => true,
    () => false,
  )) === true;

t.test('isolation by MAC: no VM reaches it and it reaches none, the rest is open to it', async (t) => {
  const { rig, a, b, c } = await isolated(t, ['--isolate', mac(1), '--publish', `127.0.0.1:0:[${mac(1)}]:80`]);
  t.notOk(await reaches(a, b));
  t.notOk(await reaches(b, a));
  t.ok(await reaches(b, c), 'others are not concerned');
  t.ok(rig.drops('EthIsolated') > 0, 'counted');
  t.ok((await a.ping(GATEWAY)).intact);
  t.ok((await a.ping(HOST)).intact);
  t.ok((await a.resolve('host.isthmus.internal')) !== undefined);
  const port = Number(rig.publish[0]!.host.split(':')[1]);
  t.equal(await read(port), a.address, 'its published port');

  // A known MAC is of no use: frames straight to it are dropped too.
  const before = rig.drops('EthIsolated');
  b.sendFrame(ethernet(mac(1), mac(2), 60));
  await rig.until(() => rig.drops('EthIsolated') > before, 'dropped');
});

t.test('isolation while it runs: by connection and by MAC, on and off', async (t) => {
  const { rig, a, b } = await isolated(t, []);
  const { isolation } = rig.network;
  t.ok(await reaches(a, b));
  t.equal(isolation.setIsolated(mac(2), true), true);
  t.notOk(await reaches(a, b), 'from the next frame on, whatever they know of each other');
  t.equal(isolation.setIsolated(mac(2), false), true);
  t.ok(await reaches(a, b));
  const ids = Array.from({ length: 10 }, (_, i) => i + 1).filter((id) => isolation.isIsolated(id) !== undefined);
  t.equal(ids.length, 3);
  for (const id of ids) isolation.setIsolated(id, true);
  t.notOk(await reaches(a, b));
  t.ok(ids.every((id) => isolation.isIsolated(id)));
  for (const id of ids) isolation.setIsolated(id, false);
  t.ok(await reaches(a, b));
  t.equal(isolation.setIsolated(999, true), false);
  t.equal(isolation.isIsolated(999), undefined);
  isolation.setIsolated(mac(9), true);
  const late = await rig.guest({ mac: mac(9) });
  late.listen(80, () => {});
  t.notOk(await reaches(a, late), 'a MAC that comes later');
});

t.test('isolation of all, and of one link', async (t) => {
  const { a, b, c } = await isolated(t, ['--isolate', 'all']);
  t.notOk(await reaches(a, b));
  t.notOk(await reaches(b, c));
  t.ok((await c.ping(GATEWAY)).intact);

  t.equal(await codeOf(Rig.start(t, ['--isolate', 'qemu:/no/such'])), 'ERR_CONFIG_ISOLATE');
  const isolation = new Isolation([{ kind: 'link', text: 'qemu:/a' }]);
  const port = (id: number, name: string): VmPort => ({ id, info: { name }, isolated: false }) as unknown as VmPort;
  const ports = [port(1, 'qemu:/a#1'), port(2, 'qemu:/a#2'), port(3, 'qemu:/ab#1')];
  for (const p of ports) isolation.onVmConnected(p);
  t.same(
    ports.map((p) => p.isolated),
    [true, true, false],
    'every VM of that link, and of no other',
  );
  isolation.onMacLearned(ports[0]!, Uint8Array.of(2, 0, 0, 0, 0, 1), 0);
  isolation.setIsolated('02:00:00:00:00:01', false);
  t.equal(ports[0]!.isolated, false, 'a MAC goes before its link');
  isolation.setIsolated(1, true);
  t.equal(ports[0]!.isolated, true, 'and a connection before both');
  isolation.onMacLearned(ports[1]!, Uint8Array.of(2, 0, 0, 0, 0, 1), 0);
  t.equal(ports[1]!.isolated, false, 'the MAC has moved');
  isolation.onVmGone(ports[1]!);
  t.equal(isolation.isIsolated(2), undefined);
});

t.test('isolation holds against a VM that goes by way of the gateway, or speaks with other MACs', async (t) => {
  const { rig, a, b, c } = await isolated(t, ['--isolate', mac(1), '--publish', `127.0.0.1:0:[${mac(2)}]:80`]);
  t.ok(await reaches(b, c));
  const heard = { frames: 0 };
  const spy = await rig.guest({
    mac: mac(4),
    onFrame: (frame) => {
      if (frame.toString('hex', 6, 12).startsWith('5254000001')) heard.frames++;
    },
  });
  // A network of its own size: all others' addresses are the gateway's to lead to.
  a.configure({ address: '192.168.65.2', prefix: 30, router: GATEWAY });
  t.ok((await a.ping(GATEWAY)).intact, 'as it should');
  t.equal(await codeOf(a.connect(b.address!, 80)), 'EHOSTUNREACH', 'the gateway leads from VM to VM for nobody');
  const udp = a.udp();
  const served = b.udp(53);
  let asked = 0;
  served.onMessage = () => asked++;
  for (let i = 0; i < 5; i++) udp.send(Buffer.from('x'), b.address!, 53);
  t.notOk(await reaches(a, b), 'nor a ping');
  t.equal(asked, 0);
  heard.frames = 0;
  const before = rig.drops('EthIsolated');
  for (let i = 0; i < 20; i++) {
    // As somebody else, to a group, and as one that is not isolated and has been silent for a while.
    a.sendFrame(ethernet(spy.mac, mac(20 + i), 60));
    a.sendFrame(ethernet('ff:ff:ff:ff:ff:ff', mac(20 + i), 60));
    a.sendFrame(ethernet(spy.mac, c.mac, 60));
  }
  await rig.until(() => rig.drops('EthIsolated') >= before + 60, 'dropped');
  t.ok((await spy.ping(GATEWAY)).intact);
  t.equal(heard.frames, 0);
  t.ok(await reaches(b, c), 'and nobody else is the worse for it');

  const wrong = rig.drops('Ip4WrongGuest');
  a.configure({ address: b.address!, prefix: 24, router: GATEWAY });
  t.equal(
    await codeOf(a.ping(GATEWAY, { timeoutMs: 300 })),
    'ETIMEDOUT',
    'with the address of another it is not heard',
  );
  t.ok(rig.drops('Ip4WrongGuest') > wrong, 'counted');
  t.equal(await read(Number(rig.publish[0]!.host.split(':')[1])), b.address, 'whose published port still leads to it');
  a.configure({ address: '192.168.65.2', prefix: 24, router: GATEWAY });
  t.ok((await a.ping(GATEWAY)).intact, 'with its own it is');
});

t.test(
  'a VM that speaks with ever new MACs is remembered by a bounded number of them, and by those that matter',
  (t) => {
    const isolation = new Isolation([{ kind: 'mac', text: '02:00:00:00:00:00' }]);
    const port = { id: 1, info: { name: 'qemu:/a#1' }, isolated: false } as unknown as VmPort;
    isolation.onVmConnected(port);
    const bytes = (n: number): Uint8Array => Uint8Array.of(2, 0, n >>> 24, n >>> 16, n >>> 8, n);
    for (let n = 0; n < 5000; n++) isolation.onMacLearned(port, bytes(n), 0);
    t.equal(port.isolated, true, 'the one that a rule names is not forgotten');
    t.ok(isolation.macsOf(1) <= 1024, `${isolation.macsOf(1)} MACs`);
    t.equal(isolation.macsOf(2), 0);
    isolation.setIsolated('02:00:00:00:00:00', false);
    t.equal(port.isolated, false);
    isolation.setIsolated('02:00:00:00:13:87', true);
    t.equal(port.isolated, true, 'nor the last');
    t.end();
  },
);
