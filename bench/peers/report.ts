// The report: a Markdown table with the machine and the versions above it, and the same figures with all rounds as JSON.

import { writeFileSync } from 'node:fs';
import { cpus, release, totalmem } from 'node:os';
import { type Figures, ROWS } from './cases.ts';
import type { BenchOptions } from './options.ts';
import { type Measurement, medians } from './session.ts';
import type { Contender } from './stacks.ts';

/** A contender with the version that it reports. */
export interface VersionedContender extends Contender {
  readonly version: string;
}

/** One line of the table. */
export interface ReportRow {
  readonly mtu: number;
  readonly test: string;
  readonly main: string;
  /** By contender; undefined where no round came to anything. */
  readonly cells: readonly { readonly peer: string; readonly median?: Figures; readonly rounds: Measurement[] }[];
}

/** Everything that is known after a run. */
export interface Report {
  readonly date: string;
  readonly machine: Readonly<Record<string, string | number>>;
  readonly options: BenchOptions;
  readonly contenders: readonly VersionedContender[];
  readonly rows: readonly ReportRow[];
}

function machine(): Record<string, string | number> {
  return {
    cpu: cpus()[0]?.model.trim() ?? 'unknown',
    cores: cpus().length,
    memoryGb: Math.round(totalmem() / 1e9),
    kernel: release(),
    node: process.versions.node,
  };
}

/** Puts the measurements in order. */
export function reportOf(
  contenders: readonly VersionedContender[],
  options: BenchOptions,
  found: readonly Measurement[],
): Report {
  const rows: ReportRow[] = [];
  for (const mtu of options.mtus) {
    for (const { name: test, main } of ROWS.filter((row) => options.tests.includes(row.name))) {
      const cells = contenders.map(({ name: peer }) => {
        const rounds = found.filter((one) => one.mtu === mtu && one.test === test && one.peer === peer);
        const median = medians(rounds);
        return median === undefined ? { peer, rounds } : { peer, median, rounds };
      });
      rows.push({ mtu, test, main, cells });
    }
  }
  return {
    date: new Date().toISOString().slice(0, 16).replace('T', ' '),
    machine: machine(),
    options,
    contenders,
    rows,
  };
}

const UNITS: Readonly<Record<string, (value: number) => string>> = {
  gbitPerSecond: (value) => `${value.toFixed(2)} Gbit/s`,
  perSecond: (value) => `${value.toFixed(0)}/s`,
  readyMs: (value) => `${value.toFixed(0)} ms`,
  residentMb: (value) => `${value.toFixed(1)} MB`,
  growthMb: (value) => `+${value.toFixed(1)} MB`,
  p99Us: (value) => `p99 ${value.toFixed(0)} µs`,
};

/** A cell's text: the figure that counts, and what qualifies it. */
export function cellText(main: string, figures: Figures | undefined): string {
  if (figures === undefined) return 'failed';
  const parts = [UNITS[main]!(figures[main]!)];
  const { cpuSecondsPerGb, p50Us, p99Us, failed, lost, alive, wanted, heldMb, afterMb, idlePercent } = figures;
  if (cpuSecondsPerGb !== undefined) parts.push(`${cpuSecondsPerGb.toFixed(2)} s/GB`);
  if (main === 'p99Us') parts.push(`p50 ${p50Us!.toFixed(0)} µs`, `beside ${figures.gbitPerSecond!.toFixed(2)} Gbit/s`);
  else if (p99Us !== undefined) parts.push(`${p50Us!.toFixed(0)}/${p99Us.toFixed(0)} µs`);
  if (idlePercent !== undefined) parts.push(`${idlePercent.toFixed(3)} % CPU`);
  if (afterMb !== undefined) parts.push(`${afterMb.toFixed(0)} MB after`);
  if (heldMb !== undefined) parts.push(`${heldMb.toFixed(1)} MB in all`);
  if (failed !== undefined && failed > 0) parts.push(`${failed} failed`);
  if (lost !== undefined && lost > 0) parts.push(`${lost} lost`);
  if (alive !== undefined && alive < wanted!) parts.push(`only ${alive} of ${wanted} alive`);
  return parts.join(', ');
}

/** The lines above a table. */
export function heading(report: Report, title: string): string[] {
  const { machine: m, options } = report;
  return [
    `## ${title}`,
    '',
    `${report.date} UTC. ${m.cpu}, ${m.cores} cores, ${m.memoryGb} GB; Linux ${m.kernel}; Node ${m.node}.`,
    '',
    ...report.contenders.map(({ name, version }) => `- ${name}: ${version}`),
    '',
    `Median of ${options.rounds} ${options.rounds === 1 ? 'round' : 'rounds'}, ${options.seconds} s each. s/GB: CPU seconds of the stack's own processes for each GB moved. µs: median and 99th percentile.`,
    '',
  ];
}

/** A Markdown table. */
export function table(head: readonly string[], body: readonly (readonly string[])[]): string[] {
  const line = (cells: readonly string[]): string =>
    `| ${cells.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |`;
  return [line(head), `|${head.map(() => '---|').join('')}`, ...body.map(line)];
}

/** Prints the table, and writes the files that were asked for. */
export function publish(report: Report, lines: readonly string[]): void {
  const text = `${lines.join('\n')}\n`;
  process.stdout.write(text);
  if (report.options.markdown !== undefined) writeFileSync(report.options.markdown, text);
  if (report.options.json !== undefined) writeFileSync(report.options.json, `${JSON.stringify(report, null, 1)}\n`);
}
