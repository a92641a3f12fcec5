// How long a start takes, from exec to the VM's socket being there and to the readiness line, beside a bare `node`; and what an idle daemon
// holds. The package as it is built, in a folder of its own, in turns with the bare one. Nothing else should run on the machine.
//
//   npm run bench -- start
//
// Figures with machine and date: docs/adr/0016-start.md.

import { spawn, spawnSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdtempSync, readFileSync, rmSync, watch } from 'node:fs';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { projectRoot } from '../../scripts/project.ts';

const ROUNDS = 15;
const SETTLE_MS = 1000;
const LIMIT_MS = 10_000;

const folder = mkdtempSync(join(tmpdir(), 'isthmus-start-'));
process.on('exit', () => rmSync(folder, { recursive: true, force: true }));
const main = join(folder, 'dist/daemon/main.js');
const socket = join(folder, 'vm.sock');
const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !/^(ISTHMUS|NODE|NOTIFY)_/.test(name)));

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[values.length >> 1]!;
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  if (typeof address !== 'object' || address === null) throw new Error('no port');
  return address.port;
}

function rssMiB(pid: number): number {
  return Number(/^VmRSS:\s*(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]) / 1024;
}

/** The time until `path` is there: the kernel tells, so that nobody polls beside the one who is measured. */
function appears(path: string, name: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`${name} did not appear in ${LIMIT_MS} ms`)), LIMIT_MS);
    const watcher = watch(path, (_event, changed) => {
      if (changed !== name) return;
      clearTimeout(timer);
      watcher.close();
      resolve();
    });
  });
}

interface Start {
  socketMs: number;
  readyMs: number;
  /** Only where asked for: idle, and with one VM. */
  rss: readonly number[];
}

async function start(ports: readonly number[], more: Record<string, string>, withRss: boolean): Promise<Start> {
  const publish = ports.flatMap((port) => ['--publish', `127.0.0.1:${port}:192.168.65.3:${port}`]);
  const args = [main, 'run', '--vm', `qemu:${socket}`, '--mtu', '65520', '--state-dir', 'none', ...publish];
  const there = appears(folder, 'vm.sock');
  const begun = performance.now();
  const child = spawn(process.execPath, args, { env: { ...env, ...more }, stdio: ['ignore', 'pipe', 'ignore'] });
  const ready = new Promise<number>((resolve, reject) => {
    child.stdout.once('data', () => resolve(performance.now() - begun));
    child.once('exit', (code) => reject(new Error(`the daemon ended with ${code}`)));
  });
  await Promise.race([there, ready]);
  await there;
  const socketMs = performance.now() - begun;
  const readyMs = await ready;
  const rss: number[] = [];
  if (withRss) {
    await sleep(SETTLE_MS);
    rss.push(rssMiB(child.pid!));
    const vm = connect(socket);
    vm.on('error', () => {});
    await sleep(SETTLE_MS);
    rss.push(rssMiB(child.pid!));
    vm.destroy();
  }
  const ended = new Promise((resolve) => child.once('exit', resolve));
  child.kill();
  await ended;
  if (existsSync(socket)) throw new Error('the daemon left its socket behind');
  return { socketMs, readyMs, rss };
}

function bare(): number {
  const begun = performance.now();
  const { status } = spawnSync(process.execPath, ['-e', '0'], { env, stdio: 'ignore' });
  if (status !== 0) throw new Error('node -e 0 failed');
  return performance.now() - begun;
}

const bundle = join(projectRoot, 'scripts/bundle.mjs');
const { status } = spawnSync(process.execPath, [bundle, join(folder, 'dist')], { env, stdio: 'inherit' });
if (status !== 0) throw new Error('the bundle could not be made');
copyFileSync(join(projectRoot, 'package.json'), join(folder, 'package.json'));
const ports = [await freePort(), await freePort()];
const bares: number[] = [];
const starts: Start[] = [];
const uncached: Start[] = [];
for (let i = 0; i < ROUNDS; i++) {
  bares.push(bare());
  starts.push(await start(ports, {}, i % 5 === 0));
  uncached.push(await start(ports, { NODE_DISABLE_COMPILE_CACHE: '1' }, false));
}
const ms = (values: readonly number[]): string => `${median(values).toFixed(1).padStart(6)} ms`;
const rss = starts.filter((s) => s.rss.length > 0);
const mib = (at: number): string =>
  `${median(rss.map((s) => s.rss[at]!))
    .toFixed(1)
    .padStart(6)} MiB`;
console.log(`start, median of ${ROUNDS} (Node ${process.versions.node})`);
console.log(`  node -e 0, to its end          ${ms(bares)}`);
console.log(`  VM socket there                ${ms(starts.map((s) => s.socketMs))}`);
console.log(`  ready                          ${ms(starts.map((s) => s.readyMs))}`);
console.log(`  VM socket, no code cache       ${ms(uncached.map((s) => s.socketMs))}`);
console.log(`  ready, no code cache           ${ms(uncached.map((s) => s.readyMs))}`);
console.log(`  resident, idle                 ${mib(0)}`);
console.log(`  resident, one VM that is idle  ${mib(1)}`);
