// The daemon as a child process: started as an ordinary user, awaited by its line of readiness, watched through /proc and its
// control socket, stopped. Used by the demo, the tests and the benchmarks.

import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { request } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { daemonLaunch, ownFolder, WITHOUT_HOOKS } from './ordinary-user.ts';

/** How to start it. */
export interface DaemonOptions {
  /** Framing of the VM socket. */
  readonly framing?: 'qemu' | 'vpnkit';
  /** More arguments after `run --vm … --control … --state-dir …`. */
  readonly args?: readonly string[];
  /** Options of node itself. */
  readonly nodeArgs?: readonly string[];
  /** A folder used by an earlier daemon, so that sockets and leases are found again. */
  readonly folder?: string;
}

/** How the process ended. */
export interface DaemonExit {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

const READY_LIMIT_MS = 15_000;
const STOP_LIMIT_MS = 5000;

/** Ours without variables that the daemon would take for options, and without a service manager's socket. */
function environment(): NodeJS.ProcessEnv {
  const kept = Object.entries(process.env).filter(([name]) => !name.startsWith('ISTHMUS_') && name !== 'NOTIFY_SOCKET');
  return Object.fromEntries(kept);
}

/** Daemons that nobody stopped: they end with this process. */
const running = new Set<DaemonProcess>();
process.on('exit', () => {
  for (const daemon of running) daemon.abandon();
});

/** A running daemon. */
export class DaemonProcess {
  readonly folder: string;
  readonly vmSocket: string;
  readonly controlSocket: string;
  /** The parsed line of readiness. */
  ready: Record<string, unknown> = {};
  /** Milliseconds from spawn to readiness. */
  readyMs = 0;
  readonly exited: Promise<DaemonExit>;
  readonly #child: ChildProcess;
  #log = '';

  private constructor(child: ChildProcess, folder: string) {
    this.#child = child;
    this.folder = folder;
    this.vmSocket = join(folder, 'vm.sock');
    this.controlSocket = join(folder, 'control.sock');
    this.exited = new Promise((resolve) => {
      child.once('exit', (code, signal) => resolve({ code, signal }));
      child.once('error', () => resolve({ code: null, signal: null }));
    });
    child.stderr?.on('data', (chunk: Buffer) => {
      this.#log = (this.#log + chunk.toString()).slice(-256 * 1024);
    });
  }

  /** Starts the daemon and waits until it says that it is ready. */
  static async start(options: DaemonOptions = {}): Promise<DaemonProcess> {
    const { node, main, user } = daemonLaunch();
    const folder = options.folder ?? mkdtempSync(join(tmpdir(), 'isthmus-run-'));
    ownFolder(folder);
    ownFolder(join(folder, 'state'));
    const args = [
      ...(options.nodeArgs ?? []),
      main,
      'run',
      '--vm',
      `${options.framing ?? 'qemu'}:${join(folder, 'vm.sock')}`,
      '--control',
      join(folder, 'control.sock'),
      '--state-dir',
      join(folder, 'state'),
      ...(options.args ?? []),
    ];
    const started = performance.now();
    const child = spawn('env', [...WITHOUT_HOOKS, node, ...args], {
      ...user,
      env: environment(),
      cwd: folder,
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    const daemon = new DaemonProcess(child, folder);
    running.add(daemon);
    void daemon.exited.then(() => running.delete(daemon));
    try {
      daemon.ready = await daemon.#readiness();
    } catch (error) {
      await daemon.stop('SIGKILL');
      throw new Error(`${(error as Error).message}\n${daemon.log}`);
    }
    daemon.readyMs = performance.now() - started;
    return daemon;
  }

  #readiness(): Promise<Record<string, unknown>> {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(
        () => reject(new Error(`the daemon was not ready in ${READY_LIMIT_MS} ms`)),
        READY_LIMIT_MS,
      );
      const lines = createInterface({ input: this.#child.stdout! });
      lines.on('line', (line) => {
        if (!line.startsWith('{')) return;
        clearTimeout(timer);
        resolve(JSON.parse(line) as Record<string, unknown>);
      });
      void this.exited.then(({ code, signal }) => {
        clearTimeout(timer);
        reject(new Error(`the daemon ended before it was ready (${signal ?? code})`));
      });
    });
  }

  get pid(): number {
    return this.#child.pid!;
  }

  /** What it wrote to stderr, the last 256 KiB. */
  get log(): string {
    return this.#log;
  }

  /** Sends a signal and waits for the end; kills it when it takes longer than 5 s. */
  async stop(signal: NodeJS.Signals = 'SIGTERM'): Promise<DaemonExit> {
    if (this.#child.pid === undefined) return this.exited;
    this.#child.kill(signal);
    const timer = setTimeout(() => this.#child.kill('SIGKILL'), STOP_LIMIT_MS);
    const exit = await this.exited;
    clearTimeout(timer);
    return exit;
  }

  /** Kills it without waiting, for the end of this process. */
  abandon(): void {
    this.#child.kill('SIGKILL');
    this.clean();
  }

  /** Removes the folder; the daemon is to be stopped. */
  clean(): void {
    rmSync(this.folder, { recursive: true, force: true });
  }

  #status(field: string): string {
    const status = readFileSync(`/proc/${this.pid}/status`, 'utf8');
    return new RegExp(`^${field}:\\s*(.*)$`, 'm').exec(status)?.[1] ?? '';
  }

  /** Resident memory now, in bytes. */
  rssBytes(): number {
    return Number.parseInt(this.#status('VmRSS'), 10) * 1024;
  }

  /** Highest resident memory so far, in bytes. */
  peakRssBytes(): number {
    return Number.parseInt(this.#status('VmHWM'), 10) * 1024;
  }

  /** The real, effective, saved and file-system user ids, and the effective capabilities. */
  identity(): { readonly uids: number[]; readonly capabilities: bigint } {
    return { uids: this.#status('Uid').split(/\s+/).map(Number), capabilities: BigInt(`0x${this.#status('CapEff')}`) };
  }

  /** Number of open descriptors. */
  fdCount(): number {
    return readdirSync(`/proc/${this.pid}/fd`).length;
  }

  /** User and system CPU time so far, in seconds. */
  cpuSeconds(): number {
    const fields = readFileSync(`/proc/${this.pid}/stat`, 'utf8').split(') ')[1]!.split(' ');
    const TICKS_PER_SECOND = 100;
    return (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND;
  }

  /** GET on the control socket. */
  get(path: string): Promise<{ status: number; body: string }> {
    return new Promise((resolve, reject) => {
      const asked = request({ socketPath: this.controlSocket, path, agent: false, timeout: 5000 }, (response) => {
        let body = '';
        response.setEncoding('utf8');
        response.on('data', (text: string) => {
          body += text;
        });
        response.on('end', () => resolve({ status: response.statusCode ?? 0, body }));
      });
      asked.on('timeout', () => asked.destroy(new Error(`no answer to GET ${path}`)));
      asked.on('error', reject);
      asked.end();
    });
  }

  /** The samples of `/metrics`. */
  async metrics(): Promise<Metrics> {
    const { status, body } = await this.get('/metrics');
    if (status !== 200) throw new Error(`GET /metrics: ${status}`);
    return new Metrics(body);
  }
}

/** Parsed Prometheus text. */
export class Metrics {
  readonly samples = new Map<string, number>();

  constructor(text: string) {
    for (const line of text.split('\n')) {
      const found = /^([^#\s{]+(?:\{.*\})?)\s+(\S+)/.exec(line);
      if (found !== null) this.samples.set(found[1]!, Number(found[2]));
    }
  }

  /** Sum over all label sets of a name; undefined when there is no such metric. */
  sum(name: string, labels?: RegExp): number | undefined {
    let total: number | undefined;
    for (const [key, value] of this.samples) {
      if (key !== name && !key.startsWith(`${name}{`)) continue;
      if (labels !== undefined && !labels.test(key)) continue;
      total = (total ?? 0) + value;
    }
    return total;
  }
}
