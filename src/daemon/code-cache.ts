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
import { basename, dirname, join } from 'node:path';
import { Script } from 'node:vm';

/** Set by whoever wants no cache, as for Node's own. */
const OFF = 'NODE_DISABLE_COMPILE_CACHE';
/** Each file begins with a comment of so many bytes that holds its hash (scripts/bundle.mjs), and so does its cache. */
const ID_BYTES = 64;
/** Then come the checksum of V8's data and zeroes, and the data, aligned as V8 wants it. */
const HEAD_BYTES = 72;

type Wrapped = (exports: object, require: NodeJS.Require, module: object, file: string, folder: string) => void;

/** What is used of `process`. */
export interface LoaderHost {
  readonly env: NodeJS.ProcessEnv;
  readonly execArgv: readonly string[];
  readonly sourceMapsEnabled: boolean;
}

/** Loads the CommonJS files that the program consists of, which may require each other. */
export class ProgramLoader {
  /** Files that were not compiled. */
  readonly fromCache: string[] = [];
  readonly #folder: string;
  readonly #outer: NodeJS.Require;
  readonly #inner: NodeJS.Require;
  /** Where caches may lie; the first that can be written to gets them. */
  readonly #caches: readonly string[];
  /** undefined: no cache is used. */
  readonly #user: number | undefined;
  /** Node's own options may change V8's flags: such a start takes what fits, and leaves what is there to the others. */
  readonly #saves: boolean;
  readonly #modules = new Map<string, { exports: object }>();
  readonly #uncached: { readonly file: string; readonly id: string; readonly script: Script }[] = [];

  /**
   * @param files names as they are required, e.g. `./program.js`; all others are left to `require`.
   * @param require that of a file in `folder`.
   * @param host `process`: its environment names the user's own cache folder.
   */
  constructor(folder: string, files: readonly string[], require: NodeJS.Require, host: LoaderHost) {
    const { env, execArgv, sourceMapsEnabled } = host;
    this.#folder = folder;
    this.#outer = require;
    const inner = (name: string): unknown => (files.includes(name) ? this.load(name) : require(name));
    this.#inner = Object.assign(inner, require);
    this.#caches = [folder, ...userFolder(env)];
    this.#saves = execArgv.length === 0 && !env.NODE_OPTIONS;
    // Source maps come with Node's own modules only.
    this.#user = env[OFF] || sourceMapsEnabled ? undefined : process.geteuid?.();
  }

  /** `module.exports` of one of the files. */
  load(name: string): unknown {
    if (this.#user === undefined) return this.#outer(name);
    const known = this.#modules.get(name);
    if (known !== undefined) return known.exports;
    const file = join(this.#folder, name);
    const source = readFileSync(file, 'latin1');
    const id = source.slice(0, ID_BYTES);
    let cachedData: Buffer | undefined;
    for (const folder of this.#caches) cachedData ??= read(join(folder, cacheName(file)), id, this.#user);
    // All in the first line, as Node's own wrapper has it: stack traces have the file's line numbers.
    const wrapped = `(function (exports, require, module, __filename, __dirname) {${source}\n})`;
    const script = new Script(wrapped, { filename: file, ...(cachedData && { cachedData }) });
    if (cachedData === undefined || script.cachedDataRejected) this.#uncached.push({ file, id, script });
    else this.fromCache.push(name);
    const module = { exports: {} };
    this.#modules.set(name, module);
    (script.runInThisContext() as Wrapped)(module.exports, this.#inner, module, file, this.#folder);
    return module.exports;
  }

  /** Makes the caches that were missing; to be called once what a start needs has been run. Never throws. */
  saveCaches(): void {
    for (const { file, id, script } of this.#saves ? this.#uncached.splice(0) : []) {
      const data = script.createCachedData();
      const head = Buffer.alloc(HEAD_BYTES, id, 'latin1').fill(0, ID_BYTES);
      head.writeInt32LE(checksum(data), ID_BYTES);
      const whole = Buffer.concat([head, data]);
      this.#caches.some((folder, i) => write(join(folder, cacheName(file)), whole, this.#user, i > 0));
    }
  }
}

/** `program-v20.20.2-x64.cache` of program.js. */
function cacheName(file: string): string {
  return `${basename(file, '.js')}-${process.version}-${process.arch}.cache`;
}

/** The cache folder of the user, for an installation that is root's. */
function userFolder({ XDG_CACHE_HOME: xdg, HOME: home }: NodeJS.ProcessEnv): string[] {
  if (xdg?.startsWith('/')) return [join(xdg, 'isthmus')];
  return home?.startsWith('/') ? [join(home, '.cache', 'isthmus')] : [];
}

/**
 * V8 looks at the length only, and damaged bytecode ends the process. One word of every 64 bytes finds blocks that a disk has lost; all words
 * would take 2 ms of the start, a hash of node:crypto as long to load.
 */
function checksum(data: Buffer): number {
  const words = new Int32Array(data.buffer, data.byteOffset, data.length >> 2);
  let a = data.length;
  let b = 0;
  for (let i = 0; i < words.length; i += 16) {
    a = (a + words[i]!) | 0;
    b = (b + a) | 0;
  }
  return a ^ (b << 1);
}

/** Whether only root and this user can change it. */
function isPrivate({ uid, mode }: Stats, user: number | undefined): boolean {
  return (uid === user || uid === 0) && (mode & 0o022) === 0;
}

/** V8's data, or undefined if there is none that is to be trusted and of this program. */
function read(path: string, id: string, user: number): Buffer | undefined {
  let fd: number | undefined;
  try {
    fd = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW);
    const stats = fstatSync(fd);
    if (!stats.isFile() || !isPrivate(stats, user) || !isPrivate(statSync(dirname(path)), user)) return undefined;
    const all = readFileSync(fd);
    const data = all.subarray(HEAD_BYTES);
    const whole = all.length > HEAD_BYTES && all.readInt32LE(ID_BYTES) === checksum(data);
    return whole && all.toString('latin1', 0, ID_BYTES) === id ? data : undefined;
  } catch {
    // Not there, mostly.
    return undefined;
  } finally {
    if (fd !== undefined) closeSync(fd);
  }
}

/** Writes beside its place and renames, so that no start reads half a cache. @returns whether it is there. */
function write(path: string, data: Buffer, user: number | undefined, makeFolder: boolean): boolean {
  const temporary = `${path}.${process.pid}`;
  try {
    if (makeFolder) mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
    if (!isPrivate(statSync(dirname(path)), user)) return false;
    const fd = openSync(temporary, 'wx', 0o644);
    try {
      writeFileSync(fd, data);
      fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
    renameSync(temporary, path);
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
