// A commit of this repository, checked out into a worktree of its own under .cache/compare and built there. Packages are those of
// this tree where the lock file is the same, or else installed. Owns the worktree and its end.

import { spawnSync } from 'node:child_process';
import { existsSync, lstatSync, mkdirSync, readFileSync, renameSync, rmSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { cacheFolder, projectRoot } from '../../scripts/project.ts';
import { ToolError } from '../peers/options.ts';
import { progress } from '../peers/session.ts';

/** A built commit. */
export interface Revision {
  readonly commit: string;
  readonly subject: string;
  /** The daemon's entry. */
  readonly main: string;
}

const LOCK = 'package-lock.json';
const BUILD_LIMIT_MS = 600_000;

function run(command: string, args: readonly string[], folder: string): string {
  const ran = spawnSync(command, args, { cwd: folder, encoding: 'utf8', timeout: BUILD_LIMIT_MS });
  if (ran.error !== undefined) throw ran.error;
  if (ran.status === 0) return ran.stdout.trim();
  const said = `${ran.stdout}\n${ran.stderr}`.trim().split('\n').slice(-5).join('\n');
  throw new Error(`${command} ${args.join(' ')} in ${folder} ended with ${ran.signal ?? ran.status}:\n${said}`);
}

function git(...args: string[]): string {
  return run('git', args, projectRoot);
}

/** The full name of what the user called a commit. @throws ToolError */
export function commitOf(name: string): string {
  try {
    return git('rev-parse', '--verify', '--quiet', '--end-of-options', `${name}^{commit}`);
  } catch {
    throw new ToolError(`"${name}" is no commit of this repository; expected e.g. HEAD~1, a branch or a hash`);
  }
}

const worktrees = new Set<string>();

/** Removes every worktree that was made. */
export function removeWorktrees(): void {
  for (const folder of worktrees) {
    worktrees.delete(folder);
    rmSync(folder, { recursive: true, force: true });
    spawnSync('git', ['worktree', 'remove', '--force', folder], { cwd: projectRoot, stdio: 'ignore' });
  }
}

function sameFile(a: string, b: string): boolean {
  return existsSync(a) && existsSync(b) && readFileSync(a).equals(readFileSync(b));
}

/** False for a kept build that borrowed the packages of this tree, which are others by now. */
function packagesHold(kept: string): boolean {
  return !lstatSync(join(kept, 'node_modules')).isSymbolicLink() || sameFile(join(kept, LOCK), join(projectRoot, LOCK));
}

/** Builds a commit, unless that was done before: what is kept, under the commit's name, is what it takes to run. */
export function build(commit: string): Revision {
  const subject = git('show', '--no-patch', '--format=%s', commit);
  const short = commit.slice(0, 12);
  const kept = join(cacheFolder('compare'), short);
  const main = join(kept, 'dist/daemon/main.js');
  const folder = join(cacheFolder('compare'), `${short}-${process.pid}`);
  if (existsSync(main) && packagesHold(kept)) return { commit, subject, main };
  progress(`building ${short} ${subject}`);
  worktrees.add(folder);
  git('worktree', 'add', '--detach', '--force', folder, commit);
  const shared = sameFile(join(folder, LOCK), join(projectRoot, LOCK));
  if (shared) symlinkSync(join(projectRoot, 'node_modules'), join(folder, 'node_modules'));
  else {
    progress(`${short} has another ${LOCK}: npm ci`);
    run('npm', ['ci', '--no-audit', '--no-fund', '--loglevel=error'], folder);
  }
  run('npm', ['run', '--silent', 'build'], folder);
  rmSync(kept, { recursive: true, force: true });
  mkdirSync(kept, { recursive: true });
  for (const name of ['package.json', LOCK, 'node_modules', 'dist']) renameSync(join(folder, name), join(kept, name));
  removeWorktrees();
  return { commit, subject, main };
}
