// A whole network in this process for tests: the daemon's network on a unix socket in a temporary directory, embedded guests on
// it, and a look at what it holds.

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Test } from 'tap';
import { parseCommand } from '../../src/daemon/cli.ts';
import { loadConfig } from '../../src/daemon/config.ts';
import type { Log } from '../../src/daemon/log.ts';
import { createNetwork } from '../../src/daemon/network.ts';
import type { NetworkService, ReadyPort } from '../../src/daemon/network-api.ts';
import { EmbeddedGuest, type EmbeddedGuestOptions } from '../../src/guest/embedded-guest.ts';
import type { GuestSocket } from '../../src/guest/guest-socket.ts';

export const GATEWAY = '192.168.65.1';
export const HOST = '192.168.65.254';

/** Keeps what was logged. */
export class TestLog implements Log {
  readonly lines: { level: string; event: string; fields: Record<string, unknown>; message: string }[] = [];
  readonly trace = (): void => {};
  readonly debug = (): void => {};
  readonly info = (fields: object, message: string): void => this.#add('info', fields, message);
  readonly warn = (fields: object, message: string): void => this.#add('warn', fields, message);
  readonly error = (fields: object, message: string): void => this.#add('error', fields, message);
  readonly fatal = (fields: object, message: string): void => this.#add('fatal', fields, message);

  child(): Log {
    return this;
  }

  isLevelEnabled(): boolean {
    return false;
  }

  #add(level: string, fields: object, message: string): void {
    const record = fields as Record<string, unknown>;
    this.lines.push({ level, event: String(record.event), fields: record, message });
  }
}

/** What must be back at its start once everything has ended. */
export interface Holdings {
  readonly flows: number;
  readonly opening: number;
  readonly sockets: number;
  readonly udpFlows: number;
  readonly timers: number;
  readonly timeWaits: number;
  readonly slab: number;
  readonly vms: number;
}

export class Rig {
  readonly dir: string;
  readonly log = new TestLog();
  readonly guests: EmbeddedGuest[] = [];
  network!: NetworkService;
  publish: readonly ReadyPort[] = [];

  private constructor() {
    this.dir = mkdtempSync(join(tmpdir(), 'isthmus-guest-'));
  }

  get qemu(): string {
    return join(this.dir, 'qemu.sock');
  }

  get vpnkit(): string {
    return join(this.dir, 'vpnkit.sock');
  }

  /** Starts a network with a qemu and a vpnkit socket; it ends with the test. @param args further options of `isthmus run`. */
  static async start(t: Test, args: readonly string[] = []): Promise<Rig> {
    const rig = new Rig();
    writeFileSync(join(rig.dir, 'hosts'), '10.9.8.7 printer.example\n');
    writeFileSync(join(rig.dir, 'resolv.conf'), 'nameserver 127.0.0.1\nsearch corp.example lab.example\n');
    const argv = ['run', '--vm', `qemu:${rig.qemu}`, '--vm', `vpnkit:${rig.vpnkit}`, '--strict'];
    argv.push('--state-dir', 'none', '--hosts', join(rig.dir, 'hosts'), '--resolv-conf', join(rig.dir, 'resolv.conf'));
    const command = parseCommand([...argv, ...args]);
    if (command.kind !== 'run') throw new Error('not a run command');
    const { config } = await loadConfig({ flags: command.flags, env: {}, uid: process.getuid?.() ?? 0 });
    rig.network = createNetwork(config, rig.log);
    t.teardown(() => rig.stop());
    rig.publish = (await rig.network.start()).publish;
    return rig;
  }

  /** A guest without an address. */
  async plug(options: Partial<EmbeddedGuestOptions> = {}): Promise<EmbeddedGuest> {
    const path = options.framing === 'vpnkit' ? this.vpnkit : this.qemu;
    const guest = await EmbeddedGuest.connect({ path, ...options });
    this.guests.push(guest);
    return guest;
  }

  /** A guest with an address. */
  async guest(options: Partial<EmbeddedGuestOptions> = {}): Promise<EmbeddedGuest> {
    const guest = await this.plug(options);
    await guest.dhcp();
    return guest;
  }

  /** Sum of a metric over its samples. */
  metric(name: string): number {
    const metric = this.network.stats().metrics.find((m) => m.name === `isthmus_${name}`);
    if (metric === undefined) throw new Error(`no metric ${name}`);
    const value = metric.read();
    return typeof value === 'number' ? value : value.reduce((sum, s) => sum + s.value, 0);
  }

  /** A drop counter. */
  drops(reason: string): number {
    const metric = this.network.stats().metrics.find((m) => m.name === 'isthmus_dropped_total');
    const samples = metric?.read();
    return typeof samples === 'object' ? (samples.find((s) => s.labels.reason === reason)?.value ?? 0) : 0;
  }

  holdings(): Holdings {
    return {
      flows: this.metric('tcp_flows'),
      opening: this.metric('tcp_flows_opening'),
      sockets: this.metric('tcp_host_sockets'),
      udpFlows: this.metric('udp_flows'),
      timers: this.metric('timers'),
      timeWaits: this.metric('tcp_time_waits'),
      slab: this.metric('slab_used_bytes'),
      vms: this.metric('vms'),
    };
  }

  /** Resolves once `holds` is true; rejects after `timeoutMs` with what `holds` depends on. */
  async until(holds: () => boolean, what: string, timeoutMs = 5000): Promise<void> {
    const deadline = performance.now() + timeoutMs;
    while (!holds()) {
      if (performance.now() > deadline) {
        throw new Error(`not in ${timeoutMs} ms: ${what}; ${JSON.stringify(this.holdings())}`);
      }
      await sleep(2);
    }
  }

  async stop(): Promise<void> {
    for (const guest of this.guests) await guest.close();
    await this.network.stop(1000);
    rmSync(this.dir, { recursive: true, force: true });
  }
}

/** Everything up to the peer's FIN; the stream can still be written to. @throws what the stream fails with. */
export async function readAll(socket: GuestSocket): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of socket.iterator({ destroyOnReturn: false })) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks);
}

/** The `code` that a promise is rejected with; '' if it is not. */
export async function codeOf(promise: Promise<unknown>): Promise<string> {
  try {
    await promise;
    return '';
  } catch (error) {
    return (error as NodeJS.ErrnoException).code ?? String(error);
  }
}
