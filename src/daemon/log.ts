// The daemon's log: pino to stderr, one JSON object a line. It owns levels, destination and the bound on what waits to be written.
//
// pino takes 25 ms to load, and the VM's socket is to be ready within 100 ms of the start: so lines written before it is loaded wait
// here with their time. Writing goes through process.stderr, which never blocks on a pipe that nobody drains; past the bound
// lines are dropped and counted. A reader that goes away (EPIPE) is no reason to end a VM's network.

/** Levels of `--log-level`, least first; `silent` logs nothing. */
export const LOG_LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];
type WriteLevel = Exclude<LogLevel, 'silent'>;

/** One log line: fields (with a stable dotted `event`), then a sentence for people. */
export type LogMethod = (fields: object, message: string) => void;

/** What every shell folder gets. A pino logger fits it by structure. */
export interface Log {
  readonly trace: LogMethod;
  readonly debug: LogMethod;
  readonly info: LogMethod;
  readonly warn: LogMethod;
  readonly error: LogMethod;
  readonly fatal: LogMethod;
  /** A logger that adds `bindings` to each of its lines. */
  child(bindings: object): Log;
  /** Ask before building costly fields. */
  isLevelEnabled(level: string): boolean;
}

/** The stream that lines go to: `process.stderr`, or a stand-in. */
export interface LogStream {
  readonly writableLength: number;
  write(line: string): unknown;
}

/** Bytes that may wait for a slow reader of the log. */
export const LOG_BACKLOG_BYTES: number = 4 * 1024 * 1024;
/** Lines that may wait for pino to load. */
const EARLY_LINES = 1024;
/** pino's numbers of the levels. */
const LEVEL_NUMBER: Record<LogLevel, number> = {
  trace: 10,
  debug: 20,
  info: 30,
  warn: 40,
  error: 50,
  fatal: 60,
  silent: Number.POSITIVE_INFINITY,
};

/** The root logger and its stream. */
export class LogRoot {
  /** Lines lost because the reader was too slow. */
  dropped = 0;
  readonly log: Log;
  readonly #level: LogLevel;
  readonly #stream: LogStream;
  readonly #early: Array<() => void> = [];
  #pino: Log | undefined;
  /** The time of an early line while it is written late. */
  #replayTime: number | undefined;
  #loading: Promise<void> | undefined;

  constructor(level: LogLevel, stream: LogStream) {
    this.#level = level;
    this.#stream = stream;
    this.log = new LateLog(this, undefined, {});
  }

  /** Loads pino and writes what has waited. */
  load(): Promise<void> {
    this.#loading ??= import('pino').then(({ pino }) => {
      this.#pino = pino(
        {
          level: this.#level,
          base: { pid: process.pid },
          timestamp: () => `,"time":${this.#replayTime ?? Date.now()}`,
        },
        { write: (line) => this.#write(line) },
      );
      for (const line of this.#early.splice(0)) line();
    });
    return this.#loading;
  }

  /** pino's root once it is loaded. */
  get loaded(): Log | undefined {
    return this.#pino;
  }

  isLevelEnabled(level: string): boolean {
    return (LEVEL_NUMBER[level as LogLevel] ?? 0) >= LEVEL_NUMBER[this.#level];
  }

  /** Keeps a line until pino is there. */
  keep(logger: LateLog, level: WriteLevel, fields: object, message: string): void {
    if (!this.isLevelEnabled(level)) return;
    if (this.#early.length === EARLY_LINES) {
      this.dropped++;
      return;
    }
    const time = Date.now();
    this.#early.push(() => {
      this.#replayTime = time;
      if (this.#pino === undefined) this.#writePlain(logger, level, fields, message, time);
      else logger[level](fields, message);
      this.#replayTime = undefined;
    });
  }

  /** Writes what has waited without pino: for an end that comes before it is loaded. */
  flushEarly(): void {
    for (const line of this.#early.splice(0)) line();
  }

  #write(line: string): void {
    if (this.#stream.writableLength > LOG_BACKLOG_BYTES) this.dropped++;
    else this.#stream.write(line);
  }

  #writePlain(logger: LateLog, level: WriteLevel, fields: object, message: string, time: number): void {
    const record = {
      level: LEVEL_NUMBER[level],
      time,
      pid: process.pid,
      ...logger.allBindings(),
      ...plain(fields),
      msg: message,
    };
    this.#write(`${JSON.stringify(record)}\n`);
  }
}

/** A logger that exists before pino does. Its pino child is made at the first line that wants it. */
class LateLog implements Log {
  readonly #root: LogRoot;
  readonly #parent: LateLog | undefined;
  readonly #bindings: object;
  #pino: Log | undefined;

  readonly trace: LogMethod = (fields, message) => this.#log('trace', fields, message);
  readonly debug: LogMethod = (fields, message) => this.#log('debug', fields, message);
  readonly info: LogMethod = (fields, message) => this.#log('info', fields, message);
  readonly warn: LogMethod = (fields, message) => this.#log('warn', fields, message);
  readonly error: LogMethod = (fields, message) => this.#log('error', fields, message);
  readonly fatal: LogMethod = (fields, message) => this.#log('fatal', fields, message);

  constructor(root: LogRoot, parent: LateLog | undefined, bindings: object) {
    this.#root = root;
    this.#parent = parent;
    this.#bindings = bindings;
  }

  child(bindings: object): Log {
    // Once pino is there, a child is pino's own: flows made later pay for no detour.
    return this.#resolve()?.child(bindings) ?? new LateLog(this.#root, this, bindings);
  }

  isLevelEnabled(level: string): boolean {
    return this.#root.isLevelEnabled(level);
  }

  allBindings(): object {
    return { ...this.#parent?.allBindings(), ...this.#bindings };
  }

  #log(level: WriteLevel, fields: object, message: string): void {
    const pino = this.#resolve();
    if (pino === undefined) this.#root.keep(this, level, fields, message);
    else pino[level](fields, message);
  }

  #resolve(): Log | undefined {
    if (this.#pino === undefined) {
      const parent = this.#parent === undefined ? this.#root.loaded : this.#parent.#resolve();
      this.#pino = this.#parent === undefined ? parent : parent?.child(this.#bindings);
    }
    return this.#pino;
  }
}

/** pino serialises `err`; JSON alone would print `{}`. */
function plain(fields: object): object {
  if (!('err' in fields) || !(fields.err instanceof Error)) return fields;
  return { ...fields, err: { type: fields.err.name, message: fields.err.message, stack: fields.err.stack } };
}
