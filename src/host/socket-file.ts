// A unix socket in the file system: claimed at start, private (mode 0600), and unlinked at the end only if it is still ours.
// It owns the path, not the server: what is said over the socket is the caller's.
//
// The server is bound under a temporary name beside the path and then renamed over it. So a stale file is replaced in one step, nobody
// can connect before the mode is right, and libuv, which unlinks the name it bound whenever a server closes, can never
// unlink the socket of a daemon that has taken the path over since.

import { lstatSync, renameSync, type Stats, statSync, unlinkSync } from 'node:fs';
import { connect, type Server } from 'node:net';
import { basename, dirname, join } from 'node:path';
import { ExitCode } from './exit-code.ts';
import { errnoOf, OperatorError } from './operator-error.ts';

/** Longest path of a unix socket in bytes: `sun_path` less its final NUL. */
export const SOCKET_PATH_MAX_BYTES: number = process.platform === 'linux' ? 107 : 103;

/** How long a listener may take to answer the probe; longer means that somebody holds the socket but is busy. */
const PROBE_TIMEOUT_MS = 1000;
const NAME_TRIES = 16;
/** Connections that may wait to be accepted: the kernel takes its own limit (net.core.somaxconn), where Node.js by itself would ask for 511. */
const BACKLOG = 65_535;
const TEMPORARY_NAME_LENGTH = 12;
const NAME_ALPHABET = 'abcdefghijklmnopqrstuvwxyz0123456789';

interface Inode {
  readonly dev: number;
  readonly ino: number;
}

/** Every socket file of this process that is not released yet: what a crash has to unlink. */
const held = new Set<SocketFile>();

/** A socket file that this process listens on. */
export class SocketFile {
  readonly path: string;
  readonly #inode: Inode;

  constructor(path: string, inode: Inode) {
    this.path = path;
    this.#inode = inode;
    held.add(this);
  }

  /**
   * Unlinks the file if it is still the one we made. Synchronous, never throws, idempotent. Call it before the server is
   * closed: until then the kernel cannot give our inode number to another file.
   */
  release(): void {
    if (!held.delete(this)) return;
    try {
      if (sameInode(lstatSync(this.path), this.#inode)) unlinkSync(this.path);
    } catch {
      // Gone already, or in a directory that we may not write any more: nothing of ours can be taken away.
    }
  }
}

/** Unlinks all that this process still holds; for the end of the process, crashes included. */
export function releaseSocketFiles(): void {
  for (const file of held) file.release();
}

/**
 * Makes `server` listen on `path` with mode 0600. A stale socket file (nobody answers on it) is replaced. Afterwards
 * `server.address()` is the temporary name: use `path`.
 * @param key names the option in errors, e.g. `control` or `vm`.
 * @throws OperatorError ERR_SOCKET_IN_USE (69) if somebody answers there; ERR_SOCKET_NOT_A_SOCKET, ERR_SOCKET_DIRECTORY,
 *   ERR_SOCKET_PATH or ERR_SOCKET_ACCESS (73) if the file cannot be made.
 */
export async function listenOnSocketFile(server: Server, path: string, key: string): Promise<SocketFile> {
  const bytes = Buffer.byteLength(path);
  if (bytes > SOCKET_PATH_MAX_BYTES) {
    throw cannotCreate(
      key,
      path,
      'ERR_SOCKET_PATH',
      `is ${bytes} bytes long; a unix socket's path has at most ${SOCKET_PATH_MAX_BYTES}`,
    );
  }
  const stale = await probe(path, key);
  const bound = await listenUnderFreeName(server, path, key);
  try {
    // The probe is a moment old: what lies there now must be what it saw, or another daemon has just claimed the path.
    const now = statOrUndefined(path);
    if (now !== undefined && (stale === undefined || !sameInode(now, stale))) throw inUse(key, path);
    const inode = lstatSync(bound);
    renameSync(bound, path);
    return new SocketFile(path, inode);
  } catch (error) {
    server.close();
    throw error instanceof OperatorError ? error : refusal(key, path, error);
  }
}

/**
 * Decides whether `path` may be claimed.
 * @returns the stale socket that lies there, or undefined if nothing does.
 */
async function probe(path: string, key: string): Promise<Inode | undefined> {
  let found: Stats | undefined;
  try {
    found = statOrUndefined(path);
  } catch (error) {
    throw refusal(key, path, error);
  }
  if (found === undefined) return undefined;
  if (!found.isSocket()) {
    throw cannotCreate(
      key,
      path,
      'ERR_SOCKET_NOT_A_SOCKET',
      `exists and is ${kindOf(found)}, not a socket; name another path, or move it away`,
    );
  }
  const code = await new Promise<string | undefined>((resolve) => {
    const socket = connect({ path });
    socket.setTimeout(PROBE_TIMEOUT_MS, () =>
      socket.destroy(Object.assign(new Error('timeout'), { code: 'ETIMEDOUT' })),
    );
    socket.once('connect', () => {
      resolve(undefined);
      socket.destroy();
    });
    // Stays on: an error after the answer must not become an uncaught one.
    socket.on('error', (error) => resolve(errnoOf(error) ?? 'EIO'));
  });
  if (code === 'ECONNREFUSED') return found;
  if (code === 'ENOENT') return undefined;
  if (code === 'EACCES' || code === 'EPERM') {
    throw cannotCreate(
      key,
      path,
      'ERR_SOCKET_ACCESS',
      'is a socket of another user, and may be in use; name another path, or remove it as that user',
    );
  }
  // Connected; or EAGAIN, ETIMEDOUT (a full backlog) and EPROTOTYPE (a datagram socket): somebody is there.
  throw inUse(key, path);
}

/** Binds beside `path`, under a name as long as the limit allows: one of few letters could be that of another socket there. */
async function listenUnderFreeName(server: Server, path: string, key: string): Promise<string> {
  const room = SOCKET_PATH_MAX_BYTES - Buffer.byteLength(path) + Buffer.byteLength(basename(path));
  const length = Math.min(room, TEMPORARY_NAME_LENGTH);
  for (let attempt = 1; ; attempt++) {
    const name = temporaryName(dirname(path), path, length);
    if (basename(name) === basename(path)) continue;
    try {
      await listenPrivately(server, name);
      return name;
    } catch (error) {
      if (errnoOf(error) !== 'EADDRINUSE' || attempt === NAME_TRIES) throw refusal(key, path, error);
    }
  }
}

function temporaryName(directory: string, path: string, length: number): string {
  // Uniqueness is the kernel's to check (EADDRINUSE); nothing is secret about the name.
  const letters = Array.from({ length }, () => NAME_ALPHABET[Math.floor(Math.random() * NAME_ALPHABET.length)]!);
  if (length > 3) letters[0] = '.';
  // `join` would drop the "./" of a relative directory, which is fine, but `path` decides whether there was a directory at all.
  return path.includes('/') ? join(directory, letters.join('')) : letters.join('');
}

function listenPrivately(server: Server, path: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const onError = (error: Error) => reject(error);
    server.once('error', onError);
    // `listen` binds before it returns, so the umask covers exactly the creation of the file.
    const umask = process.umask(0o177);
    try {
      server.listen({ path, backlog: BACKLOG }, () => {
        server.off('error', onError);
        resolve();
      });
    } finally {
      process.umask(umask);
    }
  });
}

function statOrUndefined(path: string): Stats | undefined {
  try {
    return lstatSync(path);
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return undefined;
    throw error;
  }
}

function sameInode(a: Inode, b: Inode): boolean {
  return a.ino === b.ino && a.dev === b.dev;
}

function kindOf(stats: Stats): string {
  if (stats.isDirectory()) return 'a directory';
  if (stats.isSymbolicLink()) return 'a symbolic link';
  if (stats.isFile()) return 'a regular file';
  return 'a special file';
}

function inUse(key: string, path: string): OperatorError {
  return new OperatorError(
    `${key}: ${path} is in use: another process answers on it; end that one, or name another path`,
    {
      code: 'ERR_SOCKET_IN_USE',
      exitCode: ExitCode.Unavailable,
    },
  );
}

function cannotCreate(key: string, path: string, code: string, wrong: string, cause?: unknown): OperatorError {
  return new OperatorError(`${key}: ${path} ${wrong}`, { code, exitCode: ExitCode.CannotCreate, cause });
}

function refusal(key: string, path: string, error: unknown): OperatorError {
  const directory = dirname(path);
  // libuv tells a bind in a missing directory as EACCES.
  switch (errnoOf(error) === 'EACCES' && isMissing(directory) ? 'ENOENT' : errnoOf(error)) {
    case 'ENOENT':
    case 'ENOTDIR':
      return cannotCreate(
        key,
        path,
        'ERR_SOCKET_DIRECTORY',
        `cannot be made: there is no directory ${directory}; create it first`,
        error,
      );
    case 'EACCES':
    case 'EPERM':
    case 'EROFS':
      return cannotCreate(
        key,
        path,
        'ERR_SOCKET_ACCESS',
        `cannot be made: no right to write to ${directory}; name a path in a directory of your own`,
        error,
      );
    default:
      return cannotCreate(
        key,
        path,
        'ERR_SOCKET_PATH',
        `cannot be made: ${error instanceof Error ? error.message : String(error)}`,
        error,
      );
  }
}

function isMissing(directory: string): boolean {
  try {
    return !statSync(directory).isDirectory();
  } catch (error) {
    return errnoOf(error) === 'ENOENT' || errnoOf(error) === 'ENOTDIR';
  }
}
