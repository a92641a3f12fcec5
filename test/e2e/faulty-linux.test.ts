// A Linux guest behind links that do everything wrong: seeded faults of all kinds in both directions, frames cut at any byte. What
// arrives is right, every end is the end that was meant, and nothing stays behind.

import { mkdtempSync, rmSync } from 'node:fs';
import type { Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import t, { type Test } from 'tap';
import { levelOf, settledLevel, startDaemon } from '../helpers/daemon.ts';
import { answering, howEnded, serve, sink, source, sourceHash } from '../helpers/host-servers.ts';
import { Namespace } from '../helpers/namespace.ts';
import { GATEWAY, GuestAgent, HOST_ALIAS } from '../helpers/namespace-guest.ts';
import { needsNamespace } from '../helpers/requirements.ts';
import { SeededRandom } from '../helpers/seeded-random.ts';
import { CLEAN, type FaultProfile } from '../sim/faulty-link.ts';
import { FaultyRelay } from '../sim/faulty-relay.ts';

const SEEDS = 12;
const BYTES = 300_000;
/** Then the links are good: every run comes to its end. */
const FAULTS_MS = 8000;

t.setTimeout(240_000);

/** All kinds of faults, some of them in each seed. */
function faults(seed: number): FaultProfile {
  const r = new SeededRandom(seed * 31 + 7);
  const sometimes = (value: number): number => (r.chance(0.5) ? value : 0);
  return {
    ...CLEAN,
    delayMs: 1 + r.below(10),
    jitterMs: sometimes(5),
    loss: sometimes(0.03),
    burst: r.chance(0.4) ? { enter: 0.005, leave: 0.3, loss: 0.8 } : undefined,
    dropAcks: sometimes(0.1),
    dropFins: sometimes(1),
    dropWindowUpdates: sometimes(0.3),
    blackouts: r.chance(0.3) ? [[400, 1600]] : [],
    reorder: sometimes(0.05),
    reorderMs: 15,
    reverse: sometimes(0.05),
    duplicate: sometimes(0.05),
    duplicateMs: 20,
    lateDuplicate: sometimes(0.002),
    corrupt: sometimes(0.02),
    batchMs: sometimes(2),
    untilMs: FAULTS_MS,
  };
}

interface Station {
  readonly seed: number;
  readonly agent: GuestAgent;
}

async function station(test: Test, folder: string, vmSocket: string, seed: number): Promise<Station> {
  const path = join(folder, `vm${seed}`);
  const side = { path: vmSocket, listen: false };
  const relay = await FaultyRelay.start({ path, listen: true }, side, faults(seed), seed, true);
  test.teardown(() => relay.close());
  const namespace = Namespace.create(test);
  await namespace.plug({ socket: path, mtu: 1500 });
  namespace.address(`192.168.65.${10 + seed}/24`, GATEWAY);
  return { seed, agent: await GuestAgent.start(namespace) };
}

t.test('Linux behind faulty links', { skip: needsNamespace() }, async (test) => {
  const folder = mkdtempSync(join(tmpdir(), 'isthmus-faulty-'));
  test.teardown(() => rmSync(folder, { recursive: true, force: true }));
  const daemon = await startDaemon(test, { args: ['--mtu', '1500', '--strict'] });
  const stations = await Promise.all(
    Array.from({ length: SEEDS }, (_, seed) => station(test, folder, daemon.vmSocket, seed)),
  );
  // The neighbours of the daemon first: what it keeps for a VM is not what is looked for.
  await Promise.all(stations.map(({ agent }) => agent.call('connect', HOST_ALIAS, 1)));
  const start = await levelOf(daemon);

  const [from, to] = [await source(test), await sink(test)];
  const resets: string[] = [];
  const watch = await serve(
    (socket: Socket) => {
      socket.resume();
      socket.once('error', (error: NodeJS.ErrnoException) => resets.push(error.code ?? 'error'));
      socket.once('end', () => resets.push(howEnded(socket)));
    },
    {},
    test,
  );
  const answer = await answering(test);
  const wanted = sourceHash(BYTES);

  const run = async ({ seed, agent }: Station): Promise<void> => {
    const downs = await agent.call('download', HOST_ALIAS, from.port, BYTES, 3);
    test.same(
      downs.map((d) => d.sha256),
      [wanted, wanted, wanted],
      `seed ${seed}: down`,
    );
    const ups = await agent.call('upload', HOST_ALIAS, to.port, BYTES, 3);
    test.same(
      ups.map((u) => u.answer),
      ups.map((u) => u.sent),
      `seed ${seed}: up`,
    );
    test.equal(
      await agent.call('sendThenRead', HOST_ALIAS, answer.port, 'half'),
      'got half',
      `seed ${seed}: half-close`,
    );
  };
  const begun = performance.now();
  await Promise.all(stations.map(run));
  // A reset is sent once: over a bad link it may be lost, and the flow is then rightly kept until keepalive finds out.
  await sleep(Math.max(0, begun + FAULTS_MS - performance.now()));
  await Promise.all(stations.map(({ agent }) => agent.call('resetOrWait', HOST_ALIAS, watch.port, true)));

  const end = await settledLevel(daemon, start, 60_000);
  for (const key of Object.keys(start) as (keyof typeof start)[]) {
    test.ok(end[key] <= start[key], `${key}: ${end[key]}, at the start ${start[key]}`);
  }
  test.same(resets, Array(SEEDS).fill('ECONNRESET'), 'each reset came as one');
  const metrics = await daemon.metrics();
  test.equal(metrics.sum('isthmus_tcp_bugs_total'), 0, 'no contradiction in TCP');
  test.equal(metrics.sum('isthmus_stack_bugs_total'), 0, 'no contradiction in the stack');
  test.equal(metrics.sum('isthmus_vms'), SEEDS, 'no link ended');
});
