// A transfer through all of it, in one process: the daemon's network (link, stack, forwarder, sockets of the host) in this thread, an
// embedded guest and the program that it talks to in another. The CPU time is that of this thread alone; the other one is slower than a VM's
// kernel and caps the rate, so compare revisions by s/GB. `bench:peers` has a real guest.
//
//   npm run bench -- e2e                           node .build/bench/e2e/transfer.bench.js [seconds for each case]

import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { createNetwork } from '../../src/index.ts';
import type { Arrived, Transfer } from './far-side.ts';

const seconds = Number(process.argv[2] ?? '2');
const READY_MS = 10_000;
const WARM_MS = 500;

/** CPU time of this thread so far, in seconds; where the system does not tell, that of the process. */
function cpuSeconds(): number {
  try {
    return Number(readFileSync(`/proc/self/task/${process.pid}/schedstat`, 'utf8').split(' ')[0]) / 1e9;
  } catch {
    const { user, system } = process.cpuUsage();
    return (user + system) / 1e6;
  }
}

async function look(worker: Worker): Promise<Arrived> {
  const answer = once(worker, 'message');
  worker.postMessage('');
  const [now] = (await answer) as [Arrived];
  if (now.wrong > 0) throw new Error(`${now.wrong} pieces arrived with other bytes than were sent`);
  return now;
}

async function measure(mtu: number, direction: Transfer['direction'], flows: number): Promise<string> {
  const folder = mkdtempSync(join(tmpdir(), 'isthmus-e2e-'));
  const path = join(folder, 'vm.sock');
  const network = await createNetwork({ vm: `qemu:${path}`, mtu, 'state-dir': 'none', 'log-level': 'error' });
  let worker: Worker | undefined;
  try {
    await network.start();
    const workerData: Transfer = { path, mtu, direction, flows };
    worker = new Worker(new URL('./far-side.js', import.meta.url), { workerData });
    const failed = new Promise<never>((_resolve, reject) => worker!.once('error', reject));
    const run = async (): Promise<string> => {
      const limit = performance.now() + READY_MS;
      for (;;) {
        const { bytes, flows: open } = await look(worker!);
        if (bytes > 0 && open === flows) break;
        if (performance.now() > limit) throw new Error(`after ${READY_MS} ms ${open} of ${flows} flows are open`);
        await sleep(10);
      }
      await sleep(WARM_MS);
      const from = await look(worker!);
      const cpu = cpuSeconds();
      const begun = performance.now();
      await sleep(seconds * 1000);
      const to = await look(worker!);
      const used = cpuSeconds() - cpu;
      const took = performance.now() - begun;
      const gb = (to.bytes - from.bytes) / 1e9;
      if (gb === 0) throw new Error('nothing arrived');
      const how = `${direction === 'up' ? 'guest to host' : 'host to guest'}, MTU ${mtu}, ${flows === 1 ? '1 flow' : `${flows} flows`}`;
      const rate = ((gb * 8) / took) * 1000;
      return `  ${how.padEnd(40)} ${rate.toFixed(2).padStart(6)} Gbit/s  ${(used / gb).toFixed(3)} CPU s/GB`;
    };
    return await Promise.race([run(), failed]);
  } finally {
    await worker?.terminate();
    await network.stop(1000);
    rmSync(folder, { recursive: true, force: true });
  }
}

console.log(`end to end in one process, ${seconds} s each (Node ${process.versions.node})`);
for (const mtu of [1500, 9000, 65_520]) {
  for (const direction of ['up', 'down'] as const) {
    for (const flows of [1, 4]) console.log(await measure(mtu, direction, flows));
  }
}
