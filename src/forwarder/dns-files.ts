// The host's resolv.conf and hosts file, read when they change: also when replaced, removed, created later, or when the target of
// a symlink is. The folder's watch is the quick way and may be missing; a stat, when asked and at most twenty times a second, is the sure one.

import { type FSWatcher, readFileSync, statSync, watch } from 'node:fs';
import { basename, dirname } from 'node:path';
import type { Millis } from '../base/clock.ts';

/** A look costs microseconds: not at each of 100,000 queries a second, yet soon enough that nobody notices. */
const CHECK_MS = 50;
/** A file larger than this is no such file. */
const FILE_MAX_BYTES = 64 * 1024 * 1024;

/** One watched text file. */
export class WatchedFile {
  readonly path: string;
  readonly #onText: (text: string | undefined) => void;
  readonly #onEvent: () => void;
  #watcher: FSWatcher | undefined;
  #stamp: string | undefined = undefined;
  #read = false;
  #dirty = false;
  #nextCheckAt: Millis = 0;

  /**
   * @param path empty for no file.
   * @param onText the file's text after each change, undefined when there is no readable file.
   * @param onEvent something happened in the folder: `check` is worth calling soon.
   */
  constructor(path: string, onText: (text: string | undefined) => void, onEvent: () => void) {
    this.path = path;
    this.#onText = onText;
    this.#onEvent = onEvent;
  }

  /** Reads the file and begins to watch. */
  start(now: Millis): void {
    if (this.path !== '') this.#watch();
    this.#dirty = true;
    this.check(now);
  }

  #watch(): void {
    try {
      const name = basename(this.path);
      // The folder, not the file: a file that is replaced or not there yet has no watch of its own.
      const watcher = watch(dirname(this.path), { persistent: false }, (_event, changed) => {
        if (changed !== null && changed !== name) return;
        this.#dirty = true;
        this.#onEvent();
      });
      watcher.on('error', () => this.#unwatch());
      this.#watcher = watcher;
    } catch {
      // No folder, or no watches left on this host: the stat in `check` does it alone.
      this.#watcher = undefined;
    }
  }

  /** Reads the file again if it has changed; looks at most every 50 ms, or at once after an event or by `force`. */
  check(now: Millis, force = false): void {
    if (!force && !this.#dirty && now < this.#nextCheckAt) return;
    this.#dirty = false;
    this.#nextCheckAt = now + CHECK_MS;
    const stamp = this.#currentStamp();
    if (this.#read && stamp === this.#stamp) return;
    this.#read = true;
    this.#stamp = stamp;
    this.#onText(stamp === undefined ? undefined : this.#text());
  }

  close(): void {
    this.#unwatch();
  }

  /** Follows symlinks, so a target that is replaced shows. */
  #currentStamp(): string | undefined {
    try {
      const st = statSync(this.path, { bigint: true });
      if (!st.isFile() || st.size > FILE_MAX_BYTES) return undefined;
      return `${st.dev}:${st.ino}:${st.size}:${st.mtimeNs}:${st.ctimeNs}`;
    } catch {
      // Not there, not allowed, a loop of links: whatever it is, there is no file to read.
      return undefined;
    }
  }

  #text(): string | undefined {
    try {
      return readFileSync(this.path, 'utf8');
    } catch {
      // Gone or unreadable between stat and read: the same as not being there, until it changes again.
      this.#stamp = undefined;
      return undefined;
    }
  }

  #unwatch(): void {
    this.#watcher?.close();
    this.#watcher = undefined;
  }
}
