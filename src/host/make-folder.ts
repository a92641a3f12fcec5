// Makes a folder with those above it. Node's own `recursive: true` (at least 20.20) never comes back where the system answers ENOENT for
// a folder whose parent exists, as /proc does: whoever may name a path could stop the daemon.

import { mkdirSync, statSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { errnoOf } from './operator-error.ts';

/** @param mode of those that are made. @throws the system's error. */
export function makeFolder(path: string, mode = 0o777): void {
  const missing: string[] = [];
  let at = resolve(path);
  while (!madeOrThere(at, mode, dirname(at) !== at)) {
    missing.push(at);
    at = dirname(at);
  }
  for (const next of missing.reverse()) madeOrThere(next, mode, false);
}

/** @returns false where the folder above is missing, too, if that `mayMiss`. */
function madeOrThere(path: string, mode: number, mayMiss: boolean): boolean {
  try {
    mkdirSync(path, { mode });
    return true;
  } catch (error) {
    const code = errnoOf(error);
    if (mayMiss && code === 'ENOENT') return false;
    if (code === 'EEXIST' && statSync(path).isDirectory()) return true;
    throw error;
  }
}
