// One way to run and print micro-benchmarks: `benchmark` with enough samples to compare, and what each call leaves on the heap.

import Benchmark from 'benchmark';

/** One case: `run` does `perRun` operations and returns something that depends on all of them, so that none is optimised away. */
export interface BenchCase {
  readonly name: string;
  readonly perRun: number;
  /** Checked once before measuring. @returns undefined if the result is right, or what is wrong. */
  readonly check: () => string | undefined;
  readonly run: () => unknown;
}

const HEAP_RUNS = 2000;

/** Runs the cases one after the other and prints ns and heap bytes for each operation. */
export function runSuite(title: string, cases: readonly BenchCase[]): void {
  console.log(`${title} (Node ${process.versions.node})`);
  let sink: unknown;
  for (const c of cases) {
    const wrong = c.check();
    if (wrong !== undefined) throw new Error(`${c.name}: ${wrong}`);
    const measured = (): void => {
      sink = c.run();
    };
    const bench = new Benchmark(c.name, measured, { minSamples: 40 });
    bench.run();
    const before = process.memoryUsage().heapUsed;
    for (let i = 0; i < HEAP_RUNS; i++) sink = c.run();
    const heap = Math.max(0, process.memoryUsage().heapUsed - before) / (HEAP_RUNS * c.perRun);
    const ns = 1e9 / bench.hz / c.perRun;
    console.log(
      `  ${c.name.padEnd(44)} ${ns.toFixed(1).padStart(10)} ns  ${heap.toFixed(0).padStart(5)} B  ±${bench.stats.rme.toFixed(1)} %`,
    );
  }
  if (sink === undefined) throw new Error('nothing was measured');
}
