// One way to run and print micro-benchmarks: `benchmark` with enough samples to compare, and what each operation leaves on the heap.

import Benchmark from 'benchmark';

/** One case: `run` does `perRun` operations and returns something that depends on all of them, so that none is optimised away. */
export interface BenchCase {
  readonly name: string;
  readonly perRun: number;
  /** Checked once before measuring. @returns undefined if the result is right, or what is wrong. */
  readonly check: () => string | undefined;
  readonly run: () => unknown;
  /** Checked once after measuring, for what only adds up over all runs. @returns as `check`. */
  readonly checkAfter?: () => string | undefined;
}

/** What a measurement of the heap is to allocate, if it can: far below a young generation, far above the noise. */
const HEAP_WANTED = 64 * 1024;
const HEAP_RUNS_LEAST = 16;
const HEAP_RUNS_MOST = 4096;
const HEAP_SAMPLES = 9;

let sink: unknown;

const collect = (globalThis as { gc?: () => void }).gc ?? (() => {});
const heapUsed = (): number => process.memoryUsage().heapUsed;

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[values.length >> 1]!;
}

function growth(run: () => unknown, runs: number): number {
  collect();
  const before = heapUsed();
  for (let i = 0; i < runs; i++) sink = run();
  return heapUsed() - before;
}

/** Growth over `runs` runs: the median of samples so short that nothing is collected within them. */
function usualGrowth(run: () => unknown, runs: number): number {
  return median(Array.from({ length: HEAP_SAMPLES }, () => growth(run, runs)));
}

/** What one run allocates on the JavaScript heap: the slope, as the first run after a collection allocates for the engine, too. */
function heapBytes(run: () => unknown): number {
  for (let runs = HEAP_RUNS_LEAST; ; runs *= 4) {
    const more = usualGrowth(run, 2 * runs) - usualGrowth(run, runs);
    if (more >= HEAP_WANTED || runs >= HEAP_RUNS_MOST) return Math.max(0, more) / runs;
  }
}

/** Prints one line. @param note what qualifies the figures */
export function report(name: string, ns: number, bytes: number | undefined, note: string): void {
  const heap = bytes === undefined ? '' : `${bytes.toFixed(0)} B`;
  console.log(`  ${name.padEnd(52)} ${ns.toFixed(1).padStart(10)} ns  ${heap.padStart(8)}  ${note}`);
}

function must(wrong: string | undefined, name: string): void {
  if (wrong !== undefined) throw new Error(`${name}: ${wrong}`);
}

/** Runs the cases one after the other and prints ns and heap bytes for each operation. */
export function runSuite(title: string, cases: readonly BenchCase[]): void {
  console.log(`${title} (Node ${process.versions.node})`);
  for (const c of cases) {
    must(c.check(), c.name);
    const measured = (): void => {
      sink = c.run();
    };
    const bench = new Benchmark(c.name, measured, { minSamples: 40, maxTime: 1 });
    bench.run();
    if ((bench as { error?: Error }).error !== undefined) throw (bench as { error?: Error }).error;
    const bytes = heapBytes(c.run) / c.perRun;
    must(c.checkAfter?.(), c.name);
    report(c.name, 1e9 / bench.hz / c.perRun, bytes, `±${bench.stats.rme.toFixed(1)} %`);
  }
  if (sink === undefined) throw new Error('nothing was measured');
}
