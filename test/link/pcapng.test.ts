import { execFileSync, spawnSync } from 'node:child_process';
import { constants, mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { HostTimers } from '../../src/host/host-clock.ts';
import { OperatorError } from '../../src/host/operator-error.ts';
import { CaptureHost } from '../../src/link/capture.ts';
import { CaptureFile, type CaptureOptions } from '../../src/link/capture-file.ts';
import { LinkListener } from '../../src/link/listener.ts';
import { Direction, packetBlockBytes, writePacket } from '../../src/link/pcapng.ts';
import { framed, makeWorld, until, Vm } from './fake-host.ts';

const tshark = spawnSync('tshark', ['--version']).status === 0;
const skip = tshark ? false : 'tshark is not installed';

function scratch(t: Test): string {
  const dir = mkdtempSync(join(tmpdir(), 'isthmus-pcap-'));
  t.teardown(() => rmSync(dir, { recursive: true, force: true }));
  return dir;
}

/** Lines of fields that tshark reads from a file; its complaints fail the test. */
function read(path: string, fields: string[], filter = ''): string[][] {
  const args = ['-r', path, '-T', 'fields', ...fields.flatMap((f) => ['-e', f])];
  if (filter !== '') args.push('-Y', filter);
  const out = execFileSync('tshark', args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] });
  return out
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => line.split('\t'));
}

/** An ARP request, which tshark knows, from a MAC that tells who sent it. */
function arp(sender: number, target: number): Buffer {
  const out = Buffer.alloc(42);
  out.fill(0xff, 0, 6);
  Buffer.from([2, 0, 0, 0, 0, sender, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, sender, 192, 168, 65, sender]).copy(
    out,
    6,
  );
  Buffer.from([192, 168, 65, target]).copy(out, 38);
  return out;
}

const quiet = { info: () => {}, warn: () => {} };

function openFile(
  path: string,
  options: Partial<CaptureOptions> = {},
  now = () => performance.now(),
): Promise<CaptureFile> {
  return CaptureFile.open({ path, ...options }, { now }, new HostTimers(), quiet);
}

t.test('every frame of every VM, both ways, read back by tshark', { skip }, async (t) => {
  const dir = scratch(t);
  const path = join(dir, 'all.pcapng');
  const world = makeWorld();
  world.host.echo = true;
  const file = await openFile(path);
  t.equal(statSync(path).mode & 0o777, 0o600, 'it holds all that guests say');
  const socket = join(dir, 'vm');
  const url = { text: `qemu:${socket}`, format: 'qemu' as const, place: { kind: 'path' as const, path: socket } };
  const listener = new LinkListener(
    { url, mtu: 65_520 },
    { ...world, host: new CaptureHost(world.host, file, world.memory.mem) },
  );
  await listener.listen();
  const started = Date.now() / 1000;
  const vms = [await Vm.connect(socket), await Vm.connect(socket)];
  for (let i = 0; i < 25; i++) {
    for (const [n, vm] of vms.entries()) vm.socket.write(framed('qemu', arp(n + 10, i + 1)));
  }
  await until('the echoes', () => vms.every((vm) => vm.frames('qemu').length === 25));
  for (const vm of vms) vm.socket.destroy();
  await until('both gone', () => listener.links.size === 0);
  await listener.close();
  await file.close();
  t.equal(file.frames, 100);
  t.equal(file.dropped, 0);

  const rows = read(path, [
    'frame.interface_name',
    'frame.packet_flags_direction',
    'eth.src',
    'arp.dst.proto_ipv4',
    'frame.time_epoch',
  ]);
  t.equal(rows.length, 100);
  for (const [n, mac] of [
    [1, '02:00:00:00:00:0a'],
    [2, '02:00:00:00:00:0b'],
  ] as const) {
    const own = rows.filter((r) => r[0] === `qemu:${socket}#${n}`);
    t.equal(own.length, 50);
    t.ok(own.every((r) => r[2] === mac));
    const inbound = own.filter((r) => Number(r[1]) === Direction.Inbound);
    const outbound = own.filter((r) => Number(r[1]) === Direction.Outbound);
    t.same(
      inbound.map((r) => r[3]),
      Array.from({ length: 25 }, (_, i) => `192.168.65.${i + 1}`),
    );
    t.equal(outbound.length, 25);
  }
  const times = rows.map((r) => Number(r[4]));
  t.ok(
    times.every((time) => time > started - 5 && time < Date.now() / 1000 + 5),
    'wall-clock time',
  );
  t.equal(read(path, ['frame.number'], '_ws.malformed').length, 0);
});

t.test('frames of all sizes and lengths modulo 4; a snap length cuts them', { skip }, async (t) => {
  const dir = scratch(t);
  for (const snapBytes of [262_144, 96]) {
    const path = join(dir, `${snapBytes}.pcapng`);
    const file = await openFile(path, { snapBytes });
    const from = file.addInterface('one');
    const sizes = [14, 15, 16, 17, 60, 1514, 65_553];
    for (const size of sizes)
      file.add(from, Direction.Inbound, Buffer.concat([arp(1, 2), Buffer.alloc(65_600)]), 0, size);
    await file.close();
    const rows = read(path, ['frame.len', 'frame.cap_len']);
    t.same(
      rows.map((r) => [Number(r[0]), Number(r[1])]),
      sizes.map((size) => [size, Math.min(size, snapBytes)]),
    );
  }
});

t.test('the growing file is readable before it is closed', { skip }, async (t) => {
  const path = join(scratch(t), 'growing.pcapng');
  const file = await openFile(path);
  file.add(file.addInterface('one'), Direction.Outbound, arp(1, 2), 0, 42);
  await until('the frame is on disk', () => file.bytesWritten > packetBlockBytes(42) + 60);
  t.equal(read(path, ['frame.len']).length, 1);
  await file.close();
});

t.test('a regular file gets every frame, however many come in one turn, with bounded memory', { skip }, async (t) => {
  const path = join(scratch(t), 'flood.pcapng');
  const file = await openFile(path, { queueBytes: 1024 * 1024 });
  const from = file.addInterface('flood');
  const before = process.memoryUsage().arrayBuffers;
  const frame = Buffer.alloc(1514, 1);
  for (let i = 0; i < 10_000; i++) file.add(from, Direction.Inbound, frame, 0, frame.length);
  t.ok(process.memoryUsage().arrayBuffers - before <= 1024 * 1024 + 65_536);
  t.equal(file.dropped, 0);
  t.equal(file.frames, 10_000);
  file.endInterface(from);
  await file.close();
  t.equal(read(path, ['frame.len']).length, 10_000);
  // The interface statistics block: type 5, ifrecv (4) and ifdrop (5), 8 bytes each.
  const bytes = readFileSync(path);
  const option = Buffer.alloc(4);
  option.writeUInt16LE(5, 0);
  option.writeUInt16LE(8, 2);
  const at = bytes.lastIndexOf(option);
  t.equal(Number(bytes.readBigUInt64LE(at + 4)), 0);
  t.equal(Number(bytes.readBigUInt64LE(at - 8)), 10_000);
});

t.test(
  'a file that cannot be made is an operator error; one that cannot be written ends the capture only',
  async (t) => {
    const dir = scratch(t);
    const error = await openFile(join(dir, 'no', 'such')).then(
      () => undefined,
      (e: unknown) => e,
    );
    t.ok(error instanceof OperatorError);
    t.match(String(error), /pcap: .*ENOENT/);
    const full = await openFile('/dev/full');
    const from = full.addInterface('one');
    await until('the header fails', () => {
      full.add(from, Direction.Inbound, arp(1, 2), 0, 42);
      return full.dropped > 0;
    });
    await full.close();
    t.equal(full.bytesWritten, 0);
  },
);

t.test('a named pipe: nobody reads, somebody reads late, somebody never reads', async (t) => {
  const path = join(scratch(t), 'pipe');
  execFileSync('mkfifo', [path]);
  await t.rejects(openFile(path), /is a pipe that nobody reads; start the reader first/);
  const reader = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
  const file = await openFile(path);
  const from = file.addInterface('one');
  // More than a pipe holds.
  for (let i = 0; i < 100; i++) file.add(from, Direction.Inbound, Buffer.alloc(4000), 0, 4000);
  await until('the pipe is full', () => file.bytesWritten > 50_000);
  const full = file.bytesWritten;
  const buffer = Buffer.alloc(65_536);
  const { bytesRead } = await reader.read(buffer);
  t.equal(buffer.readUInt32LE(0), 0x0a0d0d0a);
  t.ok(bytesRead > 0);
  await until('it goes on', () => file.bytesWritten > full);
  const start = performance.now();
  await file.close();
  t.ok(performance.now() - start < 900, 'a reader that hangs does not hold the daemon');
  await reader.close();
});

t.test('a packet block is laid out as the format has it', (t) => {
  const buf = Buffer.alloc(128, 0xee);
  const len = writePacket(buf, 4, 7, 2 ** 32 + 5, Direction.Outbound, Buffer.from([9, 8, 7, 6, 5]), 1, 3, 100);
  t.equal(len, packetBlockBytes(3));
  const words = Array.from({ length: len / 4 }, (_, i) => buf.readUInt32LE(4 + 4 * i));
  t.same(words, [6, len, 7, 1, 5, 3, 100, 0x00060708, 0x0004_0002, 2, 0, len]);
  t.equal(buf[3], 0xee);
  t.equal(buf[4 + len], 0xee);
  t.end();
});
