// The control API while a bulk transfer of a real Linux guest saturates the daemon: answers come within 20 ms, 99 of 100 of them. The
// asker is a thread of its own, so that what it measures is the daemon and not this process.

import { Worker } from 'node:worker_threads';
import t from 'tap';
import { startDaemon } from '../helpers/daemon.ts';
import { source, sourceHash } from '../helpers/host-servers.ts';
import { GUEST, HOST_ALIAS, NamespaceGuest } from '../helpers/namespace-guest.ts';
import { needsNamespace } from '../helpers/requirements.ts';

const BYTES = 512 * 2 ** 20;
const P99_MS = 20;

/** Asks again and again, 5 ms apart, until told to end; then posts the times in milliseconds. */
const ASKER = `
const { request, Agent } = require('node:http');
const { parentPort, workerData } = require('node:worker_threads');
const agent = new Agent({ keepAlive: true, maxSockets: 1 });
const times = [];
let running = true;
parentPort.once('message', () => { running = false; });
const ask = (path) => new Promise((resolve, reject) => {
  const begun = performance.now();
  const req = request({ socketPath: workerData, path, agent }, (res) => {
    res.resume();
    res.on('end', () => { times.push(performance.now() - begun); resolve(); });
  });
  req.on('error', reject);
  req.end();
});
(async () => {
  const paths = ['/v1/forwards', '/v1/vms', '/v1/flows?limit=100', '/healthz'];
  for (let i = 0; running; i++) {
    await ask(paths[i % paths.length]);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  parentPort.postMessage(times);
})();
`;

t.test('control API: p99 under 20 ms beside a bulk transfer', { skip: needsNamespace() }, async (test) => {
  const daemon = await startDaemon(test);
  const guest = await NamespaceGuest.start(test, daemon, { mtu: 65_520, address: GUEST });
  const server = await source(test);
  await daemon.get('/v1/vms');
  // The machine may be busy with something else than us: the best of three.
  let p99 = Number.POSITIVE_INFINITY;
  for (let attempt = 0; attempt < 3 && p99 >= P99_MS; attempt++) {
    const worker = new Worker(ASKER, { eval: true, workerData: daemon.controlSocket });
    const [result] = await guest.agent.call('download', HOST_ALIAS, server.port, BYTES, 1);
    test.equal(result?.sha256, sourceHash(BYTES));
    const times = await new Promise<number[]>((resolve, reject) => {
      worker.once('message', resolve);
      worker.once('error', reject);
      worker.postMessage('end');
    });
    await worker.terminate();
    times.sort((a, b) => a - b);
    p99 = times[Math.floor(times.length * 0.99)] ?? Number.POSITIVE_INFINITY;
    const median = times[times.length >> 1] ?? 0;
    test.comment(`${times.length} answers: median ${median.toFixed(1)} ms, p99 ${p99.toFixed(1)} ms`);
    test.ok(times.length > 20, `${times.length} answers came meanwhile`);
  }
  test.ok(p99 < P99_MS, `p99 ${p99.toFixed(1)} ms`);
});
