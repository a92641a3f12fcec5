// Bulk transfers of a real Linux TCP behind a TAP device: right hashes, no retransmission, bounded memory, and everything back
// to its start afterwards. In the suite 256 MiB, with ISTHMUS_SOAK=1 1 GiB.

import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import type { DaemonProcess } from '../../scripts/daemon/daemon-process.ts';
import { type HostServices, startHostServices } from '../../scripts/demo/host-services.ts';
import { type Level, levelOf, RSS_LIMIT_BYTES, settledLevel, startDaemon } from '../helpers/daemon.ts';
import { sink, source, sourceHash, type TestServer } from '../helpers/host-servers.ts';
import { GUEST, HOST_ALIAS, NamespaceGuest } from '../helpers/namespace-guest.ts';
import { firstReason, needsNamespace, needsProgram, soak } from '../helpers/requirements.ts';

const BYTES = (soak ? 1024 : 256) * 2 ** 20;
const FLOWS = 64;
const FLOW_BYTES = 4 * 2 ** 20;
const TRANSFER_LIMIT_MS = soak ? 240_000 : 100_000;

const skip = firstReason(needsNamespace(), needsProgram('curl', 'sha256sum'));

interface Bench {
  readonly daemon: DaemonProcess;
  readonly guest: NamespaceGuest;
  readonly services: HostServices;
  readonly source: TestServer;
  readonly sink: TestServer;
  readonly start: Level;
}

/** Counters of the guest's TCP that tell of corruption or disorder in what it received. */
const TROUBLE = ['Tcp.InErrs', 'Tcp.InCsumErrors', 'TcpExt.TCPOFOQueue'] as const;

interface Losses {
  readonly trouble: Record<string, number>;
  /** Retransmissions of the guest. */
  readonly retransmits: number;
  /** Segments that the daemon got although it had all of them already, or which a closing flow wanted no more. */
  readonly needless: number;
  /** Losses that our own sender has seen, and all its retransmissions. */
  readonly recoveries: number;
  readonly ours: number;
}

async function losses({ guest, daemon }: Bench): Promise<Losses> {
  const counters = await guest.namespace.counters();
  const metrics = await daemon.metrics();
  const count = (name: string): number => counters.get(name) ?? 0;
  return {
    trouble: Object.fromEntries(TROUBLE.map((name) => [name, count(name)])),
    retransmits: count('Tcp.RetransSegs'),
    needless: metrics.sum('isthmus_tcp_out_of_window_total') ?? Number.NaN,
    recoveries: metrics.sum('isthmus_tcp_fast_recoveries_total') ?? Number.NaN,
    ours: metrics.sum('isthmus_tcp_retransmits_total') ?? Number.NaN,
  };
}

/**
 * Runs `transfer` and checks what every transfer has to leave behind. On a busy machine, one of the five processes that share
 * its processors may sleep for longer than a TCP waits before it asks again; such a retransmission was not needed, and is told
 * apart from a segment that was lost.
 */
async function checked(test: Test, bench: Bench, transfer: () => Promise<void>): Promise<void> {
  const before = await losses(bench);
  await transfer();
  const after = await losses(bench);
  const retransmits = after.retransmits - before.retransmits;
  test.comment(`retransmissions: ${retransmits} of the guest, ${after.ours - before.ours} of ours`);
  test.same(after.trouble, before.trouble, 'the guest saw no disorder and no bad checksum');
  test.ok(retransmits <= after.needless - before.needless, 'no segment of the guest was lost');
  test.equal(after.recoveries, before.recoveries, 'no segment of ours was lost');
  test.equal(bench.guest.namespace.deviceDrops(), 0, 'the TAP device dropped nothing');
  test.ok(bench.daemon.peakRssBytes() < RSS_LIMIT_BYTES, `memory at most ${bench.daemon.peakRssBytes() >> 20} MiB`);
}

for (const mtu of [1500, 65520]) {
  t.test(`bulk at MTU ${mtu}`, { skip }, async (test) => {
    const folder = mkdtempSync(join(tmpdir(), 'isthmus-bulk-'));
    test.teardown(() => rmSync(folder, { recursive: true, force: true }));
    const daemon = await startDaemon(test, { args: ['--mtu', String(mtu), '--strict'] });
    const guest = await NamespaceGuest.start(test, daemon, { mtu });
    const services = await startHostServices();
    test.teardown(() => services.close());
    // The first flow makes what the daemon keeps: neighbour, link buffers.
    await guest.agent.call('connect', HOST_ALIAS, 1);
    const start = await levelOf(daemon);
    const bench: Bench = { daemon, guest, services, source: await source(test), sink: await sink(test), start };

    await test.test(`curl downloads ${BYTES >> 20} MiB`, async (sub) => {
      const url = `http://${HOST_ALIAS}:${bench.services.httpPort}/download?bytes=${BYTES}`;
      await checked(sub, bench, async () => {
        const script = `curl -sS --noproxy '*' '${url}' | sha256sum`;
        const { stdout, stderr } = await guest.namespace.exec('sh', ['-c', script], TRANSFER_LIMIT_MS);
        sub.equal(stderr, '', 'curl complains of nothing');
        sub.equal(stdout.split(' ')[0], bench.services.downloadHash(BYTES), 'SHA-256');
      });
    });

    await test.test(`curl uploads ${BYTES >> 20} MiB`, async (sub) => {
      const file = join(folder, 'up');
      execFileSync('sh', ['-c', `head -c ${BYTES} /dev/urandom >'${file}'`]);
      const wanted = execFileSync('sha256sum', [file], { encoding: 'utf8' }).split(' ')[0];
      const url = `http://${HOST_ALIAS}:${bench.services.httpPort}/upload`;
      await checked(sub, bench, async () => {
        const args = ['-sS', '--noproxy', '*', '-H', 'Expect:', '-T', file, url];
        const { stdout, stderr } = await guest.namespace.exec('curl', args, TRANSFER_LIMIT_MS);
        sub.equal(stderr, '', 'curl complains of nothing');
        sub.equal(stdout.trim(), `${wanted} ${BYTES}`, 'SHA-256 and count');
      });
      rmSync(file);
    });

    await test.test(`${FLOWS} downloads at once`, async (sub) => {
      const wanted = sourceHash(FLOW_BYTES);
      await checked(sub, bench, async () => {
        const results = await guest.agent.call('download', HOST_ALIAS, bench.source.port, FLOW_BYTES, FLOWS);
        sub.equal(
          results.filter((r) => r.sha256 === wanted && r.bytes === FLOW_BYTES).length,
          FLOWS,
          'all hashes right',
        );
      });
    });

    await test.test(`${FLOWS} uploads at once`, async (sub) => {
      await checked(sub, bench, async () => {
        const results = await guest.agent.call('upload', HOST_ALIAS, bench.sink.port, FLOW_BYTES, FLOWS);
        sub.equal(results.filter((r) => r.sent === r.answer).length, FLOWS, 'all hashes right');
      });
    });

    await test.test('afterwards flows, timers, packet memory and descriptors are where they were', async (sub) => {
      const end = await settledLevel(daemon, bench.start);
      for (const key of Object.keys(bench.start) as (keyof Level)[]) {
        sub.ok(end[key] <= bench.start[key], `${key}: ${end[key]}, at the start ${bench.start[key]}`);
      }
    });

    await test.test('a transfer survives a VM that stops reading for a while', async (sub) => {
      const wanted = sourceHash(64 * 2 ** 20);
      const running = guest.agent.call('download', HOST_ALIAS, bench.source.port, 64 * 2 ** 20, 4);
      for (let i = 0; i < 3; i++) {
        guest.namespace.pause();
        await new Promise((resolve) => setTimeout(resolve, 400));
        guest.namespace.resume();
        await new Promise((resolve) => setTimeout(resolve, 50));
      }
      const results = await running;
      sub.equal(results.filter((r) => r.sha256 === wanted).length, 4, 'all hashes right');
      sub.ok(daemon.peakRssBytes() < RSS_LIMIT_BYTES, `memory at most ${daemon.peakRssBytes() >> 20} MiB`);
    });

    await test.test(`the guest is at ${GUEST} and the daemon is in good order`, async (sub) => {
      const metrics = await daemon.metrics();
      sub.equal(metrics.sum('isthmus_tcp_bugs_total'), 0, 'no contradiction in TCP');
      sub.equal(metrics.sum('isthmus_stack_bugs_total'), 0, 'no contradiction in the stack');
    });
  });
}
