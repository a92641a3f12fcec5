// A namespace with its agent: what most end-to-end tests hold as "the guest".

import type { ChildProcess } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import type { Test } from 'tap';
import type { DaemonProcess } from '../../scripts/daemon/daemon-process.ts';
import { WITHOUT_HOOKS } from '../../scripts/daemon/ordinary-user.ts';
import type { Operations } from './guest-agent.ts';
import { Namespace, type PlugOptions } from './namespace.ts';

/** The guest's fixed address in these tests, and the daemon's default ones. */
export const GUEST = '192.168.65.10';
export const GATEWAY = '192.168.65.1';
export const HOST_ALIAS = '192.168.65.254';

interface Waiter {
  readonly resolve: (value: never) => void;
  readonly reject: (error: Error) => void;
}

/** The other end of `guest-agent.ts`. */
export class GuestAgent {
  readonly #child: ChildProcess;
  readonly #waiters = new Map<number, Waiter>();
  #nextId = 1;

  private constructor(child: ChildProcess) {
    this.#child = child;
    child.on('message', (message: { id: number; result?: unknown; error?: string }) => {
      const waiter = this.#waiters.get(message.id);
      this.#waiters.delete(message.id);
      if (message.error !== undefined) waiter?.reject(new Error(message.error));
      else waiter?.resolve(message.result as never);
    });
    child.once('exit', (code, signal) => {
      for (const waiter of this.#waiters.values())
        waiter.reject(new Error(`the guest's agent has ended (${signal ?? code})`));
      this.#waiters.clear();
    });
  }

  /** Starts the agent in a namespace. */
  static start(namespace: Namespace): Promise<GuestAgent> {
    const program = fileURLToPath(new URL('./guest-agent.js', import.meta.url));
    const child = namespace.spawn('env', [...WITHOUT_HOOKS, process.execPath, program], { ipc: true });
    child.stderr!.on('data', (chunk: Buffer) => process.stderr.write(chunk));
    const agent = new GuestAgent(child);
    return new Promise((resolve, reject) => {
      agent.#waiters.set(0, { resolve: () => resolve(agent), reject });
    });
  }

  /** Runs one operation inside the namespace. */
  call<K extends keyof Operations>(
    operation: K,
    ...args: Parameters<Operations[K]>
  ): Promise<Awaited<ReturnType<Operations[K]>>> {
    return new Promise((resolve, reject) => {
      const id = this.#nextId++;
      this.#waiters.set(id, { resolve: resolve as (value: never) => void, reject });
      this.#child.send({ id, operation, args }, (error) => {
        if (error !== null) reject(error);
      });
    });
  }
}

/** A plugged namespace with the fixed address and an agent. */
export class NamespaceGuest {
  readonly namespace: Namespace;
  readonly agent: GuestAgent;

  private constructor(namespace: Namespace, agent: GuestAgent) {
    this.namespace = namespace;
    this.agent = agent;
  }

  /** Starts a guest that ends with the test, however that ends. */
  static async start(
    test: Test,
    daemon: DaemonProcess,
    options: Omit<PlugOptions, 'socket'> & { readonly address?: string },
  ): Promise<NamespaceGuest> {
    const namespace = Namespace.make();
    try {
      await namespace.plug({ ...options, socket: daemon.vmSocket });
      namespace.address(`${options.address ?? GUEST}/24`, GATEWAY);
      const guest = new NamespaceGuest(namespace, await GuestAgent.start(namespace));
      test.teardown(() => guest.close());
      return guest;
    } catch (error) {
      await namespace.close();
      throw error;
    }
  }

  /** Ends it. Idempotent. */
  close(): Promise<void> {
    return this.namespace.close();
  }
}
