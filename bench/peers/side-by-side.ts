// `npm run bench:peers`: isthmus as this tree is, beside the other stacks that are installed.

import { spawnSync } from 'node:child_process';
import { accessSync, constants, copyFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { cacheFolder, projectRoot } from '../../scripts/project.ts';
import { ExitCode } from '../../src/host/exit-code.ts';
import { NOBODY } from './lab.ts';
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
  --passt FILE      this passt, wherever it is; also --slirp4netns FILE, --gvproxy FILE
${OPTIONS_HELP}

ISTHMUS_MAIN names a built daemon to be measured in the place of this tree's.`;

/** Where the others are, by kind: given, or found on the path. */
type Places = ReadonlyMap<StackKind, string>;

function versionOf(kind: StackKind, program: string): string {
  const { stdout, stderr } = spawnSync(program, [kind === 'gvproxy' ? '-version' : '--version'], { encoding: 'utf8' });
  const own = `${stdout}${stderr}`.trim().split('\n')[0] ?? '';
  if (program !== programPath(kind)) return `${own} (${program})`;
  const listed = spawnSync('dpkg-query', ['-W', kind], { encoding: 'utf8' });
  return listed.status === 0 ? `${own} (Debian ${listed.stdout.trim().split('\t')[1]})` : own;
}

/** The stacks that were asked for; without a wish those that are here. */
function chosen(peers: string | undefined, places: Places): StackKind[] {
  const known = (kind: StackKind): boolean => kind === 'isthmus' || places.has(kind);
  if (peers === undefined) {
    for (const kind of STACK_KINDS) if (!known(kind)) progress(`${kind} is not installed, and left out`);
    return STACK_KINDS.filter(known);
  }
  const wanted = namesOf('peers', peers, STACK_KINDS) as StackKind[];
  const missing = wanted.filter((kind) => !known(kind));
  if (missing.length > 0)
    throw new ToolError(
      `${missing.join(', ')}: not installed; install it, name its place with --${missing[0]} FILE, or leave it out of --peers`,
      ExitCode.Unavailable,
    );
  return wanted;
}

function contenderOf(kind: StackKind, places: Places): VersionedContender {
  const program = places.get(kind);
  if (program !== undefined) {
    const asNobody = spawnSync(program, ['--help'], { uid: NOBODY, gid: NOBODY, cwd: '/', stdio: 'ignore' });
    return { name: kind, kind, program, nobody: asNobody.error === undefined, version: versionOf(kind, program) };
  }
  const named = process.env.ISTHMUS_MAIN;
  if (named !== undefined && named !== '') return isthmusContender('isthmus', named);
  const folder = join(cacheFolder('peers'), 'dist');
  progress('building isthmus');
  const built = spawnSync('npm', ['run', '--silent', 'bundle', '--', folder], {
    cwd: projectRoot,
    encoding: 'utf8',
  });
  if (built.status !== 0) throw new Error(`the build failed: ${built.stderr.trim()}`);
  // It finds its version there.
  copyFileSync(join(projectRoot, 'package.json'), join(folder, '../package.json'));
  const revision = spawnSync('git', ['describe', '--always', '--dirty'], { cwd: projectRoot, encoding: 'utf8' });
  return isthmusContender('isthmus', join(folder, 'daemon/main.js'), revision.stdout?.trim());
}

const OTHERS = ['passt', 'slirp4netns', 'gvproxy'] as const;

function argumentsOf(args: readonly string[]) {
  const own = { peers: { type: 'string' }, passt: { type: 'string' }, slirp4netns: { type: 'string' } } as const;
  return parseArgs({ args: [...args], options: { ...OPTION_TYPES, ...own, gvproxy: { type: 'string' } } }).values;
}

/** @throws ToolError for a file that was given and is none to run */
function placesOf(values: ReturnType<typeof argumentsOf>): Places {
  const places = new Map<StackKind, string>();
  for (const kind of OTHERS) {
    const given = values[kind];
    const program = given === undefined ? programPath(kind) : resolve(given);
    if (program === undefined) continue;
    try {
      accessSync(program, constants.X_OK);
    } catch {
      throw new ToolError(`--${kind}: "${program}" cannot be run; expected the path of the program ${kind}`);
    }
    places.set(kind, program);
  }
  return places;
}

/** Runs it. @throws ToolError for what whoever started it can mend */
export async function sideBySide(args: readonly string[]): Promise<void> {
  let values: ReturnType<typeof argumentsOf>;
  let options: BenchOptions;
  try {
    values = argumentsOf(args);
    options = benchOptions(values);
  } catch (error) {
    if (error instanceof ToolError) throw error;
    throw new ToolError((error as Error).message.split('\n')[0]!);
  }
  if (values.help === true) {
    console.log(HELP);
    return;
  }
  const places = placesOf(values);
  const kinds = chosen(values.peers, places);
  requireMachine();
  const contenders = kinds.map((kind) => contenderOf(kind, places));
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
