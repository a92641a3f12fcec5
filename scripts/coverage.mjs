// `npm run coverage`: line and branch coverage of src/tcp and src/ip by the tests of those folders, of src/stack and of the
// simulation. It prints a line a file, the lines without coverage, and fails below the goals.

import { spawn, spawnSync } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join, relative } from 'node:path';
import { compile, installPackages, root } from './bootstrap.mjs';

const GOALS = { lines: 98, branches: 95 };
const MEASURED = ['src/tcp', 'src/ip'];
/** Tests that count. */
const TESTS = ['test/tcp/', 'test/ip/', 'test/stack/', 'test/sim/'];
const WORKERS = 2;

/** Runs one test file; V8 writes what it ran to `dir`. @returns whether it passed. */
function run(file, dir) {
  return new Promise((resolve) => {
    const child = spawn(process.execPath, [file], {
      cwd: root,
      env: { ...process.env, NODE_V8_COVERAGE: dir, TAP: '1' },
      stdio: ['ignore', 'ignore', 'ignore'],
    });
    child.on('close', (code) => resolve(code === 0));
  });
}

async function main() {
  await installPackages();
  compile('tsconfig.test.json', { checked: false });
  const out = join(root, '.cache/coverage');
  const raw = join(out, 'raw');
  rmSync(out, { recursive: true, force: true });
  mkdirSync(raw, { recursive: true });

  const left = readdirSync(join(root, 'test'), { recursive: true, encoding: 'utf8' })
    .map((name) => `test/${name}`)
    .filter((name) => name.endsWith('.test.ts') && TESTS.some((folder) => name.startsWith(folder)))
    .map((name) => join(root, '.build', name.replace(/\.ts$/, '.js')));
  const failed = [];
  const worker = async () => {
    for (let file = left.shift(); file !== undefined; file = left.shift())
      if (!(await run(file, raw))) failed.push(relative(root, file));
  };
  await Promise.all(Array.from({ length: WORKERS }, worker));
  for (const file of failed) console.log(`fails: ${file}`);

  const c8 = createRequire(import.meta.url).resolve('c8/bin/c8.js');
  const args = [
    'report',
    `--temp-directory=${raw}`,
    `--reports-dir=${out}`,
    '--reporter=json-summary',
    '--reporter=json',
  ];
  args.push('--exclude-after-remap', ...MEASURED.map((folder) => `--include=${folder}/**`), '--exclude=test/**');
  const report = spawnSync(process.execPath, [c8, ...args], { cwd: root, encoding: 'utf8' });
  if (report.status !== 0) throw new Error(report.stderr);
  const summary = JSON.parse(readFileSync(join(out, 'coverage-summary.json'), 'utf8'));
  const details = JSON.parse(readFileSync(join(out, 'coverage-final.json'), 'utf8'));

  let short = failed.length > 0;
  for (const folder of MEASURED) {
    const total = { lines: [0, 0], branches: [0, 0] };
    const files = Object.keys(summary).filter((path) => relative(root, path).startsWith(`${folder}/`));
    for (const path of files.sort()) {
      const cells = [];
      for (const kind of ['lines', 'branches']) {
        const { covered, total: all } = summary[path][kind];
        total[kind][0] += covered;
        total[kind][1] += all;
        cells.push(percent(covered, all));
      }
      console.log(`${relative(root, path).padEnd(30)} ${cells.join(' ')}  ${missing(details[path])}`);
    }
    const cells = Object.entries(total).map(([kind, [covered, all]]) => {
      if (files.length === 0 || (100 * covered) / all < GOALS[kind]) short = true;
      return percent(covered, all);
    });
    console.log(`${`${folder} in all`.padEnd(30)} ${cells.join(' ')}  (lines, branches)\n`);
  }
  console.log(`goals: ${GOALS.lines} % of lines, ${GOALS.branches} % of branches: ${short ? 'missed' : 'reached'}`);
  return !short;
}

function percent(covered, all) {
  return `${(all === 0 ? 100 : (100 * covered) / all).toFixed(1).padStart(5)} %`;
}

/** Lines that never ran, and lines with a branch that was never taken. */
function missing(file) {
  const lines = new Set();
  for (const [id, { start }] of Object.entries(file.statementMap)) if (file.s[id] === 0) lines.add(start.line);
  const branches = new Set();
  for (const [id, { locations }] of Object.entries(file.branchMap))
    file.b[id].forEach((times, i) => {
      const { line } = locations[i].start;
      if (times === 0 && !lines.has(line)) branches.add(line);
    });
  return [...ranges(lines), ...[...branches].map((line) => `${line}?`)].join(' ');
}

function ranges(set) {
  const sorted = [...set].sort((a, b) => a - b);
  const out = [];
  for (let i = 0; i < sorted.length; ) {
    let j = i;
    while (sorted[j + 1] === sorted[j] + 1) j++;
    out.push(i === j ? `${sorted[i]}` : `${sorted[i]}-${sorted[j]}`);
    i = j + 1;
  }
  return out;
}

try {
  process.exitCode = (await main()) ? 0 : 1;
} catch (error) {
  console.error(`coverage: ${error.message}`);
  process.exitCode = 1;
}
