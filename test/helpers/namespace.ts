// A network namespace that plays a VM: a TAP device in it is joined to the daemon's socket by `tap-bridge.c`, so that Linux's
// own TCP/IP is the guest. Owns the namespace, the bridge and their end; needs root (see `requirements.ts`).

import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, readFileSync, renameSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { Test } from 'tap';
import { cacheFolder, projectRoot } from '../../scripts/project.ts';

/** What a command in the namespace came to. */
export interface CommandResult {
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** How to plug the namespace into a daemon. */
export interface PlugOptions {
  readonly socket: string;
  readonly framing?: 'qemu' | 'vpnkit';
  readonly mtu: number;
  /** MAC address of the device (qemu framing). */
  readonly mac?: string;
  /** With vpnkit framing. */
  readonly uuid?: string;
}

let made = 0;
let bridgeProgram: string | undefined;

/** Compiles the bridge once for each version of its source. */
function bridge(): string {
  if (bridgeProgram !== undefined) return bridgeProgram;
  const source = join(projectRoot, 'test/helpers/tap-bridge.c');
  const version = createHash('sha256').update(readFileSync(source)).digest('hex').slice(0, 12);
  const program = join(cacheFolder('test'), `tap-bridge-${version}`);
  if (!existsSync(program)) {
    const scratch = `${program}.${process.pid}`;
    execFileSync('cc', ['-O2', '-Wall', '-o', scratch, source]);
    renameSync(scratch, program);
  }
  bridgeProgram = program;
  return program;
}

function ip(...args: string[]): string {
  return execFileSync('ip', args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
}

/** Whatever a test that broke off has left: removed at the end of the process. */
const open = new Set<Namespace>();
process.on('exit', () => {
  for (const namespace of open) namespace.abandon();
});

/** A guest made of a namespace. */
export class Namespace {
  readonly name: string;
  /** The device's name inside. */
  readonly device = 'tap0';
  #bridge: ChildProcess | undefined;
  readonly #children = new Set<ChildProcess>();

  private constructor(name: string) {
    this.name = name;
  }

  /** Makes an empty namespace with its loopback up, which ends with the test. */
  static create(test: Test): Namespace {
    const namespace = Namespace.make();
    test.teardown(() => namespace.close());
    return namespace;
  }

  /** The same without a test; the caller closes it. */
  static make(): Namespace {
    const namespace = new Namespace(`isthmus-${process.pid}-${made++}`);
    ip('netns', 'add', namespace.name);
    open.add(namespace);
    ip('-n', namespace.name, 'link', 'set', 'lo', 'up');
    // Many short flows to one port would otherwise measure the guest's search for a free port, milliseconds each.
    namespace.sysctl('net.ipv4.tcp_tw_reuse', '1');
    return namespace;
  }

  /** Connects a new TAP device to the daemon, without an address. @returns its MAC address. */
  async plug(options: PlugOptions): Promise<string> {
    const framing = options.framing ?? 'qemu';
    const args = [this.device, options.socket, framing, String(options.mtu)];
    if (options.uuid !== undefined) args.push(options.uuid);
    const child = this.spawn(bridge(), args);
    this.#bridge = child;
    await new Promise<void>((resolve, reject) => {
      let said = '';
      child.stderr!.on('data', (chunk: Buffer) => {
        said += chunk.toString();
      });
      child.once('exit', (status) => reject(new Error(`tap-bridge ended with ${status}: ${said}`)));
      createInterface({ input: child.stdout! }).on('line', (line) => {
        if (line.startsWith('ready')) resolve();
      });
    });
    if (options.mac !== undefined) ip('-n', this.name, 'link', 'set', this.device, 'address', options.mac);
    // IPv6 would only send its own chatter here; its tests turn it on. Below its least MTU the device has none.
    if (options.mtu >= 1280) this.sysctl(`net.ipv6.conf.${this.device}.disable_ipv6`, '1');
    ip('-n', this.name, 'link', 'set', this.device, 'up');
    return JSON.parse(ip('-j', '-n', this.name, 'link', 'show', this.device))[0].address as string;
  }

  /** A fixed address and the default route, where DHCP is not the subject. */
  address(cidr: string, gateway: string): void {
    ip('-n', this.name, 'address', 'replace', cidr, 'dev', this.device);
    ip('-n', this.name, 'route', 'replace', 'default', 'via', gateway);
  }

  /** The congestion control of what leaves by the device, where the kernel's default is not wanted. A route may name any. */
  congestion(name: string): void {
    const routes = JSON.parse(ip('-j', '-n', this.name, 'route', 'show', 'dev', this.device)) as Record<
      string,
      string
    >[];
    for (const { dst, gateway, prefsrc } of routes) {
      const how = gateway === undefined ? ['scope', 'link', 'src', prefsrc!] : ['via', gateway];
      const via = gateway === undefined ? ['proto', 'kernel'] : [];
      ip('-n', this.name, 'route', 'replace', dst!, 'dev', this.device, ...via, ...how, 'congctl', name);
    }
  }

  /** Runs ip(8) on the namespace. */
  ip(...args: string[]): string {
    return ip('-n', this.name, ...args);
  }

  /** The device by which an address is reached. */
  deviceTo(address: string): string {
    return JSON.parse(this.ip('-j', 'route', 'get', address))[0].dev as string;
  }

  /** Sets a kernel parameter of the namespace. */
  sysctl(key: string, value: string): void {
    const path = `/proc/sys/${key.replaceAll('.', '/')}`;
    execFileSync('ip', ['netns', 'exec', this.name, 'sh', '-c', `echo '${value}' >${path}`], { stdio: 'pipe' });
  }

  /** Starts a program in the namespace; it ends with the namespace at the latest. */
  spawn(program: string, args: readonly string[], options: { readonly ipc?: boolean } = {}): ChildProcess {
    const stdio: ('ignore' | 'pipe' | 'ipc')[] = ['ignore', 'pipe', 'pipe'];
    if (options.ipc === true) stdio.push('ipc');
    const child = spawn('ip', ['netns', 'exec', this.name, program, ...args], { stdio });
    this.#children.add(child);
    child.once('exit', () => this.#children.delete(child));
    return child;
  }

  /** Runs a program in the namespace to its end. */
  exec(program: string, args: readonly string[], timeoutMs = 60_000): Promise<CommandResult> {
    const child = this.spawn(program, args);
    return new Promise((resolve, reject) => {
      let stdout = '';
      let stderr = '';
      child.stdout!.on('data', (chunk: Buffer) => {
        stdout += chunk.toString();
      });
      child.stderr!.on('data', (chunk: Buffer) => {
        stderr += chunk.toString();
      });
      const timer = setTimeout(() => child.kill('SIGKILL'), timeoutMs);
      child.once('error', reject);
      child.once('close', (code, signal) => {
        clearTimeout(timer);
        resolve({ status: code ?? (signal === null ? 1 : 137), stdout, stderr });
      });
    });
  }

  /** Counters of /proc/net/snmp and netstat, e.g. `Tcp.RetransSegs`, `TcpExt.TCPTimeouts`. */
  async counters(): Promise<Map<string, number>> {
    const { stdout } = await this.exec('cat', ['/proc/net/snmp', '/proc/net/netstat']);
    const found = new Map<string, number>();
    const lines = stdout.trim().split('\n');
    for (let i = 0; i + 1 < lines.length; i += 2) {
      const names = lines[i]!.split(/:?\s+/);
      const values = lines[i + 1]!.split(/:?\s+/);
      for (let j = 1; j < names.length; j++) found.set(`${names[0]}.${names[j]}`, Number(values[j]));
    }
    return found;
  }

  /** Frames that the device itself dropped: with any, the result is the device's and not ours. */
  deviceDrops(): number {
    const link = JSON.parse(ip('-j', '-s', '-n', this.name, 'link', 'show', this.device))[0];
    return link.stats64.tx.dropped + link.stats64.rx.dropped;
  }

  /** Stops and continues the bridge: a VM that does not read its socket for a while. */
  pause(): void {
    this.#bridge?.kill('SIGSTOP');
  }

  resume(): void {
    this.#bridge?.kill('SIGCONT');
  }

  /** Ends the bridge as a crash of the VM would; the device goes with it. */
  async unplug(): Promise<void> {
    const child = this.#bridge;
    this.#bridge = undefined;
    if (child === undefined || child.exitCode !== null) return;
    const gone = new Promise((resolve) => child.once('exit', resolve));
    child.kill('SIGKILL');
    await gone;
  }

  /** Ends everything in the namespace and removes it. Idempotent. */
  async close(): Promise<void> {
    if (!open.delete(this)) return;
    const gone = [...this.#children].map((child) => new Promise((resolve) => child.once('exit', resolve)));
    for (const child of this.#children) child.kill('SIGKILL');
    await Promise.all(gone);
    ip('netns', 'delete', this.name);
  }

  /** The same without waiting, for the end of the process. */
  abandon(): void {
    for (const child of this.#children) child.kill('SIGKILL');
    spawnSync('ip', ['netns', 'delete', this.name], { stdio: 'ignore' });
  }
}
