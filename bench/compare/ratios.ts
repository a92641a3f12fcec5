// `npm run bench:compare -- A B`: two commits of isthmus through the harness of bench/peers, in turns, and the ratio of each row.

import { parseArgs } from 'node:util';
import {
  type BenchOptions,
  benchOptions,
  OPTION_TYPES,
  OPTIONS_HELP,
  requireMachine,
  ToolError,
} from '../peers/options.ts';
import { isthmusContender } from '../peers/own-build.ts';
import { cellText, heading, publish, type ReportRow, reportOf, table } from '../peers/report.ts';
import { measureAll } from '../peers/session.ts';
import { build, commitOf, removeWorktrees } from './revision.ts';

const HELP = `Usage: npm run bench:compare -- COMMIT_A COMMIT_B [OPTIONS]

Checks both commits out under .cache/compare, builds them, measures them in turns, and prints B/A for each row.
Builds are kept there. Needs root, iperf3 and cc.

${OPTIONS_HELP}`;

function ratio(row: ReportRow, figure: string): string {
  const [a, b] = row.cells.map(({ median }) => median?.[figure]);
  if (a === undefined || b === undefined || a === 0) return '';
  return (b / a).toFixed(2);
}

/** The CPU time for one unit of work, whatever the row's unit is. */
function cpuFigure({ main }: ReportRow): string {
  return main === 'gbitPerSecond' ? 'cpuSecondsPerGb' : 'cpuMicrosEach';
}

/** Runs it. @throws ToolError for what whoever started it can mend */
export async function compareCommits(args: readonly string[]): Promise<void> {
  let names: string[];
  let options: BenchOptions;
  let help = false;
  try {
    const parsed = parseArgs({ args: [...args], options: OPTION_TYPES, allowPositionals: true });
    names = parsed.positionals;
    help = parsed.values.help === true;
    options = benchOptions(parsed.values);
  } catch (error) {
    if (error instanceof ToolError) throw error;
    throw new ToolError((error as Error).message.split('\n')[0]!);
  }
  if (help) {
    console.log(HELP);
    return;
  }
  if (names.length !== 2) throw new ToolError(`${names.length} commits were given; expected two: COMMIT_A COMMIT_B`);
  requireMachine();
  process.once('exit', removeWorktrees);
  const commits = names.map(commitOf);
  const revisions = commits.map(build);
  const contenders = revisions.map(({ commit, subject, main }, i) =>
    isthmusContender('AB'[i]!, main, `${commit.slice(0, 12)} ${subject}`),
  );
  const report = reportOf(contenders, options, await measureAll(contenders, options));
  const body = report.rows.map((row) => [
    String(row.mtu),
    row.test,
    ...row.cells.map(({ median }) => cellText(row.main, median)),
    ratio(row, row.main),
    ratio(row, cpuFigure(row)),
  ]);
  publish(report, [...heading(report, 'Two commits'), ...table(['MTU', 'test', 'A', 'B', 'B/A', 'CPU B/A'], body)]);
  if (report.rows.some(({ cells }) => cells.some(({ median }) => median === undefined))) process.exitCode = 1;
}
