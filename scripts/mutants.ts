// `npm run mutants [-- ID…]`: breaks one rule of the protocol at a time and sees whether a test notices. Without ids it takes all
// of them and writes docs/mutants.md. It fails when a mutant survives, when a text to change is gone, or when the tests fail
// without any change.

import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { MUTANTS } from './mutants/all.ts';
import { Bench, type Outcome } from './mutants/bench.ts';
import { breakRule, type Mutant } from './mutants/mutant.ts';
import { type Killer, mutantsPage } from './mutants/page.ts';
import { projectRoot } from './project.ts';

/** Time for a test file as it is; with a rule broken it has five times what it took, and some seconds. */
const FILE_LIMIT_MS = 120_000;
const SLACK_MS = 5000;
/** Test files at a time. */
const WORKERS = 2;

const compiled = fileURLToPath(new URL('..', import.meta.url));
const broad = readdirSync(join(projectRoot, 'test/tcp'))
  .filter((name) => name.endsWith('.test.ts'))
  .map((name) => `test/tcp/${name}`);

/** Test files for a mutant: those it names, then everything about TCP. */
function testsOf(mutant: Mutant): string[] {
  const named = mutant.tests.map((name) => `test/${name.includes('/') ? name : `tcp/${name}`}.test.ts`);
  const gone = named.find((name) => !existsSync(join(projectRoot, name)));
  if (gone !== undefined) throw new Error(`${mutant.id}: there is no ${gone}`);
  return [...new Set([...named, ...(mutant.file.startsWith('src/ip/') ? [] : broad)])];
}

/** Runs `work` on every item, `WORKERS` at a time, each on a bench of its own. */
async function spread<T>(
  benches: readonly Bench[],
  items: readonly T[],
  work: (bench: Bench, item: T) => Promise<void>,
) {
  const left = [...items];
  await Promise.all(
    benches.map(async (bench) => {
      for (let item = left.shift(); item !== undefined; item = left.shift()) await work(bench, item);
    }),
  );
}

async function main(): Promise<boolean> {
  const wanted = process.argv.slice(2);
  const mutants = wanted.length === 0 ? MUTANTS : MUTANTS.filter((mutant) => wanted.includes(mutant.id));
  const unknown = wanted.filter((id) => !MUTANTS.some((mutant) => mutant.id === id));
  if (unknown.length > 0) throw new Error(`no such mutant: ${unknown.join(', ')}`);
  // Every change is looked for before the first test runs.
  const sources = new Map(mutants.map((m) => [m, breakRule(m, readFileSync(join(projectRoot, m.file), 'utf8'))]));

  const benches = Array.from(
    { length: WORKERS },
    (_, i) => new Bench(projectRoot, compiled, join(projectRoot, `.build-mutants/${i}`)),
  );
  try {
    const whole = new Map<string, Outcome>();
    await spread(benches, [...new Set(mutants.flatMap(testsOf))], async (bench, file) => {
      whole.set(file, await bench.test(file, FILE_LIMIT_MS));
    });
    const failing = [...whole].filter(([, outcome]) => !outcome.passed);
    for (const [file, { failure }] of failing) console.log(`fails without any change: ${file}: ${failure}`);
    if (failing.length > 0) return false;

    const killers = new Map<string, Killer>();
    const width = Math.max(...mutants.map((mutant) => mutant.id.length));
    await spread(benches, mutants, async (bench, mutant) => {
      const start = performance.now();
      await bench.broken(mutant.file, sources.get(mutant)!, async () => {
        for (const file of testsOf(mutant)) {
          const { passed, failure } = await bench.test(file, 5 * whole.get(file)!.ms + SLACK_MS);
          if (passed) continue;
          killers.set(mutant.id, { file, title: failure });
          return;
        }
      });
      const killer = killers.get(mutant.id);
      const seconds = ((performance.now() - start) / 1000).toFixed(1).padStart(5);
      const end = killer ? `${killer.file.replace(/^test\/|\.test\.ts$/g, '')}: ${killer.title}` : mutant.does;
      console.log(`${killer ? 'killed  ' : 'SURVIVED'} ${seconds} s  ${mutant.id.padEnd(width)}  ${end}`);
    });
    console.log(`${killers.size} of ${mutants.length} mutants killed`);
    if (killers.size < mutants.length) return false;
    if (wanted.length === 0) writeFileSync(join(projectRoot, 'docs/mutants.md'), mutantsPage(killers));
    return true;
  } finally {
    rmSync(join(projectRoot, '.build-mutants'), { recursive: true, force: true });
  }
}

try {
  process.exitCode = (await main()) ? 0 : 1;
} catch (error) {
  console.error(`mutants: ${(error as Error).message}`);
  process.exitCode = 1;
}
