// Joins two sockets of the host: bytes both ways with back-pressure, an end as an end, a failure as a reset. For what never becomes a flow of
// the virtual network, such as a guest's vsock port. Each group is one forward's, and counts.

import type net from 'node:net';
import type { ForwardCounters } from './forward-spec.ts';

interface Pair {
  readonly client: net.Socket;
  target: net.Socket | undefined;
}

/** The way to the target of one client. Closes what it opened when it rejects; `signal` ends it early. */
export type Dial = (signal: AbortSignal) => Promise<net.Socket>;

/** Lets go of a socket: with a reset where it has one. */
export function drop(socket: net.Socket, isPipe: boolean): void {
  socket.on('error', () => {});
  if (socket.destroyed) return;
  if (isPipe || socket.connecting) socket.destroy();
  else socket.resetAndDestroy();
}

export class SocketRelays {
  #connections = 0;
  #refused = 0;
  #bytesToTarget = 0;
  #bytesToClient = 0;
  readonly #live = new Map<Pair, (reset: boolean) => void>();

  get counters(): ForwardCounters {
    let bytesToTarget = this.#bytesToTarget;
    let bytesToClient = this.#bytesToClient;
    for (const { client, target } of this.#live.keys()) {
      bytesToTarget += client.bytesRead;
      bytesToClient += target?.bytesRead ?? 0;
    }
    return {
      connections: this.#connections,
      active: this.#live.size,
      refused: this.#refused,
      bytesToTarget,
      bytesToClient,
    };
  }

  /**
   * Leads a client (paused, nothing of it read) to its target. Never throws.
   * @param clientIsPipe, targetIsPipe unix sockets, which know no reset.
   * @param header goes to the target before the client's first byte.
   */
  lead(client: net.Socket, clientIsPipe: boolean, dial: Dial, targetIsPipe: boolean, header?: Uint8Array): void {
    this.#connections++;
    const pair: Pair = { client, target: undefined };
    const abort = new AbortController();
    let over = false;
    const end = (reset: boolean): void => {
      if (over) return;
      over = true;
      abort.abort();
      const { target } = pair;
      this.#live.delete(pair);
      this.#bytesToTarget += client.bytesRead;
      this.#bytesToClient += target?.bytesRead ?? 0;
      if (!reset) return;
      drop(client, clientIsPipe);
      if (target !== undefined) drop(target, targetIsPipe);
    };
    this.#live.set(pair, end);
    client.on('error', () => end(true));
    client.on('close', () => {
      if (pair.target === undefined) end(true);
    });
    dial(abort.signal).then(
      (target) => {
        if (over) {
          drop(target, targetIsPipe);
          return;
        }
        pair.target = target;
        join(client, target, end);
        if (header !== undefined) target.write(header);
        client.pipe(target);
        target.pipe(client);
      },
      () => {
        if (!over) this.#refused++;
        end(true);
      },
    );
  }

  /** Resets every pair, dials that are under way included. */
  reset(): void {
    for (const end of [...this.#live.values()]) end(true);
  }
}

/** A pair is over when both have closed, or one of them failed. */
function join(client: net.Socket, target: net.Socket, end: (reset: boolean) => void): void {
  let open = 2;
  for (const socket of [client, target]) {
    socket.on('error', () => end(true));
    socket.on('close', () => {
      // Closed before it had said all: the other must not take that for an end.
      if (!socket.readableEnded) end(true);
      else if (--open === 0) end(false);
    });
  }
}
