// A host with a way out: a namespace in which a daemon runs, two routers behind it, a machine behind those, and a guest on the daemon. All
// of them are Linux, so what the guest is told is what a kernel says.
//
//   guest === daemon's host 10.81.1.2 -- 10.81.1.1 r1 10.81.2.1 -- 10.81.2.2 r2 10.81.3.1 -- 10.81.3.2 far

import { execFileSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { Test } from 'tap';
import { WITHOUT_HOOKS } from '../../scripts/daemon/ordinary-user.ts';
import { daemonEntry } from '../../scripts/project.ts';
import { Namespace } from './namespace.ts';
import { GATEWAY, GUEST, GuestAgent } from './namespace-guest.ts';

export const HOST = '10.81.1.2';
export const ROUTER_1 = '10.81.1.1';
export const ROUTER_2 = '10.81.2.2';
export const FAR = '10.81.3.2';

const MAC = '52:54:00:00:00:0a';

export interface RoutedHostOptions {
  readonly args?: readonly string[];
  readonly guestMtu?: number;
  /** Variables of the daemon's environment. */
  readonly env?: Readonly<Record<string, string>>;
}

export class RoutedHost {
  readonly host: Namespace;
  readonly routers: readonly [Namespace, Namespace];
  readonly far: Namespace;
  readonly guest: Namespace;
  readonly folder: string;
  /** The line of readiness. */
  ready: Record<string, unknown> = {};
  pid = 0;
  log = '';

  private constructor(test: Test) {
    this.host = Namespace.create(test);
    this.routers = [Namespace.create(test), Namespace.create(test)];
    this.far = Namespace.create(test);
    this.guest = Namespace.create(test);
    this.folder = mkdtempSync(join(tmpdir(), 'isthmus-routed-'));
    test.teardown(() => rmSync(this.folder, { recursive: true, force: true }));
  }

  static async start(test: Test, options: RoutedHostOptions = {}): Promise<RoutedHost> {
    const it = new RoutedHost(test);
    const [r1, r2] = it.routers;
    join24(it.host, HOST, r1, ROUTER_1);
    join24(r1, '10.81.2.1', r2, ROUTER_2);
    join24(r2, '10.81.3.1', it.far, FAR);
    it.host.ip('route', 'add', 'default', 'via', ROUTER_1);
    r1.ip('route', 'add', 'default', 'via', ROUTER_2);
    r2.ip('route', 'add', '10.81.1.0/24', 'via', '10.81.2.1');
    it.far.ip('route', 'add', 'default', 'via', '10.81.3.1');
    for (const router of it.routers) {
      router.sysctl('net.ipv4.ip_forward', '1');
      // No limit of errors for each destination.
      router.sysctl('net.ipv4.icmp_ratemask', '0');
    }
    await it.#daemon(options);
    await it.guest.plug({ socket: join(it.folder, 'vm.sock'), mtu: options.guestMtu ?? 1500, mac: MAC });
    it.guest.address(`${GUEST}/24`, GATEWAY);
    return it;
  }

  get control(): string {
    return join(this.folder, 'control.sock');
  }

  /** Resolves once the log holds it; the test's own limit of time is the limit. */
  async logged(pattern: RegExp): Promise<void> {
    while (!pattern.test(this.log)) await new Promise((resolve) => setTimeout(resolve, 20));
  }

  agent(where: 'guest' | 'host' | 'far'): Promise<GuestAgent> {
    return GuestAgent.start(this[where]);
  }

  /** Processes that the daemon has for pings now. */
  pings(): number {
    let n = 0;
    for (const entry of readdirSync('/proc')) {
      if (!/^\d+$/.test(entry)) continue;
      try {
        const stat = readFileSync(`/proc/${entry}/stat`, 'latin1');
        if (Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1]) === this.pid) n++;
      } catch {
        // It has ended meanwhile.
      }
    }
    return n;
  }

  async #daemon({ args = [], env = {} }: RoutedHostOptions): Promise<void> {
    const own = ['run', '--vm', `qemu:${join(this.folder, 'vm.sock')}`, '--control', this.control, '--strict'];
    const more = ['--state-dir', 'none', '--lease', `${MAC}=${GUEST}`, ...args];
    const variables = Object.entries(env).map(([name, value]) => `${name}=${value}`);
    const program = [...WITHOUT_HOOKS, ...variables, process.execPath, daemonEntry(), ...own, ...more];
    const child = this.host.spawn('env', program);
    child.stderr!.on('data', (chunk: Buffer) => {
      this.log += chunk.toString();
    });
    const line = await new Promise<string>((resolve, reject) => {
      child.once('exit', (code) => reject(new Error(`the daemon ended with ${code}: ${this.log}`)));
      createInterface({ input: child.stdout! }).once('line', resolve);
    });
    this.ready = JSON.parse(line) as Record<string, unknown>;
    this.pid = this.ready.pid as number;
  }
}

let wires = 0;

/** A wire between two machines, and their addresses on it. */
export function join24(a: Namespace, addressA: string, b: Namespace, addressB: string): { a: string; b: string } {
  const names = { a: `w${wires}a`, b: `w${wires++}b` };
  const peer = ['peer', 'name', names.b, 'netns', b.name];
  execFileSync('ip', ['-n', a.name, 'link', 'add', names.a, 'type', 'veth', ...peer], { stdio: 'pipe' });
  for (const [namespace, device, address] of [
    [a, names.a, addressA],
    [b, names.b, addressB],
  ] as const) {
    namespace.ip('address', 'add', `${address}/24`, 'dev', device);
    namespace.ip('link', 'set', device, 'up');
  }
  return names;
}
