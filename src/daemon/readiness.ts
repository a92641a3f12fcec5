// Telling others that the daemon is ready, and that it stops: a line of JSON on standard output, the same line on the descriptor
// of --ready-fd, and systemd's notify protocol.
//
// Node has no unix datagram sockets, so systemd is told by its own tool, systemd-notify, where NOTIFY_SOCKET is set. A unit
// needs NotifyAccess=all for that, as the message comes from a child.

import { closeSync, constants, fstatSync, readdirSync, readFileSync, writeSync } from 'node:fs';
import { ExitCode } from '../host/exit-code.ts';
import { OperatorError } from '../host/operator-error.ts';
import type { Log } from './log.ts';
import type { ReadyInfo } from './network-api.ts';

/** The readiness line: public, extended but never changed. */
export interface ReadyLine extends ReadyInfo {
  readonly event: 'ready';
  readonly pid: number;
  readonly version: string;
  /** Path of the control socket, or null. */
  readonly control: string | null;
  /** `ADDRESS:PORT` of the control API on TCP with the port really bound, or null. */
  readonly controlTcp: string | null;
  /** Sockets of `--api`. */
  readonly apis: readonly { readonly protocol: string; readonly path: string }[];
  /** `ADDRESS:PORT` of /metrics on TCP with the port really bound, or null. */
  readonly metrics: string | null;
}

/**
 * Refuses a descriptor that nobody handed down: Node has some of its own, and closing one of those would break it.
 * @throws OperatorError (64)
 */
export function checkReadyFd(fd: number): void {
  let problem: string | undefined;
  try {
    const stat = fstatSync(fd);
    // An epoll or event descriptor is of no type at all; the one that libuv keeps on /dev/null is for reading.
    const known = stat.isFIFO() || stat.isSocket() || stat.isFile() || stat.isCharacterDevice();
    const ours = accessMode(fd) === constants.O_RDONLY || (stat.isFIFO() && readsItself(stat.ino));
    if (!known || ours) problem = 'was not handed down for writing';
  } catch {
    problem = 'is not open';
  }
  if (problem === undefined) return;
  throw new OperatorError(`ready-fd: descriptor ${fd} ${problem}; expected one that the parent process hands down`, {
    code: 'ERR_CONFIG_READY_FD',
    exitCode: ExitCode.Usage,
  });
}

/** Linux: O_RDONLY, O_WRONLY or O_RDWR of an open descriptor; undefined where that cannot be told. */
function accessMode(fd: number): number | undefined {
  try {
    const flags = /^flags:\s*([0-7]+)/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'latin1'))?.[1];
    return flags === undefined ? undefined : Number.parseInt(flags, 8) & 3;
  } catch {
    return undefined;
  }
}

/** Linux: whether the reading end of this pipe is ours too, as with the pipes of the event loop. */
function readsItself(inode: number): boolean {
  let names: string[];
  try {
    names = readdirSync('/proc/self/fd');
  } catch {
    return false;
  }
  return names.some((name) => {
    try {
      return accessMode(Number(name)) === constants.O_RDONLY && fstatSync(Number(name)).ino === inode;
    } catch {
      return false;
    }
  });
}

/** Writes the line to the descriptor and closes it. A reader that has gone away is a warning, not an end. */
export function tellReadyFd(fd: number, line: string, log: Log): void {
  try {
    writeSync(fd, line);
  } catch (err) {
    log.warn({ event: 'daemon.ready-fd.failed', fd, err }, 'the readiness line could not be written to --ready-fd');
  }
  try {
    closeSync(fd);
  } catch {
    // The write above has failed for the same reason.
  }
}

/** systemd's notify protocol, spoken by its own tool. */
export class SystemdNotifier {
  readonly #log: Log;
  readonly #env: NodeJS.ProcessEnv;

  /** @param env holds NOTIFY_SOCKET when systemd (or alike) started us with Type=notify. */
  constructor(log: Log, env: NodeJS.ProcessEnv) {
    this.#log = log;
    this.#env = env;
  }

  ready(status: string): Promise<void> {
    return this.#notify(['READY=1', `MAINPID=${process.pid}`, `STATUS=${status}`]);
  }

  stopping(): Promise<void> {
    return this.#notify(['STOPPING=1', 'STATUS=stopping']);
  }

  async #notify(assignments: readonly string[]): Promise<void> {
    if (!this.#env.NOTIFY_SOCKET) return;
    const { spawn } = await import('node:child_process');
    const child = spawn('systemd-notify', assignments, { stdio: 'ignore', env: this.#env });
    // It tells systemd whatever becomes of us, and must not hold up our end.
    child.unref();
    child.on('error', (err) => {
      this.#log.warn(
        { event: 'daemon.notify.failed', err },
        'NOTIFY_SOCKET is set, but systemd-notify cannot be run: install it, or use Type=exec in place of Type=notify',
      );
    });
    child.on('exit', (code, signal) => {
      if (code === 0) return;
      this.#log.warn(
        { event: 'daemon.notify.failed', code, signal },
        'systemd-notify failed: the unit needs Type=notify and NotifyAccess=all',
      );
    });
  }
}
