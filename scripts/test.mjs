// `npm test [-- PATH…]`: installs and compiles what is missing, runs the tests (all, or those whose path holds a PATH), and ends
// with the line `N passed, N failed[, N skipped]`. Whatever cannot run here is skipped with its reason.

import { spawn } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { compile, installPackages, installPrograms, root } from './bootstrap.mjs';
import { TapCount } from './tap-count.mjs';

/** Programs that only some tests use; their tests are skipped where they cannot be had. */
const PROGRAMS = {
  'qemu-system-x86_64': 'qemu-system-x86',
  ip: 'iproute2',
  cc: 'gcc libc6-dev',
  curl: 'curl',
  tshark: 'tshark',
  busybox: 'busybox-static',
  ping: 'iputils-ping',
  traceroute: 'traceroute',
};

/** Files in which a kernel, a VM or a clock takes part: one at a time, and with time for big transfers. */
const E2E = 'test/e2e/';
const E2E_LIMIT_S = 900;

function testFiles(selectors) {
  const all = readdirSync(join(root, 'test'), { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.test.ts'))
    .map((name) => `test/${name}`)
    .sort();
  if (selectors.length === 0) return all;
  const wanted = selectors.map((selector) =>
    selector
      .replace(/^\.\//, '')
      .replace(/^\.build\//, '')
      .replace(/\.js$/, '.ts'),
  );
  const found = all.filter((name) => wanted.some((part) => name.includes(part)));
  if (found.length === 0) throw new Error(`no test file's path holds ${selectors.join(' or ')}`);
  return found;
}

function runTap(files, flags, count) {
  if (files.length === 0) return Promise.resolve(0);
  const tap = join(root, 'node_modules/tap/dist/esm/run.mjs');
  const compiled = files.map((name) => `.build/${name.replace(/\.ts$/, '.js')}`);
  return new Promise((resolve) => {
    const child = spawn(process.execPath, [tap, '--reporter=tap', ...flags, ...compiled], {
      cwd: root,
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    const lines = createInterface({ input: child.stdout });
    lines.on('line', (line) => count.line(line));
    child.on('close', (code) => {
      count.end();
      resolve(code ?? 1);
    });
  });
}

async function main() {
  const flags = process.argv.slice(2).filter((arg) => arg.startsWith('-'));
  const selectors = process.argv.slice(2).filter((arg) => !arg.startsWith('-'));
  await installPackages();
  const files = testFiles(selectors);
  const ordinary = files.filter((name) => !name.startsWith(E2E));
  const endToEnd = files.filter((name) => name.startsWith(E2E));
  const missing = endToEnd.length === 0 ? [] : await installPrograms(PROGRAMS);
  for (const reason of missing) console.log(`..    ${reason}`);
  const typesRight = compile('tsconfig.test.json', { checked: true });

  const count = new TapCount({
    onFile({ name, ms, passed, failed, skipped }) {
      const mark = failed > 0 ? 'FAIL' : passed === 0 ? 'skip' : 'ok  ';
      const skips = skipped > 0 ? `, ${skipped} skipped` : '';
      const path = name.replace(/^\.build\//, '');
      console.log(
        `${mark}  ${path}: ${passed} passed${failed > 0 ? `, ${failed} failed` : ''}${skips} (${(ms / 1000).toFixed(1)} s)`,
      );
    },
    onFailure({ path, lines }) {
      console.log(`not ok  ${path.join(' > ')}`);
      for (const line of lines) console.log(`        ${line}`);
    },
  });
  const statuses = [
    await runTap(ordinary, ['--jobs=2', ...flags], count),
    await runTap(endToEnd, ['--jobs=1', `--timeout=${E2E_LIMIT_S}`, ...flags], count),
  ];
  if (!typesRight) {
    console.log('not ok  the types are not right, see above');
    count.failed++;
  }
  for (const [reason, times] of count.skips) console.log(`skipped ${times}: ${reason}`);
  // tap itself may fail (a file that cannot be loaded) without a failed assertion: that is a failure too.
  if (count.failed === 0 && statuses.some((status) => status !== 0)) {
    console.log('the test runner itself ended with an error');
    count.failed++;
  }
  console.log(`${count.passed} passed, ${count.failed} failed${count.skipped > 0 ? `, ${count.skipped} skipped` : ''}`);
  process.exitCode = count.failed === 0 ? 0 : 1;
}

try {
  await main();
} catch (error) {
  console.error(`test: ${error.message}`);
  console.log('0 passed, 1 failed');
  process.exitCode = 1;
}
