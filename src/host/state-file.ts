// One small file that outlives the process, written whole and atomically (temporary file, fsync, rename) shortly after a change. A file
// that cannot be read is put aside and reported, never fatal, and the only copy of what was stored is never destroyed.
// What is in it is its owner's business: `lease-file` and `state-store`.

import { copyFileSync, existsSync, readFileSync, renameSync } from 'node:fs';
import { open, rename, rm } from 'node:fs/promises';
import { dirname } from 'node:path';
import { makeFolder } from './make-folder.ts';

export interface StateFileOptions {
  /** The file; its directory is made with mode 0700 if it is not there. */
  readonly path: string;
  /** For reports, e.g. `lease file`, */
  readonly name: string;
  /** and what is in it: `leases`. */
  readonly things: string;
  /** What is to be stored now. */
  readonly text: () => string;
  /** What `text` gave last is in the file, for good. */
  readonly onWritten?: () => void;
  /** From a change to the write that stores it and what follows; 250 ms if not given. */
  readonly delayMs?: number | undefined;
  /** The first change after a pause is written at once, for nothing else keeps it over a crash. */
  readonly eager?: boolean;
  /** One line about something that went wrong; the daemon goes on. */
  readonly report: (message: string) => void;
}

/** Files put aside are `.bad`, `.bad.2` up to this; then the last one is replaced. */
const MAX_ASIDE = 9;
const DELAY_MS = 250;
const RETRY_MS = 5000;

export function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

export class StateFile {
  readonly #options: StateFileOptions;
  #timer: NodeJS.Timeout | undefined;
  #writing: Promise<void> | undefined;
  #dirty = false;
  #closed = false;
  /** True when a file that we could not read lies at the path and could not be moved: nothing is written over it. */
  #blocked = false;
  #lastFailure = '';
  #writtenAt = Number.NEGATIVE_INFINITY;
  /** Successful and failed writes. */
  writes = 0;
  writeFailures = 0;

  constructor(options: StateFileOptions) {
    this.#options = options;
  }

  /** Makes the directory and reads the file. @returns undefined if there is none, or none that can be read. Never throws. */
  read(): string | undefined {
    const { path, name, things, report } = this.#options;
    try {
      makeFolder(dirname(path), 0o700);
    } catch (error) {
      report(`${name} ${path}: its directory cannot be made, ${things} will not survive a restart: ${reasonOf(error)}`);
    }
    try {
      return readFileSync(path, 'utf8');
    } catch (error) {
      const code = (error as NodeJS.ErrnoException | null)?.code;
      // ENOTDIR has been reported with the directory.
      if (code !== 'ENOENT' && code !== 'ENOTDIR') this.putAside(`cannot be read (${reasonOf(error)})`);
      return undefined;
    }
  }

  /** Moves a file that nothing can be made of out of the way, and reports it. */
  putAside(problem: string): void {
    const { path, name, things, report } = this.#options;
    const aside = this.#asideName();
    let end = `; it is kept as ${aside}, and ${things} start anew`;
    try {
      renameSync(path, aside);
    } catch (error) {
      this.#blocked = true;
      end = `; it cannot be moved to ${aside} (${reasonOf(error)}), so it is left alone and ${things} will not be stored`;
    }
    report(`${name} ${path} ${problem}${end}`);
  }

  /** Parts of the file were not taken, and the next write leaves them out: a copy keeps what they were. Reported. */
  keepCopy(problem: string): void {
    const { path, name, report } = this.#options;
    const aside = this.#asideName();
    let kept = `, a copy of the file is ${aside}`;
    try {
      copyFileSync(path, aside);
    } catch (error) {
      kept = `, and no copy of the file could be made: ${reasonOf(error)}`;
    }
    report(`${name} ${path}: ${problem}${kept}`);
  }

  /** Something is worth storing: it will be, within a quarter of a second or so. */
  changed(): void {
    this.#dirty = true;
    if (this.#closed || this.#timer !== undefined || this.#writing !== undefined) return;
    const { eager = false, delayMs = DELAY_MS } = this.#options;
    this.#arm(eager && performance.now() - this.#writtenAt > delayMs ? 0 : delayMs);
  }

  /** Writes what is not yet written, and stops. Never rejects. */
  async close(): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#timer);
    this.#timer = undefined;
    await this.#writing;
    if (this.#dirty) await this.#write();
  }

  #arm(ms: number): void {
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      this.#writing = this.#write().finally(() => {
        this.#writing = undefined;
        this.#writtenAt = performance.now();
        if (this.#dirty && !this.#closed) {
          this.#arm(this.#lastFailure === '' ? (this.#options.delayMs ?? DELAY_MS) : RETRY_MS);
        }
      });
    }, ms);
    this.#timer.unref();
  }

  #asideName(): string {
    const base = `${this.#options.path}.bad`;
    if (!existsSync(base)) return base;
    for (let n = 2; n < MAX_ASIDE; n++) if (!existsSync(`${base}.${n}`)) return `${base}.${n}`;
    return `${base}.${MAX_ASIDE}`;
  }

  async #write(): Promise<void> {
    this.#dirty = false;
    if (this.#blocked) return;
    const { path, name, report, text, onWritten } = this.#options;
    const temporary = `${path}.tmp`;
    try {
      const content = text();
      // Never through a leftover or a link: the name is made afresh.
      await rm(temporary, { force: true });
      const file = await open(temporary, 'wx', 0o600);
      try {
        await file.writeFile(content);
        await file.sync();
      } finally {
        await file.close();
      }
      await rename(temporary, path);
      await syncDirectory(dirname(path));
      this.writes++;
      this.#lastFailure = '';
      onWritten?.();
    } catch (error) {
      this.writeFailures++;
      this.#dirty = true;
      const reason = reasonOf(error);
      if (reason !== this.#lastFailure) report(`${name} ${path} cannot be written: ${reason}`);
      this.#lastFailure = reason;
    }
  }
}

/** Makes a rename last over a crash of the machine, where the file system can. */
async function syncDirectory(path: string): Promise<void> {
  try {
    const dir = await open(path, 'r');
    try {
      await dir.sync();
    } finally {
      await dir.close();
    }
  } catch (error) {
    if (!(error instanceof Error)) throw error;
  }
}
