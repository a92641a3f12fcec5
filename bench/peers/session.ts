// The order of measurements: rounds, in each every MTU, in each every contender in turn, so that a machine that slows down slows
// all of them. Every other round goes through the contenders backwards. Owns the records; knows nothing of how they are printed.

import { type BenchRow, type Figures, ROWS } from './cases.ts';
import { Lab, type Program } from './lab.ts';
import type { BenchOptions } from './options.ts';
import { type Contender, startStack } from './stacks.ts';

/** One measurement of one round: figures, or why there are none. */
export interface Measurement {
  readonly round: number;
  readonly mtu: number;
  readonly test: string;
  readonly peer: string;
  readonly figures?: Figures;
  readonly error?: string;
}

/** A line on standard error. */
export function progress(text: string): void {
  process.stderr.write(`..    ${text}\n`);
}

function shown(figures: Figures): string {
  return Object.entries(figures)
    .map(([name, value]) => `${name} ${Number(value.toPrecision(4))}`)
    .join(', ');
}

function messageOf(error: unknown): string {
  return (error instanceof Error ? error.message : String(error)).split('\n')[0]!;
}

/** Measures everything that was asked for. */
export async function measureAll(contenders: readonly Contender[], options: BenchOptions): Promise<Measurement[]> {
  const found: Measurement[] = [];
  const wanted = ROWS.filter((row) => options.tests.includes(row.name));
  const groups = groupsOf(wanted);
  const lab = await Lab.open();
  try {
    for (let round = 1; round <= options.rounds; round++) {
      for (const mtu of options.mtus) {
        for (const contender of round % 2 === 1 ? contenders : contenders.toReversed()) {
          const place = { round, mtu, peer: contender.name };
          for (const rows of groups) {
            const results = await measureStack(lab, contender, mtu, rows, options.seconds);
            for (const result of results) found.push({ ...place, ...result });
          }
        }
      }
    }
  } finally {
    await lab.close();
  }
  return found;
}

/** Rows that may be measured on one and the same start of a stack: a row that fills memory ends its group. */
function groupsOf(wanted: readonly BenchRow[]): BenchRow[][] {
  const fresh = wanted.filter((row) => row.fresh === true);
  const light = fresh.filter((row) => row.fills !== true);
  const heavy = fresh.filter((row) => row.fills === true);
  const groups = [light, ...heavy.map((row) => [row]), wanted.filter((row) => row.fresh !== true)];
  return groups.filter((rows) => rows.length > 0);
}

type Result = Pick<Measurement, 'test' | 'figures' | 'error'>;

function mustRun(program: Program): void {
  if (!program.running) throw new Error(`the stack has ended: ${program.complaint}`);
}

/** Starts a stack and measures some rows of it. */
async function measureStack(
  lab: Lab,
  contender: Contender,
  mtu: number,
  rows: readonly BenchRow[],
  seconds: number,
): Promise<Result[]> {
  const title = `${contender.name}, MTU ${mtu}`;
  const results: Result[] = [];
  try {
    const stack = await startStack(lab, contender, mtu);
    for (const row of rows) {
      try {
        mustRun(stack.program);
        const figures = await row.measure(lab, stack, seconds);
        mustRun(stack.program);
        progress(`${title}, ${row.name}: ${shown(figures)}`);
        results.push({ test: row.name, figures });
      } catch (error) {
        progress(`${title}, ${row.name}: failed: ${messageOf(error)}`);
        results.push({ test: row.name, error: messageOf(error) });
      }
    }
  } catch (error) {
    progress(`${title}: failed to start: ${messageOf(error)}`);
    for (const row of rows) results.push({ test: row.name, error: `did not start: ${messageOf(error)}` });
  } finally {
    await lab.clear();
  }
  return results;
}

/** Medians of each figure over the rounds that came to something. */
export function medians(found: readonly Measurement[]): Figures | undefined {
  const good = found.flatMap(({ figures }) => (figures === undefined ? [] : [figures]));
  if (good.length === 0) return undefined;
  const names = Object.keys(good[0]!);
  return Object.fromEntries(names.map((name) => [name, median(good.map((figures) => figures[name] ?? Number.NaN))]));
}

function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const half = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[half]! : (sorted[half - 1]! + sorted[half]!) / 2;
}
