// Lets a child process run as an ordinary user when we are root, as the daemon is meant to: user and group `nobody`, no
// supplementary groups. Where that user cannot read the program (a clone under /root), what it needs is copied to a folder it can.

import { execFileSync, spawnSync } from 'node:child_process';
import { chownSync, cpSync, existsSync, mkdirSync, mkdtempSync, realpathSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, relative } from 'node:path';
import { daemonEntry, isRoot, projectRoot } from '../project.ts';

const NOBODY = 65_534;

/**
 * Arguments for env(1) before those of a node program: a test runner puts its own loader into NODE_OPTIONS of every child, even
 * when told another environment, and the daemon is to be measured without it (and may not be able to read it).
 */
export const WITHOUT_HOOKS: readonly string[] = ['-u', 'NODE_OPTIONS'];

/** How to start the daemon. */
export interface Launch {
  readonly node: string;
  readonly main: string;
  /** Set when the child is to change its user. */
  readonly user: { readonly uid: number; readonly gid: number } | Record<string, never>;
}

let launch: Launch | undefined;

/** Runs a node program as nobody. @returns true if it ended well. */
function runsAsNobody(node: string, args: readonly string[]): boolean {
  const options = { uid: NOBODY, gid: NOBODY, cwd: '/', stdio: 'ignore' } as const;
  return spawnSync('env', [...WITHOUT_HOOKS, node, ...args], options).status === 0;
}

/** Copies the compiled sources, the run-time packages and, if need be, node itself. */
function stage(node: string, main: string): Launch {
  const folder = mkdtempSync(join(tmpdir(), 'isthmus-stage-'));
  process.once('exit', () => rmSync(folder, { recursive: true, force: true }));
  const compiled = dirname(dirname(main));
  const home = join(folder, relative(projectRoot, compiled));
  cpSync(compiled, home, { recursive: true });
  cpSync(join(projectRoot, 'package.json'), join(folder, 'package.json'));
  const listing = execFileSync('npm', ['ls', '--omit=dev', '--all', '--parseable'], {
    cwd: projectRoot,
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  for (const path of listing.split('\n')) {
    const inside = relative(projectRoot, path);
    if (!inside.startsWith('node_modules/') || !existsSync(path)) continue;
    mkdirSync(dirname(join(folder, inside)), { recursive: true });
    cpSync(path, join(folder, inside), { recursive: true });
  }
  let program = node;
  if (!runsAsNobody(node, ['-e', '0'])) {
    program = join(folder, 'node');
    cpSync(realpathSync(node), program);
  }
  execFileSync('chmod', ['-R', 'a+rX', folder]);
  return { node: program, main: join(home, relative(compiled, main)), user: { uid: NOBODY, gid: NOBODY } };
}

/** Decided once per process. */
export function daemonLaunch(): Launch {
  if (launch !== undefined) return launch;
  const node = process.execPath;
  const main = daemonEntry();
  if (!existsSync(main)) throw new Error(`${main} is missing: run \`npm run build:test\` first`);
  if (!isRoot) launch = { node, main, user: {} };
  else if (runsAsNobody(node, ['-e', 'fs.accessSync(process.argv[1])', main]))
    launch = { node, main, user: { uid: NOBODY, gid: NOBODY } };
  else launch = stage(node, main);
  return launch;
}

/** Makes a folder the daemon's own. */
export function ownFolder(path: string): void {
  mkdirSync(path, { recursive: true, mode: 0o700 });
  if (isRoot) chownSync(path, NOBODY, NOBODY);
}
