// A host of its own for tests: a namespace in which a daemon runs, and a second machine beside it on a wire. So a client can come from
// another address without touching this machine's network.

import type { ChildProcess } from 'node:child_process';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { Test } from 'tap';
import { WITHOUT_HOOKS } from '../../scripts/daemon/ordinary-user.ts';
import { daemonEntry } from '../../scripts/project.ts';
import { Namespace } from './namespace.ts';
import { GuestAgent } from './namespace-guest.ts';

export const HOST = '10.77.0.1';
export const CLIENT = '10.77.0.2';

/** Published ports as the readiness line names them. */
export interface Published {
  readonly protocol: string;
  readonly host: string;
  readonly guest: string;
}

export class HostNamespaces {
  readonly host: Namespace;
  readonly client: Namespace;
  readonly folder: string;

  private constructor(host: Namespace, client: Namespace) {
    this.host = host;
    this.client = client;
    this.folder = mkdtempSync(join(tmpdir(), 'isthmus-host-'));
  }

  /** Makes both, joined; they end with the test. */
  static create(test: Test): HostNamespaces {
    const it = new HostNamespaces(Namespace.create(test), Namespace.create(test));
    test.teardown(() => rmSync(it.folder, { recursive: true, force: true }));
    const [a, b] = [it.host.name, it.client.name];
    ip('-n', a, 'link', 'add', 'wire', 'type', 'veth', 'peer', 'name', 'wire', 'netns', b);
    for (const [name, address] of [
      [a, HOST],
      [b, CLIENT],
    ] as const) {
      ip('-n', name, 'address', 'add', `${address}/24`, 'dev', 'wire');
      ip('-n', name, 'link', 'set', 'wire', 'up');
    }
    return it;
  }

  /** Another address of the client, and the host's way to it. */
  addClientAddress(address: string): void {
    ip('-n', this.client.name, 'address', 'add', `${address}/32`, 'dev', 'wire');
    ip('-n', this.host.name, 'route', 'add', `${address}/32`, 'dev', 'wire');
  }

  get vmSocket(): string {
    return join(this.folder, 'vm.sock');
  }

  /** Starts a daemon on the host. @returns its readiness line, and the process, which ends with the namespace. */
  async startDaemon(args: readonly string[]): Promise<{ published: readonly Published[]; child: ChildProcess }> {
    const own = ['run', '--vm', `qemu:${this.vmSocket}`, '--state-dir', join(this.folder, 'state'), '--strict'];
    const child = this.host.spawn('env', [...WITHOUT_HOOKS, process.execPath, daemonEntry(), ...own, ...args]);
    let log = '';
    child.stderr!.on('data', (chunk: Buffer) => {
      log += chunk.toString();
    });
    const line = await new Promise<string>((resolve, reject) => {
      child.once('exit', (code) => reject(new Error(`the daemon ended with ${code}: ${log}`)));
      createInterface({ input: child.stdout! }).once('line', resolve);
    });
    return { published: (JSON.parse(line) as { publish: Published[] }).publish, child };
  }

  agent(where: 'host' | 'client'): Promise<GuestAgent> {
    return GuestAgent.start(this[where]);
  }
}

function ip(...args: string[]): void {
  execFileSync('ip', args, { stdio: ['ignore', 'pipe', 'pipe'] });
}
