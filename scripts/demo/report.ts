// What the demo prints: a line per step while it runs, a table at the end. Owns the look only.

import { styleText } from 'node:util';

/** How a step ended. */
export interface Outcome {
  readonly name: string;
  readonly ok: boolean;
  readonly detail: string;
  readonly ms: number;
  readonly mbitPerS?: number | undefined;
}

const coloured = process.stdout.isTTY === true && process.env.NO_COLOR === undefined;

function paint(style: Parameters<typeof styleText>[0], text: string): string {
  return coloured ? styleText(style, text) : text;
}

function seconds(ms: number): string {
  return `${(ms / 1000).toFixed(2)} s`;
}

function rate(mbitPerS: number | undefined): string {
  return mbitPerS === undefined ? '' : `${mbitPerS.toFixed(0)} Mbit/s`;
}

/** A line about the setting up, e.g. `..  VM image: cached`. */
export function printNote(what: string, detail: string): void {
  console.log(`${paint('dim', '..')}    ${what}: ${detail}`);
}

/** The line of a finished step. */
export function printOutcome(outcome: Outcome): void {
  const mark = outcome.ok ? paint('green', 'ok  ') : paint('red', 'FAIL');
  const speed = outcome.mbitPerS === undefined ? '' : `, ${rate(outcome.mbitPerS)}`;
  console.log(`${mark}  ${outcome.name}: ${outcome.detail}${speed} ${paint('dim', `(${seconds(outcome.ms)})`)}`);
}

/** The summary. */
export function printSummary(outcomes: readonly Outcome[], facts: ReadonlyArray<readonly [string, string]>): void {
  const rows = outcomes.map((o) => [o.name, o.ok ? 'ok' : 'FAIL', seconds(o.ms), rate(o.mbitPerS)]);
  const head = ['step', 'result', 'time', 'throughput'];
  const widths = head.map((title, i) => Math.max(title.length, ...rows.map((row) => row[i]!.length)));
  const line = (cells: readonly string[]): string =>
    cells
      .map((cell, i) => (i < 2 ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!)))
      .join('  ')
      .trimEnd();
  console.log(`\n${paint('bold', line(head))}`);
  console.log(widths.map((width) => '-'.repeat(width)).join('  '));
  for (const row of rows) console.log(line(row));
  const width = Math.max(...facts.map(([name]) => name.length));
  console.log();
  for (const [name, value] of facts) console.log(`${name.padEnd(width)}  ${value}`);
  const failed = outcomes.filter((o) => !o.ok).length;
  const verdict = `${outcomes.length - failed} of ${outcomes.length} steps passed`;
  console.log(`\n${failed === 0 ? paint('green', verdict) : paint('red', verdict)}`);
}
