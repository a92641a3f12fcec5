// A guest is told to set its clock: host-timesync-daemon behind hypervisors' vsock sockets.

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import type { VsockTarget } from '../../src/forwarder/forward-spec.ts';
import { Timesync } from '../../src/forwarder/timesync.ts';
import { FakeHypervisor } from '../helpers/hybrid-vsock.ts';

const PORT = 0xf3a4;

/** For sockets: a path of theirs has 107 bytes at most. */
function shortDir(t: Test): string {
  const dir = mkdtempSync(join(tmpdir(), 'ts-'));
  t.teardown(() => rmSync(dir, { recursive: true, force: true }));
  return dir;
}

function rig(targets: VsockTarget[], more: { retryMs?: number[]; answerMs?: number } = {}) {
  const reports: string[] = [];
  const stats = { timesyncPokes: 0, timesyncFailures: 0 };
  const timesync = new Timesync({
    targets,
    stats,
    report: (ok, target, error) =>
      reports.push(`${ok ? 'works' : 'fails'} ${target.port} ${error?.message ?? ''}`.trim()),
    retryMs: [0],
    ...more,
  });
  return { timesync, stats, reports };
}

t.test('connects, says nothing, waits for the end; both kinds of hypervisors', async (t) => {
  const dir = shortDir(t);
  const [fire, hyper] = [
    await FakeHypervisor.firecracker(t, join(dir, 'v.sock')),
    await FakeHypervisor.hyperkit(t, dir, 3),
  ];
  const heard: string[] = [];
  const daemon = (socket: import('node:net').Socket) => {
    socket.on('data', (chunk: Buffer) => heard.push(chunk.toString()));
    // The clock's next tick.
    setTimeout(() => socket.end(), 20);
  };
  fire.services.set(PORT, daemon);
  hyper.services.set(PORT, daemon);
  const { timesync, stats, reports } = rig([
    { kind: 'vsock', path: join(dir, 'v.sock'), port: PORT },
    { kind: 'vsock', path: dir, port: PORT, style: 'hyperkit' },
  ]);
  await timesync.poke();
  t.same(stats, { timesyncPokes: 2, timesyncFailures: 0 });
  t.same(fire.said, [`CONNECT ${PORT}`]);
  t.same(hyper.said, ['00000003.0000f3a4']);
  t.same(heard, []);
  t.same(reports, []);
});

t.test('nobody there: tried again, told once, and told when it works again', async (t) => {
  const dir = shortDir(t);
  const path = join(dir, 'v.sock');
  const { timesync, stats, reports } = rig([{ kind: 'vsock', path, port: PORT }], { retryMs: [0, 1, 1] });
  await timesync.poke();
  t.same(stats, { timesyncPokes: 0, timesyncFailures: 3 });
  t.match(reports, [/^fails 62372 .*ENOENT/]);
  await timesync.poke();
  t.equal(reports.length, 1);
  const hypervisor = await FakeHypervisor.firecracker(t, path);
  await timesync.poke();
  t.equal(stats.timesyncFailures, 9, 'the hypervisor is there, the daemon is not');
  t.equal(reports.length, 1);
  hypervisor.services.set(PORT, (socket) => socket.end());
  await timesync.poke();
  t.equal(stats.timesyncPokes, 1);
  t.match(reports[1], /^works 62372$/);
  t.equal(reports.length, 2);
});

t.test('a guest that never closes, or never stops talking, is left after its time', async (t) => {
  const dir = shortDir(t);
  const path = join(dir, 'v.sock');
  const hypervisor = await FakeHypervisor.firecracker(t, path);
  let noise: NodeJS.Timeout | undefined;
  hypervisor.services.set(1, () => {});
  hypervisor.services.set(2, (socket) => {
    noise = setInterval(() => socket.write('x'.repeat(4096)), 1);
    socket.on('close', () => clearInterval(noise));
  });
  const { timesync, stats, reports } = rig(
    [1, 2].map((port) => ({ kind: 'vsock', path, port })),
    { answerMs: 100 },
  );
  await timesync.poke();
  t.same(stats, { timesyncPokes: 0, timesyncFailures: 2 });
  t.match(reports.sort(), [/^fails 1 the guest did not close/, /^fails 2 the guest did not close/]);
  clearInterval(noise);
});

t.test('one poke at a time for each guest; the end of the daemon ends them', async (t) => {
  const dir = shortDir(t);
  const path = join(dir, 'v.sock');
  const hypervisor = await FakeHypervisor.firecracker(t, path);
  const connected = new Promise<void>((resolve) => hypervisor.services.set(PORT, () => resolve()));
  const { timesync, stats, reports } = rig([{ kind: 'vsock', path, port: PORT }], { retryMs: [0, 60_000] });
  const first = timesync.poke();
  await connected;
  await timesync.poke();
  t.equal(hypervisor.said.length, 1, 'the second found it busy');
  timesync.close();
  await first;
  t.same(stats, { timesyncPokes: 0, timesyncFailures: 0 });
  t.same(reports, []);
  await timesync.poke();
  t.equal(hypervisor.said.length, 1);
});
