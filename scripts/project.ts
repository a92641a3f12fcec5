// Where things lie: the project's root, its cache and its compiled output, found from the running file, so that the same
// code works from any working directory. Owns no behaviour beyond that.

import { existsSync, mkdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

function findRoot(): string {
  let dir = dirname(fileURLToPath(import.meta.url));
  while (!existsSync(join(dir, 'package-lock.json'))) {
    const up = dirname(dir);
    if (up === dir) throw new Error('the project root (the folder with package-lock.json) was not found');
    dir = up;
  }
  return dir;
}

/** The folder that holds package.json. */
export const projectRoot: string = findRoot();

/** A folder under `.cache/`, made if missing. */
export function cacheFolder(name: string): string {
  const dir = join(projectRoot, '.cache', name);
  mkdirSync(dir, { recursive: true });
  return dir;
}

/** The daemon's entry in the tree this file was compiled into; `ISTHMUS_MAIN` names another one (an installed build). */
export function daemonEntry(): string {
  const named = process.env.ISTHMUS_MAIN;
  if (named !== undefined && named !== '') return named;
  return fileURLToPath(new URL('../src/daemon/main.js', import.meta.url));
}

/** True when running as root. */
export const isRoot: boolean = process.getuid?.() === 0;
