// The file of --pid-file: refused while a live process holds it, replaced when stale, removed at the end if it is still ours.

import { readFileSync, renameSync, statSync, unlinkSync, writeFileSync } from 'node:fs';
import { ExitCode } from '../host/exit-code.ts';
import { errnoOf, OperatorError } from '../host/operator-error.ts';

/** USER_HZ of Linux: the unit of start times in /proc, fixed by its ABI. */
const TICKS_PER_SECOND = 100;

/** A pid file that names this process. */
export class PidFile {
  readonly path: string;
  #written = false;

  constructor(path: string) {
    this.path = path;
  }

  /** @throws OperatorError ERR_PID_FILE_HELD (69) while a live process holds the file. */
  check(): void {
    let text: string;
    let writtenMs: number;
    try {
      text = readFileSync(this.path, 'utf8');
      writtenMs = statSync(this.path).mtimeMs;
    } catch (error) {
      if (errnoOf(error) === 'ENOENT') return;
      throw this.#cannot(error);
    }
    const pid = /^\s*(\d{1,10})\s*$/.exec(text)?.[1];
    if (pid === undefined) {
      // An empty file is what a full disk or a touch leaves; anything else is somebody's data.
      if (text.trim() === '') return;
      throw new OperatorError(`pid-file: ${this.path} exists and is not a pid file; expected a path that is free`, {
        code: 'ERR_PID_FILE_FOREIGN',
        exitCode: ExitCode.CannotCreate,
      });
    }
    if (Number(pid) === process.pid || !isAlive(Number(pid)) || startedAfter(Number(pid), writtenMs)) return;
    throw new OperatorError(
      `pid-file: ${this.path} is held by process ${pid}, which is alive; end it, or name another path`,
      {
        code: 'ERR_PID_FILE_HELD',
        exitCode: ExitCode.Unavailable,
      },
    );
  }

  /** Writes our pid in one step: a reader sees the whole number or no file. @throws OperatorError (73) */
  write(): void {
    const temporary = `${this.path}.${process.pid}`;
    try {
      writeFileSync(temporary, `${process.pid}\n`, { mode: 0o644 });
      renameSync(temporary, this.path);
      this.#written = true;
    } catch (error) {
      tryUnlink(temporary);
      throw this.#cannot(error);
    }
  }

  /** Removes the file if it still names us. Synchronous, never throws, idempotent. */
  release(): void {
    if (!this.#written) return;
    this.#written = false;
    try {
      if (readFileSync(this.path, 'utf8').trim() === String(process.pid)) unlinkSync(this.path);
    } catch {
      // Gone already.
    }
  }

  #cannot(error: unknown): OperatorError {
    const why = error instanceof Error ? error.message : String(error);
    return new OperatorError(
      `pid-file: ${this.path} cannot be written (${why}); expected a file in a directory of your own`,
      {
        code: 'ERR_PID_FILE_WRITE',
        exitCode: ExitCode.CannotCreate,
        cause: error,
      },
    );
  }
}

function isAlive(pid: number): boolean {
  if (pid === 0) return false;
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    // EPERM: it lives, as another user's.
    return errnoOf(error) === 'EPERM';
  }
}

/** Linux: the process began after the file was written, so its number was used again and the file is stale. */
function startedAfter(pid: number, writtenMs: number): boolean {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
    // The command's name may hold blanks and brackets: the fields after it start behind the last bracket. starttime is field 22.
    const ticks = Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19]);
    const bootSeconds = Number(/^btime (\d+)$/m.exec(readFileSync('/proc/stat', 'latin1'))?.[1]);
    const startedMs = (bootSeconds + ticks / TICKS_PER_SECOND) * 1000;
    // btime has whole seconds: a little later is no proof.
    return startedMs > writtenMs + 3000;
  } catch {
    return false;
  }
}

function tryUnlink(path: string): void {
  try {
    unlinkSync(path);
  } catch {
    // Never made, or already gone.
  }
}
