// V8's code cache for the program file: the bytecode of the functions that a start has used, read back at the next start, so that it
// compiles nothing. It owns where that lies and whom it trusts; a start without a cache is slower, and no different.
//
// Bytecode is run unchecked, so a cache is code. It is read and written only in folders, and as files, that nobody but root and the user of
// this process can write to, and it names the program that it was made from. V8 refuses bytecode of another version or other flags.

import {
  closeSync,
  constants,
  fstatSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  type Stats,
  statSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { createRequire } from 'node:module';
import { basename, dirname, join } from 'node:path';
import { Script } from 'node:vm';

/** Set by whoever wants no cache, as for Node's own. */
const OFF = 'NODE_DISABLE_COMPILE_CACHE';
/** The first line of a program is a comment of so many bytes with its hash (scripts/bundle.mjs); a cache begins with it. */
export const PROGRAM_ID_BYTES = 64;

/** A program that was loaded. */
export interface LoadedProgram {
  /** Its `module.exports`. */
  readonly exports: unknown;
  /** Makes the cache if there is none that fits; to be called once all that a start needs has been run. Never throws. */
  readonly saveCache: () => void;
}

type ProgramFunction = (exports: object, require: NodeJS.Require, module: object, file: string, folder: string) => void;

/** Runs a CommonJS file through the cache. @param env names the user's own cache folder. */
export function loadProgram(file: string, env: NodeJS.ProcessEnv): LoadedProgram {
  const require = createRequire(file);
  const uid = process.geteuid?.();
  // Source maps come with modules only.
  if (uid === undefined || env[OFF] || process.sourceMapsEnabled)
    return { exports: require(file), saveCache: () => {} };

  const source = readFileSync(file, 'latin1');
  const id = source.slice(0, PROGRAM_ID_BYTES);
  const name = `${basename(file, '.js')}-${process.version}-${process.arch}.cache`;
  const folders = [dirname(file), ...userFolder(env)];
  let cachedData: Buffer | undefined;
  for (const folder of folders) cachedData ??= read(folder, name, id, uid);
  // All in the first line, as Node's own wrapper has it: stack traces have the file's line numbers.
  const wrapped = `(function (exports, require, module, __filename, __dirname) {${source}\n})`;
  const script = new Script(wrapped, { filename: file, ...(cachedData && { cachedData }) });
  const module = { exports: {} };
  (script.runInThisContext() as ProgramFunction)(module.exports, require, module, file, dirname(file));
  const fits = cachedData !== undefined && script.cachedDataRejected !== true;
  const saveCache = (): void => {
    if (fits) return;
    const data = Buffer.concat([Buffer.from(id, 'latin1'), script.createCachedData()]);
    folders.some((folder, i) => write(folder, name, data, uid, i > 0));
  };
  return { exports: module.exports, saveCache };
}

/** The cache folder of the user, for an installation that is root's. */
function userFolder({ XDG_CACHE_HOME: xdg, HOME: home }: NodeJS.ProcessEnv): string[] {
  if (xdg?.startsWith('/')) return [join(xdg, 'isthmus')];
  return home?.startsWith('/') ? [join(home, '.cache', 'isthmus')] : [];
}

/** Whether only root and this user can change it. */
function isPrivate({ uid, mode }: Stats, user: number): boolean {
  return (uid === user || uid === 0) && (mode & 0o022) === 0;
}

/** V8's data, or undefined if there is none that is to be trusted and of this program. */
function read(folder: string, name: string, id: string, user: number): Buffer | undefined {
  let fd: number | undefined;
  try {
    fd = openSync(join(folder, name), constants.O_RDONLY | constants.O_NOFOLLOW);
    const stats = fstatSync(fd);
    if (!stats.isFile() || !isPrivate(stats, user) || !isPrivate(statSync(folder), user)) return undefined;
    const all = readFileSync(fd);
    return all.toString('latin1', 0, PROGRAM_ID_BYTES) === id ? all.subarray(PROGRAM_ID_BYTES) : undefined;
  } catch {
    // Not there, mostly.
    return undefined;
  } finally {
    if (fd !== undefined) closeSync(fd);
  }
}

/** Writes beside its place and renames, so that no start reads half a cache. @returns whether it is there. */
function write(folder: string, name: string, data: Buffer, user: number, make: boolean): boolean {
  const temporary = join(folder, `.${name}.${process.pid}`);
  try {
    if (make) mkdirSync(folder, { recursive: true, mode: 0o700 });
    if (!isPrivate(statSync(folder), user)) return false;
    const fd = openSync(temporary, 'wx', 0o644);
    try {
      writeFileSync(fd, data);
      fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
    renameSync(temporary, join(folder, name));
    return true;
  } catch {
    // A read-only installation, a full disk: the next start is as slow as this one.
    try {
      unlinkSync(temporary);
    } catch {
      // It was not made.
    }
    return false;
  }
}
