// One open forward of streams: its listeners on the host, and the way from each to the target: a guest's TCP port, a guest's vsock port, or,
// for what guests dial by vsock, a socket of the host.

import type { Arrival } from '../host/stream.ts';
import type { OpenForward } from './forward-opener.ts';
import type { CheckedForward, ForwardCounters } from './forward-spec.ts';
import { GuestStreams, type GuestStreamsOptions } from './guest-stream.ts';
import { dialHost } from './host-dial.ts';
import type { HostListener, ListenerOwner } from './host-listener.ts';
import { dialVsock } from './hybrid-vsock.ts';
import { proxyHeader } from './proxy-protocol.ts';
import { SocketRelays } from './socket-relay.ts';

export class StreamForward implements OpenForward {
  readonly #guests: GuestStreams;
  readonly #relays = new SocketRelays();
  readonly #listeners: HostListener[] = [];
  #spec: CheckedForward;
  #bound: readonly string[] = [];

  constructor(options: GuestStreamsOptions, spec: CheckedForward) {
    this.#guests = new GuestStreams(options);
    this.#spec = spec;
  }

  /**
   * Opens its listeners, one after the other; all or none.
   * @param count how many. @param listen opens the one of this number, from 0 up.
   * @throws what `listen` throws
   */
  async open(count: number, listen: (index: number, owner: ListenerOwner) => Promise<HostListener>): Promise<this> {
    try {
      for (let i = 0; i < count; i++) {
        this.#listeners.push(
          await listen(i, {
            onClient: (arrival, isPipe) => this.#onClient(arrival, isPipe, i),
            onAcceptFailed: () => this.#guests.failed(),
          }),
        );
      }
    } catch (error) {
      this.close();
      throw error;
    }
    this.#bound = this.#listeners.map((l) => l.bound);
    return this;
  }

  get bound(): readonly string[] {
    return this.#bound;
  }

  get counters(): ForwardCounters {
    const a = this.#guests.counters;
    const b = this.#relays.counters;
    return {
      connections: a.connections + b.connections,
      active: a.active + b.active,
      refused: a.refused + b.refused,
      bytesToTarget: a.bytesToTarget + b.bytesToTarget,
      bytesToClient: a.bytesToClient + b.bytesToClient,
    };
  }

  retarget(spec: CheckedForward): void {
    this.#spec = spec;
  }

  close(): void {
    for (const listener of this.#listeners.splice(0)) listener.close();
    this.#guests.close();
  }

  reset(): void {
    this.#guests.reset();
    this.#relays.reset();
  }

  #onClient(arrival: Arrival, isPipe: boolean, index: number): void {
    const { target, client } = this.#spec;
    switch (target.kind) {
      case 'guest':
        this.#guests.lead(arrival, isPipe, target, client, index);
        return;
      case 'vsock': {
        const header = proxyHeader(client, 'tcp', arrival);
        this.#relays.lead(arrival.socket(), isPipe, (signal) => dialVsock(target, index, signal), true, header);
        return;
      }
      default:
        this.#relays.lead(
          arrival.socket(),
          isPipe,
          (signal) => dialHost(target, index, signal),
          target.kind === 'unix',
        );
    }
  }
}
