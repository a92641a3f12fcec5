// isthmus itself as a contender: which build, in which version, and whether an ordinary user can run it, as it is meant to.

import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { resolve } from 'node:path';
import { NOBODY } from './lab.ts';
import { ToolError } from './options.ts';
import type { VersionedContender } from './report.ts';
import { progress } from './session.ts';

/** @param path the daemon's entry, built */
export function isthmusContender(name: string, path: string, note?: string): VersionedContender {
  const main = resolve(path);
  if (!existsSync(main)) throw new ToolError(`${main} does not exist; expected a built daemon`);
  const ask = (user: object): ReturnType<typeof spawnSync> =>
    spawnSync(process.execPath, [main, 'version'], { ...user, cwd: '/', encoding: 'utf8' });
  const asNobody = ask({ uid: NOBODY, gid: NOBODY });
  const nobody = asNobody.status === 0;
  const { status, stdout, stderr } = nobody ? asNobody : ask({});
  if (status !== 0) throw new Error(`${main} does not run: ${String(stderr).trim().split('\n').at(-1)}`);
  if (!nobody) progress(`${name} runs as root: an ordinary user cannot read ${main}`);
  return { name, kind: 'isthmus', main, nobody, version: [String(stdout).trim(), note].filter(Boolean).join(', ') };
}
