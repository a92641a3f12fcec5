// `npm run soak -- --minutes N --seed S`: random programs for as long as told, from seed S up (test/sim). Every failure is printed
// with its seed as it is found; the last line counts. Exit 1 if anything failed, 64 for arguments that make no sense.

import { parseArgs } from 'node:util';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { runSeed } from '../test/sim/run-seed.ts';

const USAGE = 'usage: npm run soak -- [--minutes N] [--seed S]';
/** Seeds after which code is warm and caches are full: the heap's measure. */
const WARM_SEEDS = 1000;
/** Growth that compiled code and its statistics explain. */
const HEAP_SLACK_BYTES = 4 * 1024 * 1024;
const PROGRESS_MS = 60_000;
/** Failures that are made smaller; the others are only named. */
const SHRUNK = 10;

interface Options {
  minutes: number;
  seed: number;
}

function options(): Options | string {
  let values: { minutes?: string | undefined; seed?: string | undefined };
  try {
    ({ values } = parseArgs({ options: { minutes: { type: 'string' }, seed: { type: 'string' } } }));
  } catch (error) {
    return (error as Error).message;
  }
  const minutes = Number(values.minutes ?? 10);
  if (!(minutes > 0)) return `--minutes ${values.minutes}: must be a number above 0`;
  const seed = Number(values.seed ?? 1);
  if (!Number.isSafeInteger(seed)) return `--seed ${values.seed}: must be a whole number`;
  return { minutes, seed };
}

/** Bytes in use after a collection. */
function heapBytes(): number {
  setFlagsFromString('--expose-gc');
  (runInNewContext('gc') as () => void)();
  return process.memoryUsage().heapUsed;
}

function soak({ minutes, seed }: Options): boolean {
  const start = Date.now();
  const end = start + minutes * 60_000;
  let nextProgress = start + PROGRESS_MS;
  let ran = 0;
  let failed = 0;
  let warmHeap = 0;
  while (Date.now() < end) {
    const report = runSeed(seed + ran++, failed < SHRUNK);
    if (report !== undefined) {
      failed++;
      console.log(report);
    }
    if (ran === WARM_SEEDS) warmHeap = heapBytes();
    if (Date.now() < nextProgress) continue;
    nextProgress += PROGRESS_MS;
    console.log(`..    ${Math.round((Date.now() - start) / 60_000)} min: ${ran} seeds, ${failed} failed`);
  }
  if (warmHeap > 0) {
    const grown = heapBytes() - warmHeap;
    console.log(`heap: ${(grown / 1024).toFixed(0)} KiB more than after ${WARM_SEEDS} seeds`);
    if (grown > warmHeap * 0.05 + HEAP_SLACK_BYTES) {
      failed++;
      console.log('the heap grows: something is kept from run to run');
    }
  }
  console.log(`seeds ${seed} to ${seed + ran - 1}: ${ran - Math.min(failed, ran)} passed, ${failed} failed`);
  return failed === 0;
}

const chosen = options();
if (typeof chosen === 'string') {
  console.error(`soak: ${chosen}; ${USAGE}`);
  process.exitCode = 64;
} else if (!soak(chosen)) process.exitCode = 1;
