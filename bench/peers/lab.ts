// Two network namespaces made for one run: one plays the host (the stacks under test and the servers run in it, nothing else is
// reachable from it), one at a time plays the VM. Owns every process and namespace that it started, and their end, by their ids.

import { type ChildProcess, execFileSync, type StdioOptions, spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { cacheFolder, projectRoot } from '../../scripts/project.ts';

/** User and group that stacks run as when they need no right of root. */
export const NOBODY = 65_534;

/** Ports of the servers in the host's namespace, and those that stacks publish for the guest's. */
export const Port = { Dns: 53, Bulk: 5201, Echo: 5202, PublishedBulk: 6201, PublishedEcho: 6202 } as const;

/** What the shell around a stack prints when all that is left to do is to become the stack. */
export const STARTING = 'starting';

/** What a program that ran to its end left. */
export interface Output {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

const PLUG_TRIES = 50;
const PLUG_PAUSE_MS = 10;
const START_LIMIT_MS = 15_000;
const STOP_LIMIT_MS = 3000;

/** Compiles a C source once for each version of it. @returns the program's path */
function compiled(name: string, source: string): string {
  const path = join(projectRoot, source);
  const version = createHash('sha256').update(readFileSync(path)).digest('hex').slice(0, 12);
  const program = join(cacheFolder('peers'), `${name}-${version}`);
  if (existsSync(program)) return program;
  const scratch = `${program}.${process.pid}`;
  execFileSync('cc', ['-O2', '-Wall', '-o', scratch, path]);
  renameSync(scratch, program);
  return program;
}

function ip(...args: string[]): void {
  execFileSync('ip', args, { stdio: ['ignore', 'ignore', 'pipe'] });
}

/** A program that runs in one of the namespaces. */
export class Program {
  readonly child: ChildProcess;
  readonly ended: Promise<number | null>;
  stdout = '';
  stderr = '';
  #grown: (() => void)[] = [];

  constructor(child: ChildProcess) {
    this.child = child;
    this.ended = new Promise((resolve) => {
      child.once('error', (error) => {
        this.stderr += error.message;
        resolve(null);
      });
      child.once('close', (status) => resolve(status));
    });
    child.stdout?.on('data', (chunk: Buffer) => {
      this.stdout += chunk.toString();
      for (const grown of this.#grown) grown();
    });
    child.stderr?.on('data', (chunk: Buffer) => {
      this.stderr = (this.stderr + chunk.toString()).slice(-64 * 1024);
    });
  }

  get pid(): number {
    return this.child.pid!;
  }

  get running(): boolean {
    return this.child.pid !== undefined && this.child.exitCode === null && this.child.signalCode === null;
  }

  /** Why it ended, in one line. */
  get complaint(): string {
    const lines = `${this.stdout.replace(STARTING, '')}\n${this.stderr}`.trim().split('\n');
    return lines.at(-1)!.slice(0, 160);
  }

  /** Waits for a text on its standard output. */
  says(text: string, limitMs = START_LIMIT_MS): Promise<void> {
    const name = this.child.spawnargs.join(' ').slice(0, 120);
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error(`no "${text}" from ${name}`)), limitMs);
      const look = (): void => {
        if (!this.stdout.includes(text)) return;
        clearTimeout(timer);
        resolve();
      };
      this.#grown.push(look);
      look();
      void this.ended.then((status) => {
        clearTimeout(timer);
        reject(new Error(`${name} ended with ${status}: ${this.complaint}`));
      });
    });
  }

  /** Each program leads a process group of its own. */
  signal(name: NodeJS.Signals): void {
    if (!this.running) return;
    try {
      process.kill(-this.pid, name);
    } catch {
      // It has just ended.
    }
  }

  /** Asks it to end, kills it when that takes long. */
  async stop(): Promise<void> {
    this.signal('SIGTERM');
    const timer = setTimeout(() => this.signal('SIGKILL'), STOP_LIMIT_MS);
    await this.ended;
    clearTimeout(timer);
  }
}

/** What is to end with a run. */
export class Lab {
  /** Open to every stack; sockets and logs. */
  readonly folder: string;
  readonly bridge: string;
  readonly probe: string;
  readonly #host: string;
  readonly #guest: string;
  readonly #programs = new Set<Program>();
  /** Of these, those that go with the guest. */
  #visitors: Program[] | undefined;
  readonly #namespaces = new Set<string>();
  #closed = false;

  private constructor(bridge: string, probe: string) {
    this.bridge = bridge;
    this.probe = probe;
    this.folder = mkdtempSync(join(tmpdir(), 'isthmus-peers-'));
    this.#host = `isthmus-peers-${process.pid}-host`;
    this.#guest = `isthmus-peers-${process.pid}-guest`;
  }

  /** Compiles what is needed, makes the host's namespace and starts its servers. */
  static async open(): Promise<Lab> {
    const bridge = compiled('tap-bridge', 'test/helpers/tap-bridge.c');
    const probe = compiled('probe', 'bench/peers/probe.c');
    const lab = new Lab(bridge, probe);
    process.once('exit', () => lab.abandon());
    try {
      await lab.#furnish();
    } catch (error) {
      await lab.close();
      throw error;
    }
    return lab;
  }

  async #furnish(): Promise<void> {
    chownSync(this.folder, NOBODY, NOBODY);
    chmodSync(this.folder, 0o700);
    writeFileSync(join(this.folder, 'resolv.conf'), 'nameserver 127.0.0.1\n');
    chmodSync(join(this.folder, 'resolv.conf'), 0o644);
    this.#make(this.#host);
    // passt wants a route to take after. Nothing is behind this device.
    ip('-n', this.#host, 'tuntap', 'add', 'uplink', 'mode', 'tap');
    ip('-n', this.#host, 'address', 'add', '198.18.0.2/24', 'dev', 'uplink');
    ip('-n', this.#host, 'link', 'set', 'uplink', 'up');
    ip('-n', this.#host, 'route', 'add', 'default', 'via', '198.18.0.1');
    await this.onHost([this.probe, 'serve', '127.0.0.1', String(Port.Echo)]).says('ready');
    await this.onHost([this.probe, 'name-server', '127.0.0.1', String(Port.Dns)]).says('ready');
  }

  #make(name: string): void {
    ip('netns', 'add', name);
    this.#namespaces.add(name);
    ip('-n', name, 'link', 'set', 'lo', 'up');
    // Many short flows to one port would otherwise measure the search for a free port.
    const settings = { tcp_tw_reuse: '1', ip_local_port_range: '10000 64999' };
    for (const [key, value] of Object.entries(settings)) {
      const line = `echo '${value}' >/proc/sys/net/ipv4/${key}`;
      execFileSync('ip', ['netns', 'exec', name, 'sh', '-c', line], { stdio: 'pipe' });
    }
  }

  /** A new guest; what is started from now on ends with it. @returns the path by which others may enter its namespace */
  newGuest(): string {
    this.#make(this.#guest);
    this.#visitors = [];
    return `/run/netns/${this.#guest}`;
  }

  #remove(name: string): void {
    if (!this.#namespaces.delete(name)) return;
    spawnSync('ip', ['netns', 'delete', name], { stdio: 'ignore' });
  }

  /** Plugs a TAP device of the guest into a stack's socket. */
  async plug(socket: string, mtu: number): Promise<void> {
    for (let tries = 1; ; tries++) {
      const bridge = this.inGuest([this.bridge, 'tap0', socket, 'qemu', String(mtu)]);
      try {
        await bridge.says('ready');
        break;
      } catch (error) {
        // The file is there from `bind` on, and nobody behind it before `listen`.
        if (tries === PLUG_TRIES || !bridge.stderr.includes('Connection refused')) throw error;
        await sleep(PLUG_PAUSE_MS);
      }
    }
    // IPv6 would only send its own chatter here.
    const quiet = 'echo 1 >/proc/sys/net/ipv6/conf/tap0/disable_ipv6';
    await this.run(this.inGuest(['sh', '-c', quiet]), 5000);
    ip('-n', this.#guest, 'link', 'set', 'tap0', 'up');
  }

  /** Gives the guest its address and its default route. */
  address(cidr: string, gateway: string): void {
    ip('-n', this.#guest, 'address', 'replace', cidr, 'dev', 'tap0');
    ip('-n', this.#guest, 'route', 'replace', 'default', 'via', gateway);
  }

  /** Starts a program in the host's namespace. */
  onHost(argv: readonly string[], stdio?: StdioOptions): Program {
    return this.#start(['ip', 'netns', 'exec', this.#host, ...argv], stdio);
  }

  /** Starts a stack in the host's namespace, where the host's resolver is ours. It says `STARTING` just before it begins. */
  stack(argv: readonly string[], options: { readonly nobody: boolean; readonly stdio?: StdioOptions }): Program {
    // `ip netns exec` gives a mount namespace of its own.
    const mount = `mount --bind "$0" /etc/resolv.conf; echo ${STARTING}; exec "$@"`;
    const drop = options.nobody
      ? ['setpriv', `--reuid=${NOBODY}`, `--regid=${NOBODY}`, '--clear-groups', '--inh-caps=-all']
      : [];
    const line = ['sh', '-c', mount, join(this.folder, 'resolv.conf'), ...drop, ...argv];
    return this.onHost(line, options.stdio);
  }

  /** Starts a program in the guest's namespace. */
  inGuest(argv: readonly string[], stdio?: StdioOptions): Program {
    return this.#start(['ip', 'netns', 'exec', this.#guest, ...argv], stdio);
  }

  #start(argv: readonly string[], stdio: StdioOptions = ['ignore', 'pipe', 'pipe']): Program {
    if (this.#closed) throw new Error('the run is over');
    const kept = Object.entries(process.env).filter(
      ([name]) => !name.startsWith('ISTHMUS_') && name !== 'NOTIFY_SOCKET' && name !== 'NODE_OPTIONS',
    );
    const child = spawn(argv[0]!, argv.slice(1), {
      cwd: this.folder,
      detached: true,
      env: Object.fromEntries(kept),
      stdio,
    });
    const program = new Program(child);
    this.#programs.add(program);
    this.#visitors?.push(program);
    void program.ended.then(() => this.#programs.delete(program));
    return program;
  }

  /** Waits for a program's end, kills it after the limit. */
  async run(program: Program, limitMs: number): Promise<Output> {
    const timer = setTimeout(() => program.signal('SIGKILL'), limitMs);
    const status = await program.ended;
    clearTimeout(timer);
    return { status, stdout: program.stdout, stderr: program.stderr };
  }

  /** Ends the guest and all that was started since it was made, the last first. */
  async clear(): Promise<void> {
    const visitors = this.#visitors ?? [];
    this.#visitors = undefined;
    for (const program of visitors.toReversed()) await program.stop();
    this.#remove(this.#guest);
  }

  /** Ends everything. Idempotent. */
  async close(): Promise<void> {
    this.#closed = true;
    await Promise.all([...this.#programs].map((program) => program.stop()));
    this.abandon();
  }

  /** The same without waiting, for the end of the process. */
  abandon(): void {
    this.#closed = true;
    for (const program of this.#programs) program.signal('SIGKILL');
    for (const name of [...this.#namespaces]) this.#remove(name);
    rmSync(this.folder, { recursive: true, force: true });
  }
}
