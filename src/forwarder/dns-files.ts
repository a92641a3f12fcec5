// The text files that DNS follows (resolv.conf, hosts, resolver files) and folders of them, read when they change: also when replaced,
// removed, created later with their folders, or when the target of a symlink is. A watch is the quick way and may be missing; a stat, when
// asked and at most twenty times a second, is the sure one.

import { existsSync, readdirSync, readFileSync, realpathSync, statSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import type { Millis } from '../base/clock.ts';
import { PathWatch } from './path-watch.ts';

/** A look costs a few microseconds: not at each of 100,000 queries a second, yet soon enough that nobody notices. */
export const CHECK_MS = 50;
/** A file larger than this is no such file. */
const FILE_MAX_BYTES = 64 * 1024 * 1024;
/** Files of a folder that are read at most. */
const FOLDER_MAX = 256;
/** Texts up to this length are kept for comparison: an editor's touch is no change of what they say. */
const COMPARED_MAX = 64 * 1024;
/** Kernels count a file's times in steps of some milliseconds: one this young may change again under the same stamp. */
const YOUNG_MS = 100;

/** When it is time to look again, and whether the look must be thorough. */
class Looks {
  #dirty = true;
  #nextAt: Millis = 0;

  mark(): void {
    this.#dirty = true;
  }

  /** @returns undefined: not now; else whether something is known to have happened. */
  due(now: Millis, force: boolean): boolean | undefined {
    if (!force && !this.#dirty && now < this.#nextAt) return undefined;
    const dirty = this.#dirty || force;
    this.#dirty = false;
    this.#nextAt = now + CHECK_MS;
    return dirty;
  }
}

/** One watched text file. */
export class WatchedFile {
  readonly path: string;
  /** The file that was read last: `path`, or what stands in for it. */
  readFrom: string;
  readonly #onText: (text: string | undefined) => void;
  readonly #onSame: () => void;
  readonly #standIn: (path: string) => string;
  readonly #looks = new Looks();
  readonly #watch: PathWatch;
  #started = false;
  #stamp: string | undefined = undefined;
  #read = false;
  #young = false;
  #text: string | undefined = undefined;
  #compared = false;

  /**
   * @param path empty for no file.
   * @param onText the file's text after each change, undefined when there is no readable file.
   * @param onEvent something happened to it: `check` is worth calling soon.
   * @param standIn the file to read in its place, as things are now.
   * @param onSame it was written anew or replaced, and says what it said before.
   */
  constructor(
    path: string,
    onText: (text: string | undefined) => void,
    onEvent: () => void,
    standIn: (path: string) => string = (p) => p,
    onSame: () => void = () => {},
  ) {
    this.path = path;
    this.readFrom = path;
    this.#onText = onText;
    this.#onSame = onSame;
    this.#standIn = standIn;
    this.#watch = new PathWatch(() => {
      this.#looks.mark();
      onEvent();
    });
  }

  /** Reads the file and begins to watch. */
  start(now: Millis): void {
    this.#started = true;
    this.check(now, true);
  }

  /** Reads the file again if it has changed; looks at most every 50 ms, or at once after an event or by `force`. */
  check(now: Millis, force = false): void {
    if (!this.#started) return;
    const dirty = this.#looks.due(now, force);
    if (dirty === undefined) return;
    const path = this.path === '' ? '' : this.#standIn(this.path);
    if (dirty) this.#follow(path);
    const stamp = this.#look(path);
    // A text that is too long to be compared is read again only for its stamp.
    if (this.#read && !this.#young && stamp?.text === this.#stamp && !(dirty && this.#compared)) return;
    const another = this.#read && stamp?.text !== this.#stamp;
    this.#read = true;
    this.readFrom = path;
    if (another && !dirty) this.#follow(path);
    this.#stamp = stamp?.text;
    this.#young = stamp?.young ?? false;
    const text = stamp === undefined ? undefined : read(path);
    // Gone or unreadable between stat and read: the same as not being there, until it changes again.
    if (text === undefined) this.#stamp = undefined;
    if (this.#compared && text === this.#text) {
      if (another && text !== undefined) this.#onSame();
      return;
    }
    this.#compared = text === undefined || text.length <= COMPARED_MAX;
    this.#text = this.#compared ? text : undefined;
    this.#onText(text);
  }

  close(): void {
    this.#started = false;
    this.#watch.close();
  }

  #follow(path: string): void {
    if (this.path !== '') this.#watch.follow([this.path, path]);
  }

  /** Follows symlinks, so a target that is replaced shows. */
  #look(path: string): { readonly text: string; readonly young: boolean } | undefined {
    const st = stampOf(path);
    return st === undefined ? undefined : { text: `${path} ${st.text}`, young: Date.now() - st.changedMs < YOUNG_MS };
  }
}

/** Every file of a folder. */
export class WatchedFolder {
  readonly path: string;
  readonly #onTexts: (texts: ReadonlyMap<string, string>) => void;
  readonly #looks = new Looks();
  readonly #watch: PathWatch;
  #started = false;
  #stamp: string | undefined = undefined;

  /**
   * @param path empty for no folder.
   * @param onTexts texts by file name after each change; none where there is no folder.
   */
  constructor(path: string, onTexts: (texts: ReadonlyMap<string, string>) => void, onEvent: () => void) {
    this.path = path;
    this.#onTexts = onTexts;
    this.#watch = new PathWatch(() => {
      this.#looks.mark();
      onEvent();
    });
  }

  start(now: Millis): void {
    this.#started = this.path !== '';
    this.check(now, true);
  }

  /** As of WatchedFile. */
  check(now: Millis, force = false): void {
    if (!this.#started) return;
    const dirty = this.#looks.due(now, force);
    if (dirty === undefined) return;
    if (dirty) this.#watch.follow([this.path], true);
    const names = this.#names();
    const stamps = names.map((name) => stampOf(join(this.path, name)));
    const stamp = names.map((name, i) => `${name} ${stamps[i]?.text}`).join('\n');
    const young = stamps.some((s) => s !== undefined && Date.now() - s.changedMs < YOUNG_MS);
    if (!dirty && stamp === this.#stamp) return;
    // One that is young is read again at the next look.
    this.#stamp = young ? undefined : stamp;
    const texts = new Map<string, string>();
    for (const [i, name] of names.entries()) {
      const text = stamps[i] === undefined ? undefined : read(join(this.path, name));
      if (text !== undefined) texts.set(name, text);
    }
    this.#onTexts(texts);
  }

  close(): void {
    this.#started = false;
    this.#watch.close();
  }

  #names(): string[] {
    try {
      return readdirSync(this.path).sort().slice(0, FOLDER_MAX);
    } catch {
      // No such folder: no files.
      return [];
    }
  }
}

/**
 * Where a resolv.conf is a link to the servers behind systemd-resolved, the file that names its stub, which alone knows which server is
 * for which domain. A file that is named directly is taken at its word.
 */
export function preferStub(path: string): string {
  try {
    const real = realpathSync(path);
    if (real === resolve(path) || !real.endsWith('/run/systemd/resolve/resolv.conf')) return path;
    const stub = join(dirname(real), 'stub-resolv.conf');
    return existsSync(stub) ? stub : path;
  } catch {
    // Not there, or a loop of links.
    return path;
  }
}

function stampOf(path: string): { readonly text: string; readonly changedMs: number } | undefined {
  try {
    const st = statSync(path, { bigint: true });
    if (!st.isFile() || st.size > FILE_MAX_BYTES) return undefined;
    const text = `${st.dev}:${st.ino}:${st.size}:${st.mtimeNs}:${st.ctimeNs}`;
    return { text, changedMs: Number(st.ctimeNs / 1_000_000n) };
  } catch {
    // Not there, not allowed, a loop of links: whatever it is, there is no file to read.
    return undefined;
  }
}

function read(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return undefined;
  }
}
