// Stands between a VM's port and both its sides while somebody listens to its frames (a live capture), and at no other time. It changes
// nothing of what passes.

import type { Millis } from '../base/clock.ts';
import type { Egress } from './ports.ts';
import type { PortOwner, VmPort } from './vm-port.ts';

/** Hears every frame of a VM. The bytes are valid until the call returns. */
export interface FrameListener {
  onFrame(port: VmPort, toGuest: boolean, buf: Uint8Array, off: number, len: number): void;
}

export class PortTap implements Egress, PortOwner {
  readonly listeners: Set<FrameListener> = new Set();
  readonly egress: Egress;
  readonly owner: PortOwner;
  readonly #port: VmPort;
  readonly #mem: Uint8Array;

  /** @param mem the packet memory, in which frames to the guest are made. */
  constructor(port: VmPort, egress: Egress, owner: PortOwner, mem: Uint8Array) {
    this.#port = port;
    this.egress = egress;
    this.owner = owner;
    this.#mem = mem;
  }

  // --- To the guest.

  reserve(len: number, bulk?: boolean): number {
    return this.egress.reserve(len, bulk);
  }

  commit(off: number, len: number): void {
    for (const l of this.listeners) l.onFrame(this.#port, true, this.#mem, off, len);
    this.egress.commit(off, len);
  }

  flush(): void {
    this.egress.flush();
  }

  close(reason: string): void {
    this.egress.close(reason);
  }

  // --- From the guest.

  onFrame(port: VmPort, buf: Uint8Array, off: number, len: number, now: Millis): void {
    for (const l of this.listeners) l.onFrame(port, false, buf, off, len);
    this.owner.onFrame(port, buf, off, len, now);
  }

  /** Takes no frames in together, so that each is heard. */
  onRun(): number {
    return 0;
  }

  onEndTurn(now: Millis): void {
    this.owner.onEndTurn(now);
  }

  onWritable(port: VmPort, now: Millis): void {
    this.owner.onWritable(port, now);
  }

  onClose(port: VmPort, now: Millis): void {
    this.owner.onClose(port, now);
  }
}
