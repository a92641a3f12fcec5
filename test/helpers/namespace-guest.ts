// A namespace with its agent: what most end-to-end tests hold as "the guest".

import type { Test } from 'tap';
import type { DaemonProcess } from '../../scripts/daemon/daemon-process.ts';
import { Agent } from './agent.ts';
import type { Operations } from './guest-agent.ts';
import { Namespace, type PlugOptions } from './namespace.ts';

/** The guest's fixed address in these tests, and the daemon's default ones. */
export const GUEST = '192.168.65.10';
export const GATEWAY = '192.168.65.1';
export const HOST_ALIAS = '192.168.65.254';

/** The other end of `guest-agent.ts`. */
export class GuestAgent extends Agent<Operations> {
  /** Starts the agent in a namespace. */
  static async start(namespace: Namespace): Promise<GuestAgent> {
    const agent = new GuestAgent(namespace, new URL('./guest-agent.js', import.meta.url));
    await agent.ready;
    return agent;
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
