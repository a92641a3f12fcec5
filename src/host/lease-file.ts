// Keeps leases and VPNKit identities over restarts: one JSON file in the state directory, times as wall-clock expiry.
// Loaded once, before the first VM; written shortly after a change, whole and atomically (temporary file, fsync, rename).
// A file that cannot be read is put aside and reported, never fatal, and the only copy of what was stored is never destroyed.
// It judges no record: that is the tables' business.

import { copyFileSync, existsSync, mkdirSync, readFileSync, renameSync } from 'node:fs';
import { open, rename, rm } from 'node:fs/promises';
import { dirname } from 'node:path';
import type { Clock } from '../base/clock.ts';

/** The lease table, as far as storing it goes. Times are what remains, in monotonic milliseconds. */
export interface StoredLeases {
  onChange: () => void;
  serialise(now: number): readonly { readonly remainingMs: number }[];
  /** @returns how many records were not taken. */
  restore(records: readonly unknown[], now: number): number;
}

/** The identity table; its changes are told by the lease table. */
export interface StoredIdentities {
  serialise(): unknown;
  restore(data: unknown): number;
}

export interface LeaseFileOptions {
  /** The file; its directory is made with mode 0700 if it is not there. */
  readonly path: string;
  readonly leases: StoredLeases;
  readonly identities: StoredIdentities;
  readonly clock: Clock;
  /** Milliseconds since 1970; Date.now if not given. */
  readonly wallClock?: () => number;
  /** From a change to the write that stores it and what follows; 250 ms if not given. */
  readonly delayMs?: number;
  /** One line about something that went wrong; the daemon goes on. */
  readonly report: (message: string) => void;
}

const FORMAT_VERSION = 1;
/** Files put aside are `.bad`, `.bad.2` up to this; then the last one is replaced. */
const MAX_ASIDE = 9;
const RETRY_MS = 5000;

function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

function isRecord(v: unknown): v is Record<string, unknown> {
  return typeof v === 'object' && v !== null && !Array.isArray(v);
}

export class LeaseFile {
  readonly #options: LeaseFileOptions;
  readonly #wallClock: () => number;
  #timer: NodeJS.Timeout | undefined;
  #writing: Promise<void> | undefined;
  #dirty = false;
  #closed = false;
  /** True when a file that we could not read lies at the path and could not be moved: nothing is written over it. */
  #blocked = false;
  #lastFailure = '';
  /** Successful and failed writes. */
  writes = 0;
  writeFailures = 0;

  constructor(options: LeaseFileOptions) {
    this.#options = options;
    this.#wallClock = options.wallClock ?? Date.now;
  }

  /** Reads the file into the tables and listens for changes from then on. Never throws. */
  load(): void {
    const { path, leases, report } = this.#options;
    try {
      mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
    } catch (error) {
      report(`lease file ${path}: its directory cannot be made, leases will not survive a restart: ${reasonOf(error)}`);
    }
    const text = this.#read();
    if (text !== undefined) this.#restore(text);
    leases.onChange = () => this.changed();
  }

  /** Something is worth storing: it will be, within a quarter of a second or so. */
  changed(): void {
    this.#dirty = true;
    if (this.#closed || this.#timer !== undefined || this.#writing !== undefined) return;
    this.#arm(this.#options.delayMs ?? 250);
  }

  /** Writes what is not yet written, and stops. Never rejects. */
  async close(): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#options.leases.onChange = () => {};
    await this.#writing;
    if (this.#dirty) await this.#write();
  }

  #arm(ms: number): void {
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      this.#writing = this.#write().finally(() => {
        this.#writing = undefined;
        if (this.#dirty && !this.#closed) {
          this.#arm(this.#lastFailure === '' ? (this.#options.delayMs ?? 250) : RETRY_MS);
        }
      });
    }, ms);
    this.#timer.unref();
  }

  #read(): string | undefined {
    const { path, report } = this.#options;
    try {
      return readFileSync(path, 'utf8');
    } catch (error) {
      const code = isRecord(error) ? error.code : undefined;
      // ENOTDIR has been reported with the directory.
      if (code !== 'ENOENT' && code !== 'ENOTDIR') {
        report(`lease file ${path} cannot be read (${reasonOf(error)})${this.#putAside()}`);
      }
      return undefined;
    }
  }

  #restore(text: string): void {
    const { path, leases, identities, clock, report } = this.#options;
    let data: unknown;
    try {
      data = JSON.parse(text);
    } catch (error) {
      report(`lease file ${path} is not JSON (${reasonOf(error)})${this.#putAside()}`);
      return;
    }
    if (!isRecord(data) || data.version !== FORMAT_VERSION || !Array.isArray(data.leases)) {
      report(`lease file ${path} is not of version ${FORMAT_VERSION} of the format${this.#putAside()}`);
      return;
    }
    const wall = this.#wallClock();
    const records = (data.leases as readonly unknown[]).map((r) => {
      if (!isRecord(r) || typeof r.expires !== 'string') return undefined;
      return { ...r, remainingMs: Date.parse(r.expires) - wall };
    });
    let refused = leases.restore(records, clock.now());
    if (data.identities !== undefined) refused += identities.restore(data.identities);
    if (refused === 0) return;
    // The next write leaves them out; so what they were is kept.
    const aside = this.#asideName();
    let kept = `, a copy of the file is ${aside}`;
    try {
      copyFileSync(path, aside);
    } catch (error) {
      kept = `, and no copy of the file could be made: ${reasonOf(error)}`;
    }
    report(`lease file ${path}: ${refused} entries do not fit this network or are malformed, and were left out${kept}`);
  }

  #asideName(): string {
    const base = `${this.#options.path}.bad`;
    if (!existsSync(base)) return base;
    for (let n = 2; n < MAX_ASIDE; n++) if (!existsSync(`${base}.${n}`)) return `${base}.${n}`;
    return `${base}.${MAX_ASIDE}`;
  }

  /** Moves the file out of the way. @returns the end of a report. */
  #putAside(): string {
    const aside = this.#asideName();
    try {
      renameSync(this.#options.path, aside);
      return `; it is kept as ${aside}, and leases start anew`;
    } catch (error) {
      this.#blocked = true;
      return `; it cannot be moved to ${aside} (${reasonOf(error)}), so it is left alone and leases will not be stored`;
    }
  }

  #text(): string {
    const { leases, identities, clock } = this.#options;
    const wall = this.#wallClock();
    const records = leases.serialise(clock.now()).map(({ remainingMs, ...rest }) => ({
      ...rest,
      // The range of a Date: a record that never ran keeps an expiry of long ago.
      expires: new Date(Math.max(0, Math.min(wall + remainingMs, 8.64e15))).toISOString(),
    }));
    const data = { version: FORMAT_VERSION, leases: records, identities: identities.serialise() };
    return `${JSON.stringify(data, undefined, 2)}\n`;
  }

  async #write(): Promise<void> {
    this.#dirty = false;
    if (this.#blocked) return;
    const { path, report } = this.#options;
    const temporary = `${path}.tmp`;
    try {
      const text = this.#text();
      // Never through a leftover or a link: the name is made afresh.
      await rm(temporary, { force: true });
      const file = await open(temporary, 'wx', 0o600);
      try {
        await file.writeFile(text);
        await file.sync();
      } finally {
        await file.close();
      }
      await rename(temporary, path);
      await syncDirectory(dirname(path));
      this.writes++;
      this.#lastFailure = '';
    } catch (error) {
      this.writeFailures++;
      this.#dirty = true;
      const reason = reasonOf(error);
      if (reason !== this.#lastFailure) report(`lease file ${path} cannot be written: ${reason}`);
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
