// What `npm run demo` and `npm test` need before anything of ours can run: packages of the lock file, system programs, compiled
// sources. Plain Node without packages, because on a fresh clone there is nothing else yet.

import { spawn, spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

export const root = dirname(dirname(fileURLToPath(import.meta.url)));
export const isRoot = process.getuid?.() === 0;

const APT_LIMIT_MS = 150_000;

/** Runs a command to its end; output goes to the terminal when it fails. */
function run(command, args, { env = {}, timeoutMs = 300_000 } = {}) {
  return new Promise((resolve) => {
    const child = spawn(command, args, {
      cwd: root,
      env: { ...process.env, ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    let output = '';
    const timer = setTimeout(() => child.kill('SIGKILL'), timeoutMs);
    const note = (chunk) => {
      output += chunk;
    };
    child.stdout.on('data', note);
    child.stderr.on('data', note);
    child.on('error', (error) => {
      clearTimeout(timer);
      resolve({ ok: false, output: error.message });
    });
    child.on('close', (code, signal) => {
      clearTimeout(timer);
      resolve({ ok: code === 0, output: signal === null ? output : `${output}\n${command}: ended by ${signal}` });
    });
  });
}

function note(text) {
  console.log(`..    ${text}`);
}

/** `npm ci` when node_modules is missing or older than the lock file. */
export async function installPackages() {
  const marker = join(root, 'node_modules/.package-lock.json');
  if (existsSync(marker) && sameLock(marker)) return;
  note('packages: npm ci');
  const { ok, output } = await run('npm', ['ci', '--no-audit', '--no-fund', '--loglevel=error']);
  if (!ok) throw new Error(`npm ci failed:\n${output}`);
}

/** True when every package that the lock file wants here is installed in that version. */
function sameLock(marker) {
  const wanted = JSON.parse(readFileSync(join(root, 'package-lock.json'), 'utf8')).packages;
  const have = JSON.parse(readFileSync(marker, 'utf8')).packages;
  for (const [path, entry] of Object.entries(wanted)) {
    if (path === '' || entry.optional === true) continue;
    if (have[path]?.version !== entry.version) return false;
  }
  return true;
}

function onPath(program) {
  return ['/usr/sbin', '/sbin', ...(process.env.PATH ?? '').split(':')].some((dir) => existsSync(join(dir, program)));
}

/**
 * Installs the Debian packages whose program is missing, when we may.
 * @param programs program name to package name
 * @returns a reason for each program that is still missing
 */
export async function installPrograms(programs) {
  const missing = Object.entries(programs).filter(([program]) => !onPath(program));
  if (missing.length === 0) return [];
  const packages = [...new Set(missing.flatMap(([, name]) => name.split(' ')))];
  if (!isRoot) return missing.map(([program]) => `${program} is not installed, and only root can install it`);
  if (!onPath('apt-get')) return missing.map(([program]) => `${program} is not installed, and there is no apt-get`);
  note(`programs: apt-get install ${packages.join(' ')}`);
  const env = { DEBIAN_FRONTEND: 'noninteractive' };
  const install = () =>
    run('apt-get', ['install', '-y', '-q', '--no-install-recommends', '-o', 'DPkg::Lock::Timeout=60', ...packages], {
      env,
      timeoutMs: APT_LIMIT_MS,
    });
  let last = await install();
  if (!last.ok) {
    const update = await run('apt-get', ['update', '-q'], { env, timeoutMs: APT_LIMIT_MS });
    last = update.ok ? await install() : update;
  }
  const reason = last.output.trim().split('\n').at(-1);
  return missing
    .filter(([program]) => !onPath(program))
    .map(([program]) => `${program} could not be installed: ${reason}`);
}

/**
 * Compiles a TypeScript project; what can be emitted is, whatever the types say. Type errors are printed.
 * @param checked false leaves types to `npm run typecheck` and takes a third of the time
 * @returns true without type errors
 */
export function compile(project, { checked }) {
  const tsc = join(root, 'node_modules/typescript/bin/tsc');
  const args = ['-p', project, ...(checked ? [] : ['--noCheck'])];
  const { status, stdout } = spawnSync(process.execPath, [tsc, ...args], { cwd: root, encoding: 'utf8' });
  if (status !== 0) console.error(stdout.trim());
  return status === 0;
}
