// A real VM: a QEMU process whose only network card is a stream of frames on a unix socket.
// Owns the process, its serial lines and its plug; what runs inside is `image`'s and the caller's.

import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { createConnection, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Accel, chooseAccel, QEMU } from './accel.ts';
import { type CommandResult, Console } from './console.ts';
import type { VmImage } from './image.ts';
import { Reconnector } from './reconnector.ts';

/** How to boot a VM. */
export interface MachineOptions {
  readonly image: VmImage;
  /** The daemon's socket with QEMU framing. */
  readonly socket: string;
  /** MAC address of the card; QEMU's own default otherwise. */
  readonly mac?: string;
  /** Host name inside the VM and in its DHCP requests. */
  readonly name?: string;
  readonly memoryMiB?: number;
  /** The VM outlives the daemon, and connects again when it is back. */
  readonly reconnect?: boolean;
}

/** QEMU's version as [major, minor], or undefined where it is not installed. */
export function qemuVersion(): readonly [number, number] | undefined {
  try {
    const text = execFileSync(QEMU, ['--version'], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] });
    const found = /version (\d+)\.(\d+)/.exec(text);
    return found === null ? undefined : [Number(found[1]), Number(found[2])];
  } catch {
    return undefined;
  }
}

/** The `-netdev stream` option that makes QEMU itself reconnect, by version: none before 8.0, in seconds before 9.2. */
function reconnectOption([major, minor]: readonly [number, number]): string | undefined {
  if (major < 8) return undefined;
  return major > 9 || (major === 9 && minor >= 2) ? 'reconnect-ms=200' : 'reconnect=1';
}

async function connectTo(path: string, deadlineMs: number): Promise<Socket> {
  const end = performance.now() + deadlineMs;
  for (;;) {
    const socket = createConnection(path);
    const connected = await new Promise<boolean>((resolve) => {
      socket.once('connect', () => resolve(true));
      socket.once('error', () => resolve(false));
    });
    if (connected) return socket;
    if (performance.now() > end) throw new Error(`nobody answers on ${path}`);
    await sleep(20);
  }
}

/** VMs that nobody stopped: they end with this process. */
const running = new Set<ChildProcess>();
process.on('exit', () => {
  for (const child of running) child.kill('SIGKILL');
});

/** A running VM. */
export class Machine {
  readonly accel: Accel;
  /** Milliseconds from the start of QEMU to the guest's agent. */
  bootMs = 0;
  readonly #child: ChildProcess;
  readonly #folder: string;
  readonly #plug: Reconnector | undefined;
  #console: Console | undefined;
  #terminal: Socket | undefined;
  #log = '';
  readonly #exited: Promise<void>;

  private constructor(child: ChildProcess, folder: string, plug: Reconnector | undefined, accel: Accel) {
    this.#child = child;
    this.#folder = folder;
    this.#plug = plug;
    this.accel = accel;
    running.add(child);
    this.#exited = new Promise((resolve) => {
      child.once('exit', () => {
        running.delete(child);
        resolve();
      });
    });
    child.stderr?.on('data', (chunk: Buffer) => this.#note(chunk));
  }

  /** Boots a VM and waits until it takes commands. */
  static async boot(options: MachineOptions, limitMs = 90_000): Promise<Machine> {
    const version = qemuVersion();
    if (version === undefined) throw new Error(`${QEMU} is not installed`);
    const accel = await chooseAccel(options.image);
    const folder = mkdtempSync(join(tmpdir(), 'isthmus-vm-'));
    const reconnect = options.reconnect === true ? reconnectOption(version) : undefined;
    const ownPlug = options.reconnect === true && reconnect === undefined;
    const plug = ownPlug ? await Reconnector.listen(join(folder, 'net'), options.socket) : undefined;
    const path = plug === undefined ? options.socket : join(folder, 'net');
    const stream = `stream,id=n0,server=off,addr.type=unix,addr.path=${path}`;
    const card = 'virtio-net-pci,netdev=n0';
    const line = (id: string): string[] => ['-chardev', `socket,id=${id},path=${folder}/${id},server=on,wait=off`];
    const append = `console=ttyS0 quiet loglevel=3 panic=-1 random.trust_cpu=on isthmus.name=${options.name ?? 'guest'}`;
    const args = [
      ...['-accel', accel, '-m', String(options.memoryMiB ?? 384), '-nodefaults', '-display', 'none', '-no-reboot'],
      ...['-kernel', options.image.kernel, '-initrd', options.image.initrd, '-append', append],
      ...[...line('tty'), '-serial', 'chardev:tty', ...line('cmd'), '-serial', 'chardev:cmd'],
      ...['-netdev', reconnect === undefined ? stream : `${stream},${reconnect}`],
      ...['-device', options.mac === undefined ? card : `${card},mac=${options.mac}`],
    ];
    const started = performance.now();
    const child = spawn(QEMU, args, { stdio: ['ignore', 'ignore', 'pipe'] });
    const machine = new Machine(child, folder, plug, accel);
    try {
      await machine.#bringUp(limitMs);
    } catch (error) {
      await machine.stop();
      throw new Error(`the VM did not come up: ${(error as Error).message}\n${machine.log.slice(-2000)}`);
    }
    machine.bootMs = performance.now() - started;
    return machine;
  }

  async #bringUp(limitMs: number): Promise<void> {
    const failed = new Promise<never>((_, reject) => {
      this.#child.once('error', reject);
      this.#child.once('exit', (code, signal) => reject(new Error(`QEMU ended (${signal ?? code})`)));
      setTimeout(() => reject(new Error(`not ready within ${limitMs} ms`)), limitMs).unref();
    });
    failed.catch(() => {});
    const up = async (): Promise<void> => {
      this.#terminal = await connectTo(join(this.#folder, 'tty'), 10_000);
      this.#terminal.on('data', (chunk: Buffer) => this.#note(chunk));
      this.#terminal.on('error', () => {});
      this.#console = new Console(await connectTo(join(this.#folder, 'cmd'), 10_000));
      await this.#console.ready;
    };
    await Promise.race([up(), failed]);
  }

  #note(chunk: Buffer): void {
    this.#log = (this.#log + chunk.toString('latin1')).slice(-64 * 1024);
  }

  /** The last 64 KiB of what the VM and QEMU printed. */
  get log(): string {
    return this.#log;
  }

  /** The process id of QEMU. */
  get pid(): number {
    return this.#child.pid!;
  }

  /** Runs a bash script in the guest. */
  run(script: string, timeoutMs?: number): Promise<CommandResult> {
    if (this.#console === undefined) return Promise.reject(new Error('the VM is not up'));
    return this.#console.run(script, timeoutMs);
  }

  /** The first serial line, where a shell is. */
  get terminal(): Socket {
    return this.#terminal!;
  }

  /** Settles when QEMU has ended. */
  get exited(): Promise<void> {
    return this.#exited;
  }

  /** Ends the VM at once, as a power cut does. */
  async stop(): Promise<void> {
    if (this.#child.exitCode === null && this.#child.signalCode === null && this.#child.pid !== undefined) {
      this.#child.kill('SIGKILL');
      await this.#exited;
    }
    this.#terminal?.destroy();
    this.#plug?.close();
    if (existsSync(this.#folder)) rmSync(this.#folder, { recursive: true, force: true });
  }
}
