// Where the guest's packets go next: one station of its own network, and who waits for its MAC. It resolves nothing itself.

import { copyMac } from '../ethernet/mac.ts';
import type { Connection } from '../tcp/connection.ts';

/** One station that packets are sent to: the router, or a neighbour. */
export class NextHop {
  /** int32. */
  readonly ip: number;
  readonly mac: Uint8Array = new Uint8Array(6);
  /** `mac` can be sent to. */
  known = false;
  /** It is being asked for. */
  resolving = false;
  /** Connections that wait for `mac`. */
  waiting: Connection[] = [];
  /** Others who wait: told whether `mac` is known now. */
  listeners: ((known: boolean) => void)[] = [];

  constructor(ip: number) {
    this.ip = ip;
  }

  learn(mac: Uint8Array, macOff: number): void {
    copyMac(mac, macOff, this.mac, 0);
    this.known = true;
    this.resolving = false;
    this.settle();
  }

  /** Resolution is over, one way or the other. */
  settle(): void {
    const listeners = this.listeners;
    this.listeners = [];
    for (const listener of listeners) listener(this.known);
  }
}
