// `npm run bench:peers`: isthmus as this tree is, beside the other stacks that are installed.

import { spawnSync } from 'node:child_process';
import { copyFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { cacheFolder, projectRoot } from '../../scripts/project.ts';
import { ExitCode } from '../../src/host/exit-code.ts';
import {
  type BenchOptions,
  benchOptions,
  namesOf,
  OPTION_TYPES,
  OPTIONS_HELP,
  programPath,
  requireMachine,
  ToolError,
} from './options.ts';
import { isthmusContender } from './own-build.ts';
import { cellText, heading, publish, reportOf, table, type VersionedContender } from './report.ts';
import { measureAll, progress } from './session.ts';
import { STACK_KINDS, type StackKind } from './stacks.ts';

const HELP = `Usage: npm run bench:peers -- [OPTIONS]

Measures isthmus beside passt, slirp4netns and gvproxy, as far as they are installed. The guest is a network
namespace behind a TAP device, the host another one; nothing else is reached. Needs root, iperf3 and cc.

  --peers LIST      of ${STACK_KINDS.join(', ')} (default: those that are installed)
${OPTIONS_HELP}

ISTHMUS_MAIN names a built daemon to be measured in the place of this tree's.`;

function versionOf(kind: StackKind): string {
  const { stdout, stderr } = spawnSync(kind, [kind === 'gvproxy' ? '-version' : '--version'], { encoding: 'utf8' });
  const own = `${stdout}${stderr}`.trim().split('\n')[0] ?? '';
  const listed = spawnSync('dpkg-query', ['-W', kind], { encoding: 'utf8' });
  return listed.status === 0 ? `${own} (Debian ${listed.stdout.trim().split('\t')[1]})` : own;
}

/** The stacks that were asked for; without a wish those that are here. */
function chosen(peers: string | undefined): StackKind[] {
  const known = (kind: StackKind): boolean => kind === 'isthmus' || programPath(kind) !== undefined;
  if (peers === undefined) {
    for (const kind of STACK_KINDS) if (!known(kind)) progress(`${kind} is not installed, and left out`);
    return STACK_KINDS.filter(known);
  }
  const wanted = namesOf('peers', peers, STACK_KINDS) as StackKind[];
  const missing = wanted.filter((kind) => !known(kind));
  if (missing.length > 0)
    throw new ToolError(
      `${missing.join(', ')}: not installed; install it or leave it out of --peers`,
      ExitCode.Unavailable,
    );
  return wanted;
}

function contenderOf(kind: StackKind): VersionedContender {
  if (kind !== 'isthmus') return { name: kind, kind, version: versionOf(kind) };
  const named = process.env.ISTHMUS_MAIN;
  if (named !== undefined && named !== '') return isthmusContender('isthmus', named);
  const folder = join(cacheFolder('peers'), 'dist');
  progress('building isthmus');
  const built = spawnSync('npm', ['run', '--silent', 'bundle', '--', `--outdir=${folder}`], {
    cwd: projectRoot,
    encoding: 'utf8',
  });
  if (built.status !== 0) throw new Error(`the build failed: ${built.stderr.trim()}`);
  // It finds its version there.
  copyFileSync(join(projectRoot, 'package.json'), join(folder, '../package.json'));
  const revision = spawnSync('git', ['describe', '--always', '--dirty'], { cwd: projectRoot, encoding: 'utf8' });
  return isthmusContender('isthmus', join(folder, 'daemon/main.js'), revision.stdout?.trim());
}

/** Runs it. @throws ToolError for what whoever started it can mend */
export async function sideBySide(args: readonly string[]): Promise<void> {
  let values: { peers?: string | undefined; help?: boolean | undefined };
  let options: BenchOptions;
  try {
    const parsed = parseArgs({ args: [...args], options: { ...OPTION_TYPES, peers: { type: 'string' } } });
    values = parsed.values;
    options = benchOptions(parsed.values);
  } catch (error) {
    if (error instanceof ToolError) throw error;
    throw new ToolError((error as Error).message.split('\n')[0]!);
  }
  if (values.help === true) {
    console.log(HELP);
    return;
  }
  const kinds = chosen(values.peers);
  requireMachine();
  const contenders = kinds.map(contenderOf);
  const report = reportOf(contenders, options, await measureAll(contenders, options));
  const body = report.rows.map(({ mtu, test, main, cells }) => [
    String(mtu),
    test,
    ...cells.map(({ median }) => cellText(main, median)),
  ]);
  publish(report, [
    ...heading(report, 'Stacks side by side'),
    ...table(['MTU', 'test', ...contenders.map(({ name }) => name)], body),
  ]);
  if (report.rows.some(({ cells }) => cells.some(({ median }) => median === undefined))) process.exitCode = 1;
}
