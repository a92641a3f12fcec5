// Fetches Debian packages into a folder with apt-get, as any user, without installing them, and unpacks parts of them.
// Where the machine's own package lists are missing, it keeps lists of its own under `.cache/apt`.

import { execFile } from 'node:child_process';
import { mkdirSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { cacheFolder } from '../project.ts';

const run = promisify(execFile);

/** The machine cannot give us the packages (not Debian, no network): the reason is in the message. */
export class PackagesUnavailable extends Error {
  override name = 'PackagesUnavailable';
}

function ownLists(): string[] {
  const dir = cacheFolder('apt');
  for (const sub of ['state/lists/partial', 'cache/archives/partial']) mkdirSync(join(dir, sub), { recursive: true });
  return [
    '-o',
    `Dir::State=${dir}/state`,
    '-o',
    `Dir::Cache=${dir}/cache`,
    '-o',
    'Dir::State::status=/var/lib/dpkg/status',
  ];
}

/** apt with lists that know `probe`: the machine's own if they do, else our own after an update. */
export async function aptOptions(probe: string): Promise<string[]> {
  const knows = async (options: string[]): Promise<boolean> => {
    try {
      const { stdout } = await run('apt-cache', [...options, 'show', '--no-all-versions', probe]);
      return stdout.includes('Package:');
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT')
        throw new PackagesUnavailable('apt is not on this machine');
      return false;
    }
  };
  if (await knows([])) return [];
  const own = ownLists();
  if (await knows(own)) return own;
  try {
    await run('apt-get', [...own, '-q', 'update'], { timeout: 120_000 });
  } catch (error) {
    throw new PackagesUnavailable(`apt-get update failed: ${(error as Error).message.split('\n').at(-2) ?? ''}`);
  }
  if (await knows(own)) return own;
  throw new PackagesUnavailable(`no package source of this machine has ${probe}`);
}

/** The first package that `name` depends on whose name matches. */
export async function dependencyOf(name: string, pattern: RegExp, options: readonly string[]): Promise<string> {
  const { stdout } = await run('apt-cache', [...options, 'depends', name]);
  for (const line of stdout.split('\n')) {
    const found = /^\s*Depends:\s*(\S+)/.exec(line)?.[1];
    if (found !== undefined && pattern.test(found)) return found;
  }
  throw new PackagesUnavailable(`${name} depends on nothing that looks like ${pattern.source}`);
}

/** Downloads packages into `folder`. @returns the .deb files, in the order asked. */
export async function downloadPackages(
  names: readonly string[],
  folder: string,
  options: readonly string[],
): Promise<string[]> {
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  try {
    // As root apt would drop to its own user, who may not write here; the files are checked by signature either way.
    const sandbox = ['-o', 'APT::Sandbox::User=root'];
    await run('apt-get', [...options, ...sandbox, '-q', 'download', ...names], { cwd: folder, timeout: 180_000 });
  } catch (error) {
    throw new PackagesUnavailable(`apt-get download ${names.join(' ')} failed: ${(error as Error).message}`);
  }
  const files = readdirSync(folder);
  return names.map((name) => {
    const file = files.find((candidate) => candidate.startsWith(`${name}_`) && candidate.endsWith('.deb'));
    if (file === undefined) throw new PackagesUnavailable(`apt-get download gave no file for ${name}`);
    return join(folder, file);
  });
}

/** Unpacks the members of a .deb that match the shell patterns (`./boot/*`) into `folder`; no root needed. */
export async function unpackMembers(deb: string, patterns: readonly string[], folder: string): Promise<void> {
  mkdirSync(folder, { recursive: true });
  const quoted = patterns.map((pattern) => `'${pattern}'`).join(' ');
  const script = `set -o pipefail; dpkg-deb --fsys-tarfile "$1" | tar -x -C "$2" --wildcards --no-same-owner ${quoted}`;
  await run('bash', ['-c', script, 'unpack', deb, folder]);
}
