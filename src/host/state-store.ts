// Tables of plain JSON values that outlive the process, kill -9 included: forwards, DNS records. Each change is appended to a journal before
// the call returns, so it survives the end of the process at any moment; a quarter of a second later the whole is in the state file,
// synced, and the journal starts anew. Lines carry a number that the file names too: none is applied twice, whatever broke in between.
//
//   state-….json           { version, seq, tables: { NAME: [[key, value], …] } }, atomically replaced
//   state-….json.journal   { s: seq, t: table, k: key, v: value }, without v: deleted; what the file does not have yet
//   state-….json.lock      a listening socket: two daemons never write one state

import { closeSync, ftruncateSync, openSync, readFileSync, renameSync, writeFileSync, writeSync } from 'node:fs';
import { createServer, type Server } from 'node:net';
import { basename, dirname } from 'node:path';
import { errnoOf } from './operator-error.ts';
import { listenOnSocketFile, SOCKET_PATH_MAX_BYTES, type SocketFile } from './socket-file.ts';
import { reasonOf, StateFile } from './state-file.ts';

export interface StateStoreOptions {
  /** Undefined: in memory only. */
  readonly path: string | undefined;
  /** From a change to the write of the whole; 250 ms if not given. */
  readonly delayMs?: number;
  /** One line about something that went wrong; the daemon goes on. */
  readonly report: (message: string) => void;
}

const FORMAT_VERSION = 1;

/** One table. Values are JSON values, and not changed by whoever has set or read them. */
export class StateTable {
  readonly #values = new Map<string, unknown>();
  readonly #append: (key: string, value: unknown) => void;

  /** @param append writes a change down, or throws; `undefined` for the value: deleted. */
  constructor(append: (key: string, value: unknown) => void) {
    this.#append = append;
  }

  get size(): number {
    return this.#values.size;
  }

  /** In the order in which the keys came. */
  entries(): IterableIterator<[string, unknown]> {
    return this.#values.entries();
  }

  get(key: string): unknown {
    return this.#values.get(key);
  }

  /** Stored when it returns. @throws the system's error when it cannot be; then nothing has changed. */
  set(key: string, value: unknown): void {
    this.#append(key, value);
    this.#values.set(key, value);
  }

  /** Idempotent. @throws as `set` */
  delete(key: string): void {
    if (!this.#values.has(key)) return;
    this.#append(key, undefined);
    this.#values.delete(key);
  }

  /** What was stored before; not written again. */
  load(key: string, value: unknown): void {
    if (value === undefined) this.#values.delete(key);
    else this.#values.set(key, value);
  }
}

export class StateStore {
  readonly #options: StateStoreOptions;
  readonly #file: StateFile | undefined;
  readonly #tables = new Map<string, StateTable>();
  /** Of the last change, of the last one in the text that is being written, and of the last one in the file. */
  #seq = 0;
  #textSeq = 0;
  #fileSeq = 0;
  /** Journal lines since the text that is being written was made. */
  #since: string[] = [];
  #journal: number | undefined;
  /** The journal ends in the middle of a line. */
  #broken = false;
  /** Another daemon has the file. */
  #memoryOnly = false;
  #lock: Server | undefined;
  #lockFile: SocketFile | undefined;
  #directory: number | undefined;

  constructor(options: StateStoreOptions) {
    this.#options = options;
    const { path, report, delayMs } = options;
    if (path === undefined) return;
    this.#file = new StateFile({
      path,
      name: 'state file',
      things: 'forwards and DNS records',
      text: () => this.#text(),
      onWritten: () => this.#onWritten(),
      delayMs,
      report,
    });
  }

  /** The table of this name, empty if nothing is stored of it. */
  table(name: string): StateTable {
    let table = this.#tables.get(name);
    if (table === undefined) {
      table = new StateTable((key, value) => this.#append(name, key, value));
      this.#tables.set(name, table);
    }
    return table;
  }

  /**
   * Reads what was stored and keeps it up from then on. To be called before anything is set, and once it is known that no other daemon
   * serves the same links. Never rejects: what cannot be read is put aside and reported, what cannot be written makes `set` throw.
   */
  async open(): Promise<void> {
    const { path, report } = this.#options;
    if (path === undefined || this.#file === undefined) return;
    const text = this.#file.read();
    if (!(await this.#claim(path))) return;
    if (text !== undefined) this.#restore(text);
    this.#replay(`${path}.journal`);
    try {
      this.#journal = openSync(`${path}.journal`, 'a', 0o600);
    } catch (error) {
      report(
        `state file ${path}: its journal cannot be made, forwards and DNS records cannot be stored: ${reasonOf(error)}`,
      );
      return;
    }
    if (this.#seq > this.#fileSeq) this.#file.changed();
  }

  /** Writes what is not yet in the file, and stops. Never rejects. */
  async close(): Promise<void> {
    if (this.#journal !== undefined) await this.#file?.close();
    if (this.#journal !== undefined) closeSync(this.#journal);
    this.#journal = undefined;
    this.#lockFile?.release();
    this.#lock?.close();
    if (this.#directory !== undefined) closeSync(this.#directory);
    this.#directory = undefined;
  }

  /** @returns false if another daemon has it; then this one keeps its state in memory. */
  async #claim(path: string): Promise<boolean> {
    const server = createServer((socket) => socket.destroy());
    server.unref();
    try {
      this.#lockFile = await listenOnSocketFile(server, this.#lockPath(`${path}.lock`), 'state file');
      this.#lock = server;
    } catch (error) {
      // Where there can be no lock, `set` will say what is wrong.
      if (errnoOf(error) !== 'ERR_SOCKET_IN_USE') return true;
      this.#options.report(
        `state file ${path} is another daemon's; forwards and DNS records of this one will not survive a restart; give it a --state-dir of its own`,
      );
      this.#memoryOnly = true;
      return false;
    }
    return true;
  }

  /** A socket's path is short; a state directory's need not be. Linux knows a directory by its descriptor, too. */
  #lockPath(path: string): string {
    if (Buffer.byteLength(path) <= SOCKET_PATH_MAX_BYTES || process.platform !== 'linux') return path;
    this.#directory = openSync(dirname(path), 'r');
    return `/proc/self/fd/${this.#directory}/${basename(path)}`;
  }

  #restore(text: string): void {
    let data: { version?: unknown; seq?: unknown; tables?: unknown };
    try {
      data = JSON.parse(text) ?? {};
    } catch (error) {
      this.#file?.putAside(`is not JSON (${reasonOf(error)})`);
      return;
    }
    if (data.version !== FORMAT_VERSION || typeof data.seq !== 'number' || !isObject(data.tables)) {
      this.#file?.putAside(`is not of version ${FORMAT_VERSION} of the format`);
      return;
    }
    this.#seq = data.seq;
    this.#fileSeq = data.seq;
    let malformed = 0;
    for (const [name, entries] of Object.entries(data.tables)) {
      for (const entry of Array.isArray(entries) ? entries : []) {
        if (Array.isArray(entry) && typeof entry[0] === 'string') this.table(name).load(entry[0], entry[1]);
        else malformed++;
      }
    }
    if (malformed > 0) this.#file?.keepCopy(`${malformed} entries are malformed, and were left out`);
  }

  /** Applies what the file does not have. A line that broke off was of a change that nobody has been told is stored. */
  #replay(path: string): void {
    let text: string;
    try {
      text = readFileSync(path, 'utf8');
    } catch {
      return;
    }
    for (const line of text.split('\n')) {
      let change: { s?: unknown; t?: unknown; k?: unknown; v?: unknown };
      try {
        change = JSON.parse(line) ?? {};
      } catch {
        continue;
      }
      const { s, t, k, v } = change;
      if (typeof s !== 'number' || typeof t !== 'string' || typeof k !== 'string' || s <= this.#fileSeq) continue;
      this.table(t).load(k, v);
      this.#seq = Math.max(this.#seq, s);
    }
    // Ours follow on a line of their own, also behind a broken one.
    this.#broken = text !== '' && !text.endsWith('\n');
  }

  #append(t: string, k: string, v: unknown): void {
    const { path } = this.#options;
    if (path === undefined || this.#memoryOnly) return;
    if (this.#journal === undefined) throw new Error(`the state file ${path} cannot be written`);
    const line = `${JSON.stringify({ s: this.#seq + 1, t, k, ...(v === undefined ? {} : { v }) })}\n`;
    const bytes = Buffer.from(this.#broken ? `\n${line}` : line);
    let written = 0;
    try {
      while (written < bytes.length) written += writeSync(this.#journal, bytes, written);
    } catch (error) {
      this.#broken = written > 0;
      throw error;
    }
    this.#broken = false;
    this.#seq++;
    this.#since.push(line);
    this.#file?.changed();
  }

  #text(): string {
    this.#since = [];
    this.#textSeq = this.#seq;
    const tables = Object.fromEntries([...this.#tables].map(([name, table]) => [name, [...table.entries()]]));
    return `${JSON.stringify({ version: FORMAT_VERSION, seq: this.#seq, tables }, undefined, 1)}\n`;
  }

  /** The file has everything up to `#textSeq`: the journal goes on with what came since. */
  #onWritten(): void {
    this.#fileSeq = this.#textSeq;
    const { path, report } = this.#options;
    if (this.#journal === undefined) return;
    try {
      if (this.#since.length === 0) ftruncateSync(this.#journal, 0);
      else {
        const temporary = `${path}.journal.tmp`;
        writeFileSync(temporary, this.#since.join(''), { mode: 0o600 });
        const journal = openSync(temporary, 'a');
        renameSync(temporary, `${path}.journal`);
        closeSync(this.#journal);
        this.#journal = journal;
      }
      this.#broken = false;
    } catch (error) {
      // It only grows: its old lines are known by their numbers.
      report(`state file ${path}: its journal cannot be shortened: ${reasonOf(error)}`);
    }
  }
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
