// Tells when something may have happened to a path: to the file or folder itself, to any symlink on the way to it, or, as long as a folder
// of it is missing, to what is there of it. A hint and no more: watches may be missing or late, so whoever relies on a file looks at it too.

import { type FSWatcher, readlinkSync, realpathSync, statSync, watch } from 'node:fs';
import { basename, dirname, resolve } from 'node:path';

/** Longest chain of symlinks that is followed; Linux itself gives up after 40. */
const HOPS_MAX = 16;
/** Stands for every name in a folder. */
const ANY = '*';

interface Watched {
  readonly watcher: FSWatcher;
  readonly inode: bigint;
  names: ReadonlySet<string>;
}

export class PathWatch {
  readonly #onEvent: () => void;
  readonly #folders = new Map<string, Watched>();

  constructor(onEvent: () => void) {
    this.#onEvent = onEvent;
  }

  /** Watches these paths as they lead now. To be called again after each event. @param inside entries of the folders at these paths too. */
  follow(paths: readonly string[], inside = false): void {
    const wanted = new Map<string, Set<string>>();
    for (const path of paths) walk(path, wanted, inside);
    for (const [folder, { watcher }] of this.#folders) {
      if (wanted.has(folder)) continue;
      watcher.close();
      this.#folders.delete(folder);
    }
    for (const [folder, names] of wanted) this.#watch(folder, names);
  }

  close(): void {
    for (const { watcher } of this.#folders.values()) watcher.close();
    this.#folders.clear();
  }

  #watch(folder: string, names: ReadonlySet<string>): void {
    const inode = inodeOf(folder);
    const old = this.#folders.get(folder);
    if (old !== undefined && old.inode === inode) {
      old.names = names;
      return;
    }
    old?.watcher.close();
    this.#folders.delete(folder);
    if (inode === undefined) return;
    try {
      // The folder, not the file: a file that is replaced or not there yet has no watch of its own.
      const watcher = watch(folder, { persistent: false });
      const watched: Watched = { watcher, inode, names };
      watcher.on('change', (_event, changed) => {
        const name = changed?.toString();
        // A folder that goes away is told under its own name.
        const ours =
          name === undefined || watched.names.has(name) || watched.names.has(ANY) || name === basename(folder);
        if (ours && this.#folders.get(folder) === watched) this.#onEvent();
      });
      watcher.on('error', () => this.#drop(folder, watched));
      this.#folders.set(folder, watched);
    } catch {
      // No watches left on this host, or gone meanwhile: looking at the file does it alone.
    }
  }

  #drop(folder: string, watched: Watched): void {
    watched.watcher.close();
    if (this.#folders.get(folder) === watched) this.#folders.delete(folder);
  }
}

/** Notes the folders on the way to a path, each with the names in it that matter. */
function walk(path: string, wanted: Map<string, Set<string>>, inside: boolean): void {
  let at = resolve(path);
  for (let hop = 0; hop < HOPS_MAX; hop++) {
    let name = basename(at);
    let folder = dirname(at);
    while (inodeOf(folder) === undefined && folder !== dirname(folder)) {
      name = basename(folder);
      folder = dirname(folder);
    }
    note(wanted, folder, name);
    if (folder !== dirname(at)) return;
    const target = targetOf(at);
    if (target === undefined) break;
    at = target;
  }
  if (inside && inodeOf(at) !== undefined) note(wanted, at, ANY);
}

function note(wanted: Map<string, Set<string>>, folder: string, name: string): void {
  const names = wanted.get(folder);
  if (names === undefined) wanted.set(folder, new Set([name]));
  else names.add(name);
}

function inodeOf(folder: string): bigint | undefined {
  try {
    const st = statSync(folder, { bigint: true });
    return st.isDirectory() ? st.ino : undefined;
  } catch {
    // Missing or not allowed: nothing to watch there.
    return undefined;
  }
}

/** Where a symlink leads; undefined if it is none. */
function targetOf(path: string): string | undefined {
  try {
    return resolve(realpathSync(dirname(path)), readlinkSync(path));
  } catch {
    // A file, or nothing.
    return undefined;
  }
}
